"""Bytes to payload: the plain values that a body says, the same for JSON and XML."""

from __future__ import annotations

import re
from typing import Any

from werkzeug.http import parse_options_header

from ..errors import UnsupportedMediaType
from .json_body import parse_json
from .text import read_text
from .xml_body import declared_encoding
from .xml_body import parse_xml

_JSON = re.compile(r"application/(.+\+)?json", re.IGNORECASE)
_XML = re.compile(r"text/xml|application/(.+\+)?xml", re.IGNORECASE)


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
        entity, or is nested too deep.
    """
    media_type, parameters = parse_options_header(content_type)
    charset = parameters.get("charset")
    if _JSON.fullmatch(media_type):
        return parse_json(read_text(body, declared=None, charset=charset))
    if _XML.fullmatch(media_type):
        return parse_xml(read_text(body, declared=declared_encoding(body), charset=charset))
    raise UnsupportedMediaType(
        "The content type must be application/json or application/xml; ANTS sends what the"
        " notifyContentType of the Send request asks for."
    )
