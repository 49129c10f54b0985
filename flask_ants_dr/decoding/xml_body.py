"""XML to payload: the same values that the JSON of the same report gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.parsers.expat import ErrorString
from xml.parsers.expat import ExpatError
from xml.parsers.expat import XMLParserType

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ..errors import MalformedBody
from .limits import MAX_DEPTH
from .limits import has_gap
from .limits import too_deep
from .plain_xml import add
from .plain_xml import plain_root
from .plain_xml import read_plain

_NIL = "http://www.w3.org/2001/XMLSchema-instance}nil"

# The parser holds a whole tag at once, its attributes at many times their size. A tag of ANTS has
# none but namespaces and xsi:nil. In a tag is no "<", and ">" only where it is quoted.
_MAX_TAG_BYTES = 10_000
_BEFORE_MUCH = re.compile(rb"<(?=[^<]{%d})(?![!?])" % _MAX_TAG_BYTES)
_TAG = re.compile(rb"""<(?:[^<>"']++|"[^<"]*+(?:"|\Z)|'[^<']*+(?:'|\Z))*+""")

# An error in a handler stops the parser only at the end of what it has been given.
_CHUNK_BYTES = 196_608


def parse_xml(data: bytes) -> Any:
    """Parse XML with defusedxml.

    Names lose their namespace, attributes other than ``xsi:nil`` are passed over, and so are
    comments, processing instructions and text between elements.

    :param data: the body in UTF-8, whatever its declaration says.
    :return: what the root element holds: a dict for elements, else a string. ``details`` is the
        list that it is in JSON.
    :raises MalformedBody: it is not XML, declares a DTD or an entity, is nested more than 32
        levels deep, or has a tag of more than 10,000 bytes.
    """
    if _has_long_tag(data):
        raise MalformedBody(f"The body has a tag of over {_MAX_TAG_BYTES:,} bytes.")

    # From defusedxml comes the parser with its protections, without the handlers that build a tree.
    defused = DefusedXMLParser(target=object(), encoding="utf-8", forbid_dtd=True)
    parser = defused.parser
    vars(defused).clear()  # they refer to each other, and would wait for the garbage collector
    parser.StartElementHandler = parser.EndElementHandler = None
    parser.CharacterDataHandler = parser.DefaultHandlerExpand = None
    parsed = _parse(parser, data)
    if root := plain_root(data):
        members = read_plain(root, parsed)
    else:
        members = {}
        _build(parser, members)
        for _ in parsed:
            pass

    (payload,) = members.values()
    if isinstance(payload, dict) and "details" in payload:
        payload["details"] = _details(payload["details"])
    return payload


def _parse(parser: XMLParserType, data: bytes) -> Iterator[int]:
    """Give a document to a parser in parts, and say after each how far that was."""
    try:
        for position in range(0, len(data) or 1, _CHUNK_BYTES):
            end = position + _CHUNK_BYTES
            parser.Parse(memoryview(data)[position:end], end >= len(data))
            yield end
    except DefusedXmlException:
        raise MalformedBody("The body declares a DTD or an entity; send plain XML.") from None
    except ExpatError as error:
        raise MalformedBody(
            f"The body is not XML: {ErrorString(error.code)}, line {error.lineno},"
            f" column {error.offset + 1}."
        ) from None
    finally:
        # They and the parser refer to each other, too.
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = None


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
        if name in members:  # add() alone would be a call for each element
            add(members, name, value)
        else:
            members[name] = value

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
    """``<details>`` as a list, whether it holds ``<detail>`` elements, or is one, or is repeated."""
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
