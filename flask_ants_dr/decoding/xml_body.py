"""XML to payload: the same values that the JSON of the same report gives."""

from __future__ import annotations

import re
from typing import Any
from xml.parsers.expat import ErrorString
from xml.parsers.expat import ExpatError
from xml.parsers.expat import ParserCreate
from xml.parsers.expat import XMLParserType
from xml.parsers.expat import errors
from xml.parsers.expat.errors import codes

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ..errors import MalformedBody
from .limits import MAX_DEPTH
from .limits import has_gap
from .limits import too_deep
from .text import join_surrogates

# From defusedxml come the handlers that refuse a DTD and entities. Its own parser builds a tree.
_DEFUSED = DefusedXMLParser(target=object(), forbid_dtd=True).parser
_PROTECTIONS = {
    name: handler
    for name in dir(_DEFUSED)
    if name.endswith("Handler") and (handler := getattr(_DEFUSED, name))
}

_NIL = "http://www.w3.org/2001/XMLSchema-instance}nil"

# The parser holds a whole tag at once, its attributes at many times their size. A tag of ANTS has
# none but namespaces and xsi:nil. In a tag is no "<", and ">" only where it is quoted.
_MAX_TAG_BYTES = 10_000
_BEFORE_MUCH = re.compile(rb"<(?=[^<]{%d})(?![!?])" % _MAX_TAG_BYTES)
_TAG = re.compile(rb"""<(?:[^<>"']++|"[^<"]*+(?:"|\Z)|'[^<']*+(?:'|\Z))*+""")

# An error in a handler stops the parser only at the end of what it has been given.
_CHUNK_BYTES = 196_608

# What there is to mend makes a document "not well-formed", or a reference one to no character or to
# an entity that is not defined.
_CURABLE = {
    codes[errors.XML_ERROR_INVALID_TOKEN],
    codes[errors.XML_ERROR_BAD_CHAR_REF],
    codes[errors.XML_ERROR_UNDEFINED_ENTITY],
}
_MAX_REPAIRS = 20_000
_REPLACEMENT = "\ufffd".encode()
_NO_CHARACTER = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
# In a comment, a CDATA section or a processing instruction "&" means nothing. One that is not
# closed reaches to the end, so that no other is looked for in it.
_REFERENCE = re.compile(
    rb"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<\?.*?(?:\?>|\Z)"
    rb"|&#0*(?P<decimal>[0-9]{1,7});|&#x0*(?P<hex>[0-9a-fA-F]{1,6});"
    rb"|&(?!(?:amp|apos|gt|lt|quot);)",
    re.DOTALL,
)
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")


def parse_xml(data: bytes) -> Any:
    """Parse XML with defusedxml.

    Names lose their namespace, attributes other than ``xsi:nil`` are passed over, and so are
    comments, processing instructions and text between elements. A document that is not well formed
    is mended, once.

    :param data: the body in UTF-8, whatever its declaration says.
    :return: what the root element holds: a dict for elements, else a string. ``details`` is the
        list that it is in JSON.
    :raises MalformedBody: it is not XML, declares a DTD or an entity, is nested more than 32
        levels deep, or has a tag of more than 10,000 bytes.
    """
    if _has_long_tag(data):
        raise MalformedBody(f"The body has a tag of over {_MAX_TAG_BYTES:,} bytes.")
    try:
        payload = _parse(data)
    except ExpatError as error:
        payload = _parse_mended(data) if error.code in _CURABLE else None
        if payload is None:
            raise MalformedBody(
                f"The body is not XML: {ErrorString(error.code)}, line {error.lineno},"
                f" column {error.offset + 1}."
            ) from None
    if isinstance(payload, dict) and "details" in payload:
        payload["details"] = _details(payload["details"])
    return payload


def _parse(data: bytes) -> Any:
    """:raises ExpatError: it is not well formed."""
    parser = ParserCreate("utf-8", "}")  # which stands between a namespace and a name
    parser.ordered_attributes = parser.buffer_text = True
    for name, refuse in _PROTECTIONS.items():
        setattr(parser, name, refuse)
    members: dict[str, Any] = {}
    _build(parser, members)
    try:
        for position in range(0, len(data) or 1, _CHUNK_BYTES):
            end = position + _CHUNK_BYTES
            parser.Parse(memoryview(data)[position:end], end >= len(data))
    except DefusedXmlException:
        raise MalformedBody("The body declares a DTD or an entity; send plain XML.") from None
    finally:
        # They and the parser refer to each other, too.
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = None
    (payload,) = members.values()
    return payload


def _parse_mended(data: bytes) -> dict[str, Any] | None:
    """What a document holds once it is mended, or ``None`` where that makes no report of it."""
    mended = _mend(data)
    if mended is None or mended == data:
        return None
    try:
        payload = _parse(mended)
    except ExpatError:
        return None
    return payload if isinstance(payload, dict) else None


def _mend(data: bytes) -> bytes | None:
    """A document with U+FFFD for the characters that XML has not, and ``&amp;`` for a bare ``&``.

    .NET's serializers write such characters as references (``&#x1F;``), and a surrogate of a pair
    each; programs that write XML without a library forget to escape.

    :return: ``None`` where there is more to mend than a callback has of it.
    """
    mended, characters = _NO_CHARACTER.subn(_REPLACEMENT, data, _MAX_REPAIRS)
    mended, references = _REFERENCE.subn(_mended_reference, mended, _MAX_REPAIRS)
    if _MAX_REPAIRS in {characters, references}:
        return None
    if _SURROGATE.search(mended):
        mended = join_surrogates(mended.decode("utf-8", "surrogatepass")).encode()
    return mended


def _mended_reference(reference: re.Match[bytes]) -> bytes:
    decimal, hexadecimal = reference["decimal"], reference["hex"]
    if decimal is None and hexadecimal is None:
        return b"&amp;" if reference[0] == b"&" else reference[0]
    number = int(decimal) if decimal else int(hexadecimal, 16)
    if 0xD800 <= number <= 0xDFFF:
        return chr(number).encode("utf-8", "surrogatepass")
    is_character = number in {9, 10, 13} or 0x20 <= number <= 0x10FFFF
    return reference[0] if is_character and number not in {0xFFFE, 0xFFFF} else _REPLACEMENT


def _build(parser: XMLParserType, members: dict[str, Any]) -> None:
    """Have a parser add to ``members`` what it reads, tag by tag."""
    # The members are those of the innermost element that has some. An element that was opened and
    # nothing more is a leaf until another is opened in it: then it has a text.
    outer: list[dict[str, Any]] = []
    text: Any = None
    is_nil: Any = False

    def start(name: str, attributes: list[str]) -> None:
        nonlocal members, text, is_nil
        if text is not None:
            outer.append(members)
            if len(outer) >= MAX_DEPTH:
                raise too_deep()
            members = {}
        text = ""
        is_nil = attributes and _is_nil(attributes)
        parser.CharacterDataHandler = characters

    def characters(part: str) -> None:
        nonlocal text
        text += part

    def end(name: str) -> None:
        nonlocal members, text
        value: Any
        # What stands between elements, mostly indentation, costs nothing then.
        parser.CharacterDataHandler = None
        if text is None:
            value = members
            members = outer.pop()
        else:
            value = None if is_nil else text
            text = None
        if "}" in name:
            name = name.rpartition("}")[2]
        if name not in members:
            members[name] = value
        elif isinstance(members[name], list):
            members[name].append(value)
        else:
            members[name] = [members[name], value]

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.buffer_size = _CHUNK_BYTES  # so that a text comes in few parts, if in any


def _has_long_tag(data: bytes) -> bool:
    if not has_gap(data, b"<", _MAX_TAG_BYTES // 2):
        return False
    starts = (found.start() for found in _BEFORE_MUCH.finditer(data))
    tags = (_TAG.match(data, start, start + _MAX_TAG_BYTES + 1) for start in starts)
    return any(len(tag[0]) > _MAX_TAG_BYTES for tag in tags if tag)


def _is_nil(attributes: list[str]) -> bool:
    named = dict(zip(attributes[::2], attributes[1::2], strict=True))
    return named.get(_NIL, "").strip() in {"true", "1"}


def _details(value: Any) -> Any:
    """``<details>`` as a list, whether it holds ``<detail>`` elements, is one, or is repeated."""
    if value is None:
        return None
    details: list[Any] = []
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, dict) and element.keys() == {"detail"}:
            element = element["detail"]
        if isinstance(element, list):
            details += element
        elif not isinstance(element, str) or element.strip():
            details.append(element)
    return details
