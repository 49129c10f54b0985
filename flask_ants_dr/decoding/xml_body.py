"""XML to payload: the same values that the JSON of the same report gives."""

from __future__ import annotations

import re
from typing import Any
from xml.parsers.expat import ErrorString
from xml.parsers.expat import ExpatError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ..errors import MalformedBody
from .limits import MAX_DEPTH
from .limits import too_deep

_DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.:-]{0,60})["']""")
_NIL = "http://www.w3.org/2001/XMLSchema-instance}nil"

# The parser holds a whole tag at once, its attributes at many times their size. A tag of ANTS has
# none but namespaces and xsi:nil.
_MAX_TAG_CHARACTERS = 10_000
_LONG_TAG = re.compile(rf"<[^<>!?][^<>]{{{_MAX_TAG_CHARACTERS}}}")
_SHORTEST_ATTRIBUTE = ' a=""'

# An error in a handler stops the parser only at the end of what it has been given.
_CHUNK_CHARACTERS = 65_536


def declared_encoding(body: bytes) -> str | None:
    """The encoding that the XML declaration names, where the bytes can be read as ASCII."""
    declaration = _DECLARATION.match(body)
    return declaration[1].decode() if declaration else None


def parse_xml(text: str) -> Any:
    """Parse XML with defusedxml, in one pass.

    Names lose their namespace, attributes other than ``xsi:nil`` are passed over, and so are
    comments, processing instructions and text between elements.

    :param text: the text of the body; what its declaration says of an encoding is ignored.
    :return: what the root element holds: a dict for elements, else a string. ``details`` is the
        list that it is in JSON.
    :raises MalformedBody: it is not XML, declares a DTD or an entity, is nested more than 32
        levels deep, or has a tag of more than 10,000 characters.
    """
    # Counting is quick and spares nearly every body the search.
    many = text.count("=") * len(_SHORTEST_ATTRIBUTE) > _MAX_TAG_CHARACTERS
    if many and _LONG_TAG.search(text):
        raise MalformedBody(f"The body has a tag of over {_MAX_TAG_CHARACTERS:,} characters.")

    text = text.lstrip()
    document: dict[str, Any] = {}
    parents = [document]
    nils: list[bool] = []
    content: list[str] = []

    def start(name: str, attributes: list[str]) -> None:
        if len(parents) > MAX_DEPTH:
            raise too_deep()
        parents.append({})
        nils.append(bool(attributes) and _is_nil(attributes))
        content.clear()

    def end(name: str) -> None:
        members: dict[str, Any] = parents.pop()
        nil = nils.pop()
        value = members or (None if nil else "".join(content))
        content.clear()
        siblings = parents[-1]
        name = name.rpartition("}")[2]
        if name not in siblings:
            siblings[name] = value
        elif isinstance(siblings[name], list):
            siblings[name].append(value)
        else:
            siblings[name] = [siblings[name], value]

    # From defusedxml comes the parser with its protections; the handlers that would build a tree
    # give way to ours, which build the payload.
    parser = DefusedXMLParser(forbid_dtd=True).parser
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = content.append
    parser.DefaultHandlerExpand = None
    try:
        for position in range(0, len(text), _CHUNK_CHARACTERS):
            parser.Parse(text[position : position + _CHUNK_CHARACTERS], False)
        parser.Parse("", True)
    except DefusedXmlException:
        raise MalformedBody("The body declares a DTD or an entity; send plain XML.") from None
    except ExpatError as error:
        raise MalformedBody(
            f"The body is not XML: {ErrorString(error.code)}, line {error.lineno},"
            f" column {error.offset + 1}."
        ) from None
    except UnicodeEncodeError:
        raise MalformedBody("The body is not XML: it has a lone surrogate.") from None

    (payload,) = document.values()
    if isinstance(payload, dict) and "details" in payload:
        payload["details"] = _details(payload["details"])
    return payload


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
