"""Signals: which are sent when, and what happens when a subscriber raises."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import cast

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import message_delivered
from flask_ants_dr import message_reported
from flask_ants_dr import report_received
from flask_ants_dr.dispatch import dispatch_report
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("ACCEPTED", None),
        ("PENDING", None),
        ("UNDELIVERED", "message_failed"),
        ("DELIVERED", "message_delivered"),
        ("EXPIRED", "message_failed"),
        ("REJECTED", "message_failed"),
        ("COMPLETED", None),
        ("NEW_NAME", None),
        ("delivered", "message_delivered"),
    ],
)
def test_the_signals_of_a_state(ants: Ants, heard: Heard, name: str, signal: str | None) -> None:
    ants.post(callback(detail(status={"name": name})))
    assert heard.names == ["report_received", "message_reported", *([signal] if signal else [])]
    for _, arguments in heard.calls[1:]:
        assert arguments.keys() == {"message", "report"}
        assert arguments["report"].messages == (arguments["message"],)


@pytest.mark.parametrize("testing", [False, True])
def test_a_subscriber_that_raises_stops_no_other(testing: bool) -> None:
    app = make_app(TESTING=testing)
    heard_by: dict[str, list[str]] = {"first": [], "second": [], "third": []}

    def subscriber(name: str) -> Any:
        def hear(sender: Flask, message: Any, **extra: Any) -> None:
            heard_by[name].append(message.message_id)
            if name == "second":
                raise LookupError("no such order")

        return hear

    subscribers = [subscriber(name) for name in heard_by]
    for one in subscribers:
        message_reported.connect(one, sender=app)
    heard = Heard(app)
    caught: list[Exception] = []

    @app.errorhandler(ExceptionGroup)
    def handle(error: ExceptionGroup) -> tuple[str, int]:
        caught.append(error)
        if testing:
            raise error
        return "the host's own", 500

    body = callback(detail(messageId="m1"), detail(messageId="m2"), {})
    if testing:
        with pytest.raises(ExceptionGroup):
            Ants(app.test_client()).post(body)
    else:
        response = Ants(app.test_client()).post(body)
        assert (response.status_code, response.text) == (500, "the host's own")
    assert all(ids == ["m1", "m2"] for ids in heard_by.values())
    assert len(heard.arguments("message_delivered")) == 2
    assert len(heard.arguments("message_invalid")) == 1
    (group,) = caught
    assert isinstance(group, ExceptionGroup)
    assert [type(error) for error in group.exceptions] == [LookupError, LookupError]
    notes = [error.__notes__ for error in group.exceptions]
    for (note,), message_id in zip(notes, ("m1", "m2"), strict=True):
        assert note.endswith(f"hear to message-reported of message {message_id!r}")


def test_an_error_reaches_the_test(app: Flask, ants: Ants) -> None:
    app.testing = True

    def fail(sender: Flask, **extra: Any) -> None:
        raise ZeroDivisionError

    message_delivered.connect(fail, sender=app)
    with pytest.raises(ExceptionGroup) as caught:
        ants.post(callback(detail()))
    assert caught.group_contains(ZeroDivisionError)


def test_a_report_received_that_raises_stops_no_message(
    app: Flask, ants: Ants, heard: Heard
) -> None:
    def fail(sender: Flask, **extra: Any) -> None:
        raise ValueError

    report_received.connect(fail, sender=app)
    assert ants.post(callback(detail(), detail())).status_code == 500
    assert len(heard.messages) == 2


@pytest.mark.parametrize(
    "kind", [CancelledError, SystemExit, type("Timeout", (BaseException,), {})]
)
def test_what_is_no_exception_keeps_nobody_from_its_turn(
    app: Flask, ants: Ants, heard: Heard, kind: type[BaseException]
) -> None:
    """gevent.Timeout and asyncio.CancelledError are none of Exception's."""

    def fail(sender: Flask, message: Any, **extra: Any) -> None:
        raise kind

    app.testing = True
    message_reported.connect(fail, sender=app)
    with pytest.raises(ExceptionGroup) as raised:
        ants.post(callback(detail(), detail()))
    assert len(heard.messages) == 2
    assert [type(one.__cause__) for one in raised.value.exceptions] == [kind, kind]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_process_or_a_coroutine_is_not_caught(
    app: Flask, ants: Ants, kind: type[BaseException]
) -> None:
    def fail(sender: Flask, **extra: Any) -> None:
        raise kind

    message_reported.connect(fail, sender=app)
    with pytest.raises(kind):
        ants.post(callback(detail()))


def test_subscribers_are_called_in_the_order_in_which_they_were_connected(
    app: Flask, ants: Ants
) -> None:
    called: list[int] = []

    def subscriber(number: int) -> Any:
        return lambda sender, **extra: called.append(number)

    subscribers = [subscriber(number) for number in range(50)]
    for one in subscribers:
        message_reported.connect(one, sender=app)
    ants.post(callback(detail()))
    assert called == list(range(50))


def test_a_failure_leaves_its_application_context_to_nobody() -> None:
    """A database session that needs a rollback is bound to the context."""
    app = make_app()
    database = SQLAlchemy()

    class Order(database.Model):  # type: ignore[name-defined,misc]
        id = database.Column(database.Integer, primary_key=True)
        message_id = database.Column(database.String, unique=True)

    class Line(database.Model):  # type: ignore[name-defined,misc]
        id = database.Column(database.Integer, primary_key=True)
        message_id = database.Column(database.String)

    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    database.init_app(app)

    def first(sender: Flask, message: Any, **extra: Any) -> None:
        database.session.add(Order(message_id=message.message_id))
        database.session.commit()

    def second(sender: Flask, message: Any, **extra: Any) -> None:
        database.session.add(Line(message_id=message.message_id))
        database.session.commit()

    for subscriber in (first, second):
        message_reported.connect(subscriber, sender=app)
    with app.app_context():
        database.create_all()
        database.session.add(Order(message_id="0"))
        database.session.commit()
    answer = Ants(app.test_client()).post(
        callback(*(detail(messageId=str(number)) for number in range(5)))
    )
    assert answer.status_code == 500
    with app.app_context():
        for model in (Order, Line):
            stored = database.session.scalars(database.select(model.message_id))
            assert sorted(stored) == ["0", "1", "2", "3", "4"]
        database.session.remove()
        database.engine.dispose()


def test_a_failure_leaves_no_lock_to_the_next(tmp_path: Path) -> None:
    """Its transaction ends before the next subscriber begins one."""
    app = make_app()
    database = SQLAlchemy()

    class Counter(database.Model):  # type: ignore[name-defined,misc]
        id = database.Column(database.Integer, primary_key=True)

    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/host.sqlite3"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 0.1}}
    database.init_app(app)

    def count(sender: Flask, message: Any, **extra: Any) -> None:
        database.session.add(Counter())
        database.session.flush()
        if message.message_id == "0":
            raise ValueError
        database.session.commit()

    message_reported.connect(count, sender=app)
    with app.app_context():
        database.create_all()
    messages = [detail(messageId=str(number)) for number in range(5)]
    assert Ants(app.test_client()).post(callback(*messages)).status_code == 500
    with app.app_context():
        assert database.session.scalar(database.select(database.func.count(Counter.id))) == 4
        database.session.remove()
        database.engine.dispose()


def test_teardown_functions_hear_of_a_failure_as_flask_3_2_has_them() -> None:
    """It hands the context over, too."""

    class Later(Flask):
        def do_teardown_appcontext(self, ctx: Any, exc: Any = None) -> None:  # type: ignore[override]
            if hasattr(ctx, "app"):  # not as the release in use calls it itself
                heard.append(exc)

    heard: list[Any] = []
    app = Later(__name__)
    app.config.update(ANTS_DR_USERNAME="ants", ANTS_DR_PASSWORD="s3cret-pair")
    app.register_blueprint(DeliveryReportBlueprint())
    raised = LookupError()

    def fail(sender: Flask, **extra: Any) -> None:
        raise raised

    message_reported.connect(fail, sender=app)
    assert Ants(app.test_client()).post(callback(detail())).status_code == 500
    assert heard == [raised]


def test_a_failing_teardown_after_a_failure_is_one_more(app: Flask, ants: Ants) -> None:
    def fail(sender: Flask, **extra: Any) -> None:
        raise LookupError

    app.testing = True
    message_reported.connect(fail, sender=app)
    failing = iter([True, False])

    @app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        if next(failing, False):
            raise ValueError

    with pytest.raises(ExceptionGroup) as raised:
        ants.post(callback(detail()))
    assert [type(one) for one in raised.value.exceptions] == [LookupError, ValueError]


def test_coroutine_subscribers(app: Flask, ants: Ants) -> None:
    heard: list[str] = []

    async def hear(sender: Flask, message: Any, **extra: Any) -> None:
        heard.append(message.message_id)
        if message.message_id == "bad":
            raise ValueError

    message_reported.connect(hear, sender=app)
    assert ants.post(callback(detail(messageId="good"))).status_code == 200
    assert ants.post(callback(detail(messageId="bad"), detail())).status_code == 500
    assert heard == ["good", "bad", "1"]


def test_callable_objects_as_subscribers(app: Flask, ants: Ants) -> None:
    class Counter:
        count = 0

        def __call__(self, sender: Flask, **extra: Any) -> None:
            self.count += 1
            raise ValueError

    counter = Counter()
    message_reported.connect(counter, sender=app)
    app.testing = True
    with pytest.raises(ExceptionGroup) as caught:
        ants.post(callback(detail()))
    assert counter.count == 1
    assert "Counter" in caught.value.exceptions[0].__notes__[0]


def test_a_frozen_exception(app: Flask, ants: Ants, heard: Heard) -> None:
    """No note can be added to it."""

    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    def fail(sender: Flask, **extra: Any) -> None:
        raise FrozenError(1)

    message_reported.connect(fail, sender=app)
    assert ants.post(callback(detail(), detail())).status_code == 500
    assert len(heard.messages) == 2


def test_an_awaitable_that_nobody_awaits_is_no_success(app: Flask, ants: Ants) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            raise AssertionError

    def subscribe(sender: Flask, **extra: Any) -> Awaitable:
        return Awaitable()

    message_reported.connect(subscribe, sender=app)
    assert ants.post(callback(detail())).status_code == 500


def test_a_note_is_short_and_on_one_line(app: Flask, ants: Ants) -> None:
    def fail(sender: Flask, **extra: Any) -> None:
        raise ValueError

    message_reported.connect(fail, sender=app)
    app.testing = True
    with pytest.raises(ExceptionGroup) as caught:
        ants.post(callback(detail(messageId="1\n" * 1_000_000)))
    (note,) = caught.value.exceptions[0].__notes__
    assert len(note) < 700
    assert "\n" not in note


def test_muted_signals(app: Flask, ants: Ants, heard: Heard) -> None:
    with message_reported.muted():
        ants.post(callback(detail()))
    assert heard.names == ["report_received", "message_delivered"]


def test_signals_without_subscribers(ants: Ants) -> None:
    assert ants.post(callback(detail(), {})).status_code == 200


def test_a_subscriber_that_cannot_be_called_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an async one cannot without asgiref."""
    app = make_app(TESTING=True)
    ensure_sync = app.ensure_sync

    def broken(sender: Flask, **extra: Any) -> None: ...

    def refuse(function: Any) -> Any:
        if function is broken:
            raise RuntimeError("Install Flask with the 'async' extra.")
        return ensure_sync(function)

    monkeypatch.setattr(app, "ensure_sync", refuse)
    heard = Heard(app)
    message_reported.connect(broken, sender=app)
    with pytest.raises(ExceptionGroup) as raised:
        Ants(app.test_client()).post(callback(detail(), detail()))
    assert len(raised.value.exceptions) == 2
    assert heard.names.count("message_delivered") == 2


def test_signals_without_subscribers_do_not_look_at_messages() -> None:
    """They cost nothing for a message: what would raise is not touched."""
    report = DeliveryReport(messages=(cast(MessageReport, object()),) * 3)
    dispatch_report(make_app(), report, [])
