"""What an inbox counts as it comes."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr.inbox import BoundInbox
from flask_ants_dr.inbox import Figures
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import figures
from flask_ants_dr.inbox.retention import DAY
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import make_app
from kit import stop_server
from servers import wait_for

MakeApp = Callable[..., Flask]


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def sent(state: str, seconds: float | None, sender: str = "MyShop", **more: Any) -> dict[str, Any]:
    """A detail that took so long from send to done."""
    times = {}
    if seconds is not None:
        done = datetime(2026, 11, 27, tzinfo=UTC) + timedelta(seconds=seconds)
        times = {"sendDate": "2026-11-27T00:00:00Z", "doneDate": done.isoformat()}
    return detail(status={"name": state}, **{"from": sender}, **times, **more)


def test_callbacks_are_counted_by_answer(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    began = datetime.now(UTC)
    for number in range(3):
        ants.post(callback(detail(messageId=str(number))))
    ants.post("not json")
    taken, refused = inbox.figures.callbacks(an_hour_ago())
    assert (taken.status, taken.callbacks) == (200, 3)
    assert (refused.status, refused.callbacks, refused.size) == (400, 1, len("not json"))
    assert taken.size > 3 * 50
    assert 0 < taken.slowest <= taken.seconds < 60
    assert began <= taken.last_at <= refused.last_at <= datetime.now(UTC)


def test_counts_of_spans_add_up(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    for number in range(2):
        ants.post(callback(detail(messageId=str(number))))
        inbox.figures.flush()
    long_ago = datetime.now(UTC) - timedelta(days=10)
    assert inbox.figures.width(an_hour_ago()) == 60
    assert inbox.figures.width(long_ago) == 3600
    for since in (an_hour_ago(), long_ago):
        (together,) = inbox.figures.callbacks(since, by=())
        assert together.callbacks == 2
        spans = inbox.figures.messages(since, by=("start",))
        assert sum(one.messages for one in spans) == 2
        for one in spans:
            assert one.start is not None
            assert one.start.timestamp() % inbox.figures.width(since) == 0


def test_messages_are_counted_by_sender_state_and_time(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post(
        callback(
            sent("DELIVERED", 0.5, messageId="1"),
            sent("DELIVERED", 10, messageId="2"),
            sent("DELIVERED", 10.5, messageId="3"),
            sent("DELIVERED", 3601, messageId="4"),
            sent("DELIVERED", -1, messageId="5"),
            sent("PENDING", 3, messageId="6"),
            sent("EXPIRED", None, "Bank", messageId="7"),
            {},
        )
    )
    took = inbox.figures.messages(an_hour_ago(), by=("took",))
    assert {one.took: one.messages for one in took} == {
        figures.UNTOLD: 3,
        figures.LONGER: 1,
        1: 1,
        10: 1,
        30: 1,
    }
    both = inbox.figures.messages(an_hour_ago(), by=("sender", "state"))
    assert {(one.sender, one.state): one.messages for one in both} == {
        ("Bank", DeliveryState.EXPIRED): 1,
        ("MyShop", DeliveryState.DELIVERED): 5,
        ("MyShop", DeliveryState.PENDING): 1,
    }


def test_a_repetition_is_a_callback_and_no_message(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    for _ in range(3):
        ants.post(callback(detail()))
    (callbacks,) = inbox.figures.callbacks(an_hour_ago())
    (messages,) = inbox.figures.messages(an_hour_ago())
    assert (callbacks.callbacks, messages.messages) == (3, 1)


def test_nothing_is_counted_as_nothing(make_inbox_app: MakeApp) -> None:
    inbox = bound_inbox(make_inbox_app())
    for by in ((), ("status",)):
        assert inbox.figures.callbacks(an_hour_ago(), by=by) == []
    assert _last(inbox) == (None, {})


def test_many_senders_are_counted_together(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post(callback(*(sent("DELIVERED", 1, f"S{n}", messageId=str(n)) for n in range(250))))
    counted = inbox.figures.messages(an_hour_ago(), by=("sender",))
    assert len(counted) == 101
    assert {one.sender: one.messages for one in counted}["*"] == 150


def test_several_inboxes_count_each_for_itself(tmp_path: Any) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/one"
    )
    other = DeliveryReportBlueprint("other", rule="/other", inbox=Inbox())
    app.config["ANTS_DR_INBOX_URL"] = f"sqlite:///{tmp_path}/one"
    app.register_blueprint(other)
    Ants(app.test_client()).post(callback(detail()))
    with app.app_context():
        assert other.inbox.figures.callbacks(an_hour_ago()) == []
        assert other.inbox.figures.messages(an_hour_ago()) == []


def test_what_was_refused_since_the_last_callback(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post("not json")
    assert _last(inbox) == (None, {400: 1})
    before = datetime.now(UTC)
    ants.post(callback(detail()))
    last, refused = _last(inbox)
    assert last is not None
    assert before <= last <= datetime.now(UTC)
    assert refused == {}
    assert app.test_client().post("/sms/callback", json={}).status_code == 401
    assert _last(inbox) == (last, {401: 1})
    status = inbox.status()
    assert (status["refused"], status["refused_by_answer"]) == (1, {401: 1})


def test_what_cannot_be_written_is_so_later(make_inbox_app: MakeApp, server: Any) -> None:
    app = make_inbox_app(timeout=0.5)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post(callback(detail()))
    with unavailable(app, server):
        inbox.figures.flush()
        assert ants.post(callback(detail(messageId="2"))).status_code == 503
    counted = {one.status: one.callbacks for one in inbox.figures.callbacks(an_hour_ago())}
    assert counted == {200: 1, 503: 1}


@contextmanager
def unavailable(app: Flask, server: Any) -> Iterator[None]:
    """Nobody can write to the application's database."""
    if server is None:
        path = app.config["ANTS_DR_INBOX_URL"].removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    stop_server(server)
    try:
        yield
    finally:
        server.start()


def test_a_thread_writes_what_is_counted(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figures, "is_written_when_read", False)
    monkeypatch.setattr(figures, "EVERY", 0.05)
    app = make_inbox_app()
    Ants(app.test_client()).post(callback(detail()))
    inbox = bound_inbox(app)
    wait_for(lambda: bool(inbox.figures.callbacks(an_hour_ago())))
    wait_for(lambda: figures._writer._thread is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_does_not_write_what_its_parent_has_counted(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(callback(detail()))
    inbox = bound_inbox(app)
    child = os.fork()
    if not child:
        inbox.figures.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    (counted,) = inbox.figures.callbacks(an_hour_ago())
    assert counted.callbacks == 1


def test_retention(make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_inbox_app(keep_days=30.0)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    now = time.time()
    for days in (31, 3, 0):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda days=days: now - days * DAY)
            ants.post(callback(detail(messageId=str(days))))
            inbox.figures.flush()
    inbox.retain()
    with inbox.database.begin(writes=False) as connection:
        for table in ("callback_counts", "message_counts"):
            spans = connection.exec_driver_sql(f"SELECT width, start FROM ants_dr_{table}").all()
            ages = sorted((width, round((now - start) / DAY)) for width, start in spans)
            assert ages == [(60, 0), (3600, 0), (3600, 3)]


def _last(inbox: BoundInbox) -> tuple[datetime | None, dict[int, int]]:
    inbox.figures.settle()
    with inbox.database.begin(writes=False) as connection:
        return figures.last_callback(connection, inbox.source)


def test_counting_goes_on_after_an_error_of_the_process(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as having no thread to spare."""
    monkeypatch.setattr(Figures, "is_written_when_read", False)
    monkeypatch.setattr(figures, "EVERY", 0.02)
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    run, ended = inbox.database.run, list[threading.Thread]()

    def run_once_without_threads(work: Callable[..., Any], **options: Any) -> Any:
        if not ended and threading.current_thread().name == "ants-dr-figures":
            ended.append(threading.current_thread())
            raise RuntimeError("can't start new thread")
        return run(work, **options)

    monkeypatch.setattr(inbox.database, "run", run_once_without_threads)
    ants.post(callback(detail()))
    wait_for(lambda: bool(ended) and not ended[0].is_alive())
    ants.post(callback(detail(messageId="2")))
    wait_for(lambda: any(one.callbacks for one in inbox.figures.callbacks(an_hour_ago())))
