"""What is told to whoever counts and measures."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from blinker import NamedSignal
from flask import Flask

from flask_ants_dr import RetryLater
from flask_ants_dr import message_reported
from flask_ants_dr.observation import callback_answered
from flask_ants_dr.observation import message_attempted
from flask_ants_dr.observation import messages_accepted
from flask_ants_dr.observation import subscriber_called
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import drain
from kit import many

MakeApp = Callable[..., Flask]


@contextmanager
def told(signal: NamedSignal, app: Flask) -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def note(sender: Flask, **said: Any) -> None:
        found.append(said)

    with signal.connected_to(note, sender=app):
        yield found


def fail(app: Flask, **extra: Any) -> None:
    raise LookupError("no such order")


def succeed(app: Flask, **extra: Any) -> None:
    """Does nothing."""


def test_each_answer(app: Flask, ants: Ants) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    with told(callback_answered, app) as answers:
        ants.post(callback(detail()))
        ants.post("not json")
        ants.client.post("/sms/callback", data=b"x" * 50)
        ants.client.get("/sms/callback")
        message_reported.connect(fail, sender=app)
        assert ants.post(callback(detail())).status_code == 500
    assert [one["status"] for one in answers] == [200, 400, 401, 500]
    assert [one["size"] for one in answers][1:3] == [8, 50]
    for one in answers:
        assert one["source"] == "ants_dr"
        assert 0 < one["seconds"] < 60


def test_a_content_length_that_is_none(app: Flask) -> None:
    """Sums of them go into a database."""
    with told(callback_answered, app) as answers:
        app.test_client().post("/sms/callback", environ_overrides={"CONTENT_LENGTH": "9" * 30})
    (answer,) = answers
    assert answer["size"] == app.extensions["ants_dr"]["ants_dr"].settings.max_content_length


def test_accepted_messages_without_an_inbox(app: Flask, ants: Ants) -> None:
    with told(messages_accepted, app) as accepted:
        ants.post(callback(detail(), {}, detail(messageId="2")))
    (one,) = accepted
    assert [message.message_id for message in one["messages"]] == ["1", "2"]
    assert one["invalid"] == 1
    assert one["report"].source == "ants_dr"


def test_accepted_messages_are_new(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    with told(messages_accepted, app) as accepted:
        ants.post(callback(detail(), {}))
        ants.post(callback(detail(), {}))
        ants.post(callback(detail(), detail(messageId="2")))
    first, second = accepted
    assert ([one.message_id for one in first["messages"]], first["invalid"]) == (["1"], 1)
    assert ([one.message_id for one in second["messages"]], second["invalid"]) == (["2"], 0)


def test_each_turn_of_a_subscriber(app: Flask, ants: Ants) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for subscriber in (fail, succeed):
        message_reported.connect(subscriber, sender=app)
    with told(subscriber_called, app) as calls:
        ants.post(callback(detail()))
    first, second = calls
    assert (first["subscriber"], second["subscriber"]) == (
        f"{__name__}.fail",
        f"{__name__}.succeed",
    )
    assert isinstance(first["error"], LookupError)
    assert second["error"] is None
    assert 0 <= second["seconds"] < 60


def test_each_attempt(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(backoff=0.0, max_attempts=2)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    with told(message_attempted, app) as attempts:
        message_reported.connect(fail, sender=app)
        ants.post(many(1))
        inbox.take()
        message_reported.disconnect(fail, sender=app)
        inbox.retry()
        drain(app)

        def later(sender: Flask, **extra: Any) -> None:
            raise RetryLater(60)

        message_reported.connect(later, sender=app)
        ants.post(callback(detail(messageId="later")))
    assert [one["outcome"] for one in attempts] == ["retry", "dead", "done", "later"]
    assert [one["waited"] is not None for one in attempts] == [True, False, True, True]
    assert all(0 <= one["waited"] < 60 for one in attempts if one["waited"] is not None)


def test_a_receiver_that_raises_costs_nothing(
    app: Flask, ants: Ants, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(sender: Flask, **extra: Any) -> None:
        raise ZeroDivisionError

    with told(callback_answered, app) as answers:
        callback_answered.connect(broken, sender=app)
        assert ants.post(callback(detail())).status_code == 200
    assert len(answers) == 1
    assert "callback-answered could not be counted" in caplog.text
