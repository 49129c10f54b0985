"""The callbacks that the benchmarks post: as ANTS writes them, no two messages alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Literal

Format = Literal["json", "xml", "xml-utf-16"]

FORMATS: tuple[Format, ...] = ("json", "xml", "xml-utf-16")

#: The XML of the specification's form, as others would write it.
SHAPES: dict[str, Callable[[str], str]] = {
    "as specified": str,
    "not indented": lambda text: re.sub(r">\s+<", "><", text),
    "Windows' line ends": lambda text: text.replace("\n", "\r\n"),
    "&amp; in each text": lambda text: text.replace("ANTS มาราธอน", "ANTS &amp; มาราธอน"),
    "> in each text": lambda text: text.replace("ANTS มาราธอน", "ANTS > มาราธอน"),
    "xsi:nil in each message": lambda text: re.sub(
        "<callbackData>.*?</callbackData>", '<callbackData xsi:nil="true" />', text
    ),
    "one comment": lambda text: text.replace("<details>", "<!-- a comment --><details>"),
}

#: JSON that is not as the specification shows it, but for the first.
VARIANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "as specified": lambda payload: None,
    "one message invalid": lambda payload: payload["details"][250].pop("messageId"),
    "an unknown member in each": lambda payload: _each(payload, operator="AIS"),
    "an integer for a string in each": lambda payload: _each(payload, to=66123450000),
    "a status in an array in each": lambda payload: _each(
        payload, status=[payload["details"][0]["status"]]
    ),
    "a credit that cannot be read in each": lambda payload: _each(payload, credit="1,00"),
    "a Buddhist year in each": lambda payload: _each(payload, doneDate="2562-05-27T14:40:09.44"),
}


def _each(payload: dict[str, Any], **members: Any) -> None:
    for detail in payload["details"]:
        detail.update(members)


_START = datetime(2019, 5, 27, 14, 39, 40, 273_000)
_STATUSES = (
    *[("000", "DELIVERED", "Successfully sent to phone")] * 18,
    ("001", "EXPIRED", "Expired"),
    ("002", "REJECTED", "Rejected by operator"),
)
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_XSD = "http://www.w3.org/2001/XMLSchema"


def callback(messages: int, number: int = 0) -> dict[str, Any]:
    """A callback as plain values.

    :param number: which one it is; each has a bulk of its own.
    """
    return {
        "bulkId": f"898319fa-34f0-49b7-a3b0-{number:012}",
        "details": [_detail(index) for index in range(messages)],
    }


def _detail(index: int) -> dict[str, Any]:
    code, name, description = _STATUSES[index % len(_STATUSES)]
    sent = _START + timedelta(milliseconds=37 * index)
    return {
        "messageId": str(25501288135972440649 + index),
        "to": str(66123450000 + index),
        "from": "ANTS",
        "text": "เชิญชวนร่วมกิจกรรม วิ่งการกุศล ANTS มาราธอน",
        "credit": 1.00,
        "sendDate": _written(sent),
        "doneDate": _written(sent + timedelta(seconds=19, milliseconds=11 * index)),
        "status": {"code": code, "name": name, "description": description},
        "callbackData": "ANTS Data",
    }


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def body(format: Format, messages: int, number: int = 0) -> bytes:
    """A callback as bytes: JSON compact, as libraries write it, XML as in the specification."""
    payload = callback(messages, number)
    if format == "json":
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    text = (
        '<?xml version="1.0" encoding="utf-16"?>\n'
        f'<CALLBACK xmlns:xsi="{_XSI}" xmlns:xsd="{_XSD}">\n'
        f"    <bulkId>{payload['bulkId']}</bulkId>\n"
        f"    <details>\n{''.join(map(_detail_element, payload['details']))}    </details>\n"
        "</CALLBACK>\n"
    )
    if format == "xml":
        # Not under the utf-16 declaration, as ANTS does: hand-written views break on that.
        return text.replace("utf-16", "utf-8", 1).encode()
    return text.encode("utf-16")


def _detail_element(detail: dict[str, Any]) -> str:
    members = "".join(
        f"            <{name}>{_content(value)}</{name}>\n" for name, value in detail.items()
    )
    return f"        <detail>\n{members}        </detail>\n"


def _content(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.2f}" if isinstance(value, float) else str(value)
    members = "".join(f"                <{name}>{item}</{name}>\n" for name, item in value.items())
    return f"\n{members}            "
