"""Payload to bytes, as ANTS writes them: for trying and testing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from typing import Literal
from typing import get_args
from xml.etree import ElementTree

Format = Literal["json", "xml"]
Encoding = Literal["utf-8", "utf-16", "utf-8-as-utf-16"]

FORMATS: tuple[Format, ...] = get_args(Format)
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

_NAMESPACES = {
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xmlns:xsd": "http://www.w3.org/2001/XMLSchema",
}
_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def encode(
    payload: Mapping[str, Any], format: Format = "json", encoding: Encoding = "utf-8"
) -> tuple[bytes, str]:
    """Write the body of a callback.

    :param payload: plain values, as a :class:`~flask_ants_dr.ReportSchema` dumps them.
    :param format: ``"json"``, or ``"xml"`` as in the specification's example.
    :param encoding: ``"utf-8"``, ``"utf-16"``, or ``"utf-8-as-utf-16"`` for what .NET programs
        send: UTF-8 that says it is UTF-16.
    :return: the body and its content type.
    :raises ValueError: a name or a character cannot be written as XML, or there is no such format
        or encoding.
    """
    if format not in FORMATS or encoding not in ENCODINGS:
        raise ValueError(
            f"format must be one of {', '.join(FORMATS)}, encoding one of {', '.join(ENCODINGS)}."
        )
    charset = "utf-8" if encoding == "utf-8-as-utf-16" else encoding
    declared = "utf-8" if encoding == "utf-8" else "utf-16"
    if format == "xml":
        text = f'<?xml version="1.0" encoding="{declared}"?>\n{_to_xml(payload)}'
        return text.encode(charset), "application/xml"
    text = json.dumps(payload, ensure_ascii=False)
    content_type = "application/json"
    if declared != "utf-8":
        content_type += f"; charset={declared}"
    return text.encode(charset), content_type


def _to_xml(payload: Mapping[str, Any]) -> str:
    root = ElementTree.Element("CALLBACK", _NAMESPACES)
    for name, value in payload.items():
        if name == "details":
            details = ElementTree.SubElement(root, name)
            for detail in value:
                _add(details, "detail", detail)
        else:
            _add(root, name, value)
    ElementTree.indent(root, " " * 4)
    return ElementTree.tostring(root, encoding="unicode")


def _add(parent: ElementTree.Element, name: str, value: Any) -> None:
    """Add a member: one element, or as many as an array has items."""
    if not _NAME.fullmatch(name):
        raise ValueError("a member has a name that no element can have; send it as JSON.")
    if isinstance(value, list | tuple):
        for item in value:
            _add(parent, name, item)
        return
    element = ElementTree.SubElement(parent, name)
    if isinstance(value, Mapping):
        for inner_name, inner in value.items():
            _add(element, inner_name, inner)
    elif value is None:
        element.set("xsi:nil", "true")
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if _NOT_IN_XML.search(text):
            raise ValueError(f"{name} has a character that XML cannot carry; send it as JSON.")
        element.text = text
