"""Bytes to payload: the plain values that a body says, the same for JSON and XML."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from werkzeug.http import parse_options_header

from ..errors import MalformedBody
from ..errors import UnsupportedMediaType
from .json_body import check_structure
from .json_body import parse_json
from .text import is_utf8
from .text import read_text
from .xml_body import parse_xml

_JSON = re.compile(r"application/(.+\+)?json", re.IGNORECASE)
_XML = re.compile(r"text/xml|application/(.+\+)?xml", re.IGNORECASE)

_USUAL_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Payload:
    """What a body says, as :func:`decode` gives it, and what is known of it."""

    value: Any
    storable: bool
    """Whether every string in it is known to have no NUL and no lone surrogate."""
    characters: int | None
    """Of how many it was made, where its structure has not been looked at."""

    def check_structure(self) -> None:
        """Look at what takes time and, of a valid report, is known to be good anyway.

        :raises MalformedBody: it is nested too deep, or has far more values than a delivery report
            of its size.
        """
        if self.characters is not None:
            check_structure(self.value, self.characters)


def decode(body: bytes, content_type: str | None) -> Any:
    """Turn the body of a callback into plain Python values.

    Numbers that are not whole become :class:`~decimal.Decimal`, so that no digit is lost. XML
    comes out as the JSON of the same report does: elements by their local name, an empty one as
    ``""``, ``xsi:nil`` as ``None``, repeated ones as a list.

    :param body: the bytes as they came.
    :param content_type: the ``Content-Type`` header: any media type of JSON or XML, with or
        without ``charset``.
    :return: a dict, where the sender does as the specification says.
    :raises UnsupportedMediaType: the content type is missing, or neither JSON nor XML.
    :raises MalformedBody: the text cannot be read, is not well formed, declares a DTD or an
        entity, is nested too deep, or has a tag of more than 10,000 bytes.
    """
    payload = parse(body, content_type)
    payload.check_structure()
    return payload.value


def parse(body: bytes, content_type: str | None) -> Payload:
    """Do what :func:`decode` does, but for the structure of JSON, which nobody has checked yet."""
    # What is remembered of a sender has to be bounded.
    remembered = len(content_type or "") <= _USUAL_CHARACTERS
    is_xml, charset = (_media_type if remembered else _media_type.__wrapped__)(content_type)
    if is_xml:
        data = body.removeprefix(BOM_UTF8)
        if not (data.startswith(b"<") and is_utf8(data)):
            text, _ = read_text(body, is_xml=True, charset=charset)
            data = _utf8(text.lstrip())
        return Payload(parse_xml(data), storable=True, characters=None)
    text, encoding = read_text(body, is_xml=False, charset=charset)
    # JSON has control characters only as escapes.
    storable = encoding is not None and "\\" not in text
    return Payload(parse_json(text), storable, characters=len(text))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MalformedBody("The body is not XML: it has a lone surrogate.") from None


@lru_cache(maxsize=64)
def _media_type(content_type: str | None) -> tuple[bool, str | None]:
    """Whether it is XML, otherwise JSON, and the ``charset``."""
    media_type, parameters = parse_options_header(content_type)
    is_xml = _XML.fullmatch(media_type) is not None
    if is_xml or _JSON.fullmatch(media_type):
        return is_xml, parameters.get("charset")
    raise UnsupportedMediaType(
        "The content type must be application/json or application/xml; ANTS sends what the"
        " notifyContentType of the Send request asks for."
    )
