"""Nothing that a sender controls steers a terminal or begins a line of a log."""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

import pytest
from flask import Flask
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import validates_schema

from flask_ants_dr import DeliveryReport
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr import message_reported
from flask_ants_dr.escaping import printable
from flask_ants_dr.schemas import Details
from kit import Ants
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import run

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.slow(reason="every character of Unicode")
def test_no_character_that_is_not_seen_gets_through() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert shown.isprintable()
    assert not {unicodedata.category(character) for character in shown} & UNSEEN
    seen = [one for one in everything if unicodedata.category(one) not in UNSEEN | {"Zs"}]
    assert printable("".join(seen)) == "".join(seen)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("เชิญชวนร่วมกิจกรรม น้ำ ผู้ใหญ่", "เชิญชวนร่วมกิจกรรม น้ำ ผู้ใหญ่"),
        ("e\u0301 שלום 😀 a\\nb", "e\u0301 שלום 😀 a\\nb"),
        ("", ""),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b]0;owned\x07", r"\u001b]0;owned\u0007"),
        ("\x7f\x9b31m", r"\u007f\u009b31m"),
        ("\u202eabc\u200b\u2028\ud800", r"\u202eabc\u200b\u2028\ud800"),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_the_repr_of_a_model() -> None:
    hostile = "x\n\x1b\x9b\u202e\u2028"
    message = MessageReport(message_id=hostile, to=hostile, status=Status(name=hostile))
    for model in (message, message.status, DeliveryReport(messages=(message,), bulk_id=hostile)):
        assert repr(model).isprintable()


HOSTILE = "x\n\x1b]0;owned\x07\x9b31m\u202e\u2028\x7f\u200bก็"


def assert_printable(text: str) -> None:
    """Nothing but its own line feeds, and Thai text as it is."""
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert "owned" in text
    assert "ก็" in text


def test_an_error_that_repeats_a_message_id(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_inbox_app(max_attempts=1)

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        raise LookupError(f"no such message {message.message_id}")

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(callback(detail(messageId=HOSTILE)))
    assert len(run(app, "dead").splitlines()) == 1
    assert_printable(run(app, "dead"))
    assert_printable(json.loads(run(app, "dead", "--json"))[0]["error"])
    (failed,) = [one.getMessage() for one in caplog.records if "attempt 1" in one.getMessage()]
    assert_printable(failed)
    assert "owned" in failed.splitlines()[0]


@pytest.mark.parametrize("values", [[], ["--values"]], ids=["masked", "values"])
@pytest.mark.parametrize(
    "body",
    [callback({HOSTILE: HOSTILE}), callback(detail(), {HOSTILE: {HOSTILE: 1}}), {HOSTILE: 1}],
    ids=["whole", "detail", "envelope"],
)
def test_members_names_in_quarantine(
    make_inbox_app: MakeApp, body: dict[str, Any], values: list[str]
) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(body)
    (entry,) = bound_inbox(app).quarantined()
    shown = run(app, "quarantine", "show", str(entry.id), *values)
    assert_printable(shown)
    document = json.loads(shown.split(" bytes\n")[1])  # still JSON, of the very same names
    assert HOSTILE in str(next(iter(document), "")) or HOSTILE in document["details"][0]


@pytest.mark.parametrize("values", [[], ["--values"]], ids=["masked", "values"])
def test_a_body_that_cannot_be_read(make_inbox_app: MakeApp, values: list[str]) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(b"\xff{" + HOSTILE.encode())
    (entry,) = bound_inbox(app).quarantined()
    shown = run(app, "quarantine", "show", str(entry.id), *values)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert ("owned" in shown) == bool(values)
    assert ("ก็" in shown) == bool(values)


def test_a_content_type(make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app = make_inbox_app()
    hostile = HOSTILE.encode().decode("latin-1")  # as WSGI has it
    Ants(app.test_client()).post("{", environ_overrides={"CONTENT_TYPE": f"text/{hostile}"})
    (entry,) = bound_inbox(app).quarantined()
    assert "owned" in entry.content_type
    shown = run(app, "quarantine", "list"), run(app, "quarantine", "show", str(entry.id))
    for text in shown:
        assert "owned" in text
        assert all(line.isprintable() for line in text.split("\n"))
    assert len(shown[0].splitlines()) == 1
    for record in caplog.records:
        assert record.getMessage().isprintable()


def test_what_a_host_schema_says_of_a_value(make_inbox_app: MakeApp) -> None:
    """marshmallow's errors can have a name of the sender's in their path, and so can messages."""

    class OwnMessageSchema(MessageSchema):
        prices = fields.Dict(keys=fields.String(), values=fields.Integer())

        @validates_schema
        def refuse(self, data: Any, **kwargs: Any) -> None:
            raise ValidationError(f"no good: {HOSTILE}")

    class OwnSchema(ReportSchema):
        details = Details(OwnMessageSchema, attribute="messages", required=True)

    app = make_inbox_app(schema=OwnSchema)
    ants = Ants(app.test_client())
    ants.post(callback(detail(prices={HOSTILE: "none"})))
    ants.post(callback(detail()))
    first, second = bound_inbox(app).quarantined()
    assert "no good" in str(second.error)
    for text in (
        run(app, "quarantine", "list"),
        *(run(app, "quarantine", "show", str(entry.id)) for entry in (first, second)),
        run(app, "quarantine", "replay", "--all", code=1),
    ):
        assert all(line.isprintable() for line in text.split("\n"))
    assert len(run(app, "quarantine", "list").splitlines()) == 2
