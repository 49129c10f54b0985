"""Bytes to payload: the plain values that a body says, the same for JSON and XML."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from functools import lru_cache
from typing import Any
from typing import NamedTuple

from werkzeug.http import parse_options_header

from ..errors import UnsupportedMediaType
from .json_body import check_structure
from .json_body import parse_json
from .json_body import with_storable_texts
from .text import is_utf8
from .text import read_exactly
from .text import read_text
from .xml_body import parse_xml

_JSON = re.compile(r"application/(.+\+)?json", re.IGNORECASE)
_XML = re.compile(r"text/xml|application/(.+\+)?xml", re.IGNORECASE)

# Before the first character can be byte order marks, zero bytes of UTF-16 and UTF-32, and space.
_FIRST_CHARACTER = re.compile(rb'[\xef\xbb\xbf\xfe\xff\0\s]*([<{\["])')

_REMEMBERED_CHARACTERS = 100


def decode(body: bytes, content_type: str | None) -> Any:
    """Turn the body of a callback into plain Python values, with what spoils it mended.

    Numbers that are not whole become :class:`~decimal.Decimal`, so that no digit is lost. XML
    comes out as the JSON of the same report does: elements by their local name, an empty one as
    ``""``, ``xsi:nil`` as ``None``, repeated ones as a list. Every string can be stored: what no
    database takes, or XML has no character for, is U+FFFD.

    :param body: the bytes as they came.
    :param content_type: the ``Content-Type`` header: any media type of JSON or XML, with or
        without ``charset``. Of another one, or without, the first character decides.
    :return: a dict, where the sender does as the specification says.
    :raises UnsupportedMediaType: neither of the two is one of JSON or XML.
    :raises MalformedBody: the text cannot be read, is not well formed, declares a DTD or an
        entity, is nested too deep, or has a tag of more than 10,000 bytes.
    """
    is_xml, charset = _format(body, content_type)
    if is_xml:
        data = body.removeprefix(BOM_UTF8).rstrip(b"\0 \t\r\n")
        if not (data.startswith(b"<") and is_utf8(data)):
            data = read_text(body, is_xml=True, charset=charset).lstrip().encode()
        return parse_xml(data)
    text = read_text(body, is_xml=False, charset=charset)
    payload = parse_json(text)
    check_structure(payload, text)
    return with_storable_texts(payload, text)


class Exact(NamedTuple):
    """The text of a body, to be changed in places."""

    is_xml: bool
    """Otherwise it is JSON."""
    text: str
    """All of it: what stands around the document, too."""
    encoding: str
    errors: str
    """The handler with which the encoding gives the bytes as they came."""


def exact_text(body: bytes, content_type: str | None) -> Exact:
    """The text that :func:`decode` reads, with what is needed to write it again.

    :raises CallbackError: it cannot be read.
    """
    is_xml, charset = _format(body, content_type)
    return Exact(is_xml, *read_exactly(body, is_xml=is_xml, charset=charset))


def json_document(body: bytes, content_type: str | None) -> bytes | None:
    """A body of JSON that any strict parser reads as :func:`decode` does, or ``None``.

    :param body: the bytes as they came.
    :param content_type: the ``Content-Type`` header.
    :return: the body without a byte order mark, if no text in it has a NUL. A parser that is
        strict refuses what is not UTF-8.
    """
    if b"\\" in body and b"\\u0000" in body:  # the first alone takes a fraction of the time
        return None
    try:
        is_xml, _ = _format(body, content_type)
    except UnsupportedMediaType:
        return None
    return None if is_xml else body.removeprefix(BOM_UTF8)


def is_named(content_type: str | None) -> bool:
    """Whether a content type is one of JSON or XML, which no form of a browser can send."""
    return _media_type(content_type)[0] is not None


def _format(body: bytes, content_type: str | None) -> tuple[bool, str | None]:
    """Whether a body is XML, otherwise JSON, and the ``charset``."""
    # What is remembered of a sender has to be bounded.
    remembered = len(content_type or "") <= _REMEMBERED_CHARACTERS
    is_xml, charset = (_media_type if remembered else _media_type.__wrapped__)(content_type)
    if is_xml is None:
        first = _FIRST_CHARACTER.match(body)
        if first is None:
            raise UnsupportedMediaType(
                "The content type must be application/json or application/xml, and the body is"
                " neither by its first character; ANTS sends what the notifyContentType of the Send"
                " request asks for."
            )
        is_xml = first[1] == b"<"
    return is_xml, charset


@lru_cache(maxsize=64)
def _media_type(content_type: str | None) -> tuple[bool | None, str | None]:
    """Whether it is XML, or JSON, or ``None`` for neither, and the ``charset``."""
    media_type, parameters = parse_options_header(content_type)
    is_xml = _XML.fullmatch(media_type) is not None
    is_json = _JSON.fullmatch(media_type) is not None
    return is_xml if is_xml or is_json else None, parameters.get("charset")
