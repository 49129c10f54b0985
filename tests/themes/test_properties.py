"""Whatever comes, the callback answers; whatever is sent, the same arrives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck
from hypothesis import assume
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_ants_dr import DeliveryReport
from flask_ants_dr import MessageReport
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr.schemas import Credit
from flask_ants_dr.schemas import Date
from flask_ants_dr.schemas import String
from kit import OPTIONAL
from kit import Ants
from kit import Heard
from kit import make_app

CONTENT_TYPES = [
    "application/json",
    "application/json; charset=utf-16",
    "application/xml",
    "text/xml; charset=tis-620",
    "application/x+json; charset=utf-7",
    "text/plain",
    "",
]

pytestmark = pytest.mark.slow(reason="a hundred examples of each property, drawn at random")

# One application for all examples: making one takes longer than a callback.
APP = make_app()
ANTS = Ants(APP.test_client())
HEARD = Heard(APP)
SCHEMA = ReportSchema()


def post(body: bytes | str, content_type: str) -> int:
    status = ANTS.post(body, content_type).status_code
    assert status in {200, 400, 415, 422}
    return status


any_text = st.text(st.characters(exclude_categories=[]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner), max_leaves=20
)


@given(st.binary(max_size=2000), st.sampled_from(CONTENT_TYPES))
def test_arbitrary_bytes(body: bytes, content_type: str) -> None:
    post(body, content_type)


@given(
    st.sampled_from(
        ["{", "[", '"', "<", "<?xml version='1.0' encoding='", "<!DOCTYPE ", "<![CDATA["]
    ),
    any_text,
    st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from(CONTENT_TYPES),
)
def test_text_that_begins_well(start: str, rest: str, encoding: str, content_type: str) -> None:
    post((start + rest).encode(encoding, "surrogatepass"), content_type)


@given(json_values, st.sampled_from(CONTENT_TYPES))
def test_arbitrary_json(value: Any, content_type: str) -> None:
    post(json.dumps(value), content_type)


MEMBERS = ["messageId", *OPTIONAL, "x"]
status = st.fixed_dictionaries({}, optional={"name": any_text | json_values, "code": json_values})
details = st.fixed_dictionaries(
    {}, optional={"status": status | json_values} | dict.fromkeys(MEMBERS, any_text | json_values)
)
callbacks = st.fixed_dictionaries(
    {"details": st.lists(details | json_values, max_size=5) | details | json_values},
    optional={"bulkId": json_values, "y": json_values},
)


@given(callbacks, st.booleans())
def test_arbitrary_callbacks(payload: Any, ascii_only: bool) -> None:
    """What is taken is signalled, and nothing else."""
    HEARD.calls.clear()
    body = json.dumps(payload, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    response = ANTS.post(body)
    assert response.status_code in {200, 422}
    if response.status_code == 200:
        answer = response.get_json()
        assert answer["accepted"] == len(HEARD.messages)
        assert answer["rejected"] == len(HEARD.arguments("message_invalid"))
        report = HEARD.arguments("report_received")[0]["report"]
        assert through_json(report) == report
    else:
        assert HEARD.names == ["callback_rejected"]


def through_json(report: DeliveryReport) -> Any:
    loaded = SCHEMA.load(json.loads(json.dumps(SCHEMA.dump(report)), parse_float=Decimal))
    return replace(loaded, source=report.source, url_params=report.url_params)


# Reports, of characters that XML can carry and a database can store.

LETTERS = st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r") | (
    st.characters(min_codepoint=0xE01, max_codepoint=0xE3A)
)
XML_LETTERS = LETTERS.filter(lambda letter: letter not in "\ufffe\uffff")
THAI_LETTERS = st.characters(codec="tis-620", exclude_categories=["Cc"])
DATES = st.datetimes(
    min_value=datetime(545, 1, 1),
    max_value=datetime(2399, 12, 30),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)
CREDITS = st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-1000, max_value=10**9, places=4
)


def reports(letters: st.SearchStrategy[str]) -> st.SearchStrategy[DeliveryReport]:
    text = st.text(letters)
    word = st.text(letters, min_size=1)
    statuses = st.builds(Status, code=st.none() | text, name=word, description=st.none() | text)
    names = st.text("abcXYZ", min_size=4)
    extra = st.dictionaries(
        names, st.none() | text | st.dictionaries(names, text, min_size=1), max_size=3
    )
    kinds: dict[type[Any], st.SearchStrategy[Any]] = {String: text, Credit: CREDITS, Date: DATES}
    optional = {str(field.name): st.none() | kinds[type(field)] for field in OPTIONAL.values()}
    messages = st.builds(MessageReport, message_id=word, status=statuses, extra=extra, **optional)
    lists = st.lists(messages, min_size=1, max_size=4).map(tuple)
    return st.builds(DeliveryReport, bulk_id=st.none() | text, messages=lists)


def xml_of(payload: Any) -> str:
    """The XML of a dumped report, as a .NET serializer would write it."""

    def elements(name: str, value: Any) -> Iterable[str]:
        match value:
            case None:
                yield f'<{name} xsi:nil="true"/>'
            case str():
                yield f"<{name}>{escape(value, {chr(13): '&#13;'})}</{name}>"
            case dict():
                yield f"<{name}>"
                for member, inner in value.items():
                    yield from elements(member, inner)
                yield f"</{name}>"
            case list():
                yield f"<{name}>"
                for inner in value:
                    yield from elements("detail", inner)
                yield f"</{name}>"

    xsi = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    return "".join(elements("CALLBACK", payload)).replace("<CALLBACK>", f"<CALLBACK {xsi}>", 1)


def arrives(report: DeliveryReport, body: bytes, content_type: str) -> None:
    HEARD.calls.clear()
    assert post(body, content_type) == 200
    arrived = HEARD.arguments("report_received")[0]["report"]
    assert replace(arrived, source="") == report
    credits = [(str(message.credit)) for message in arrived.messages]
    assert credits == [str(message.credit) for message in report.messages]


@given(
    reports(LETTERS), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
)
def test_reports_survive_json(report: DeliveryReport, encoding: str) -> None:
    text = json.dumps(SCHEMA.dump(report), ensure_ascii=False)
    arrives(report, text.encode(encoding), "application/json")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.differing_executors])
@given(report=reports(XML_LETTERS), declared=st.sampled_from(["utf-8", "utf-16"]))
def test_reports_survive_xml(encoding: str, declared: str, report: DeliveryReport) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>' + xml_of(SCHEMA.dump(report))
    arrives(report, text.encode(encoding), "application/xml")


@pytest.mark.parametrize("declared", [True, False])
@settings(max_examples=50)
@given(report=reports(THAI_LETTERS))
@example(
    report=DeliveryReport(
        bulk_id="กยกยก",
        messages=(MessageReport(message_id="1", status=Status(name="DELIVERED")),),
    )
)
def test_reports_survive_a_thai_8_bit_encoding(declared: bool, report: DeliveryReport) -> None:
    encoding = ' encoding="tis-620"' if declared else ""
    text = f'<?xml version="1.0"{encoding}?>' + xml_of(SCHEMA.dump(report))
    body = text.encode("tis-620")
    assume(not is_nearly_utf_8(body))
    arrives(report, body, "text/xml" + ("" if declared else "; charset=windows-874"))


def is_nearly_utf_8(body: bytes) -> bool:
    """Whether most of its letters happen to be parts of valid UTF-8, for which it is then taken."""
    text = body.decode(errors="replace")
    unreadable = text.count("\ufffd")
    letters = sum(not character.isascii() for character in text) - unreadable
    return letters > 2 * unreadable
