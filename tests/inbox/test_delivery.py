"""Attempts and their outcomes: who is called again, who is let rest, and who waits for whom."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import closing
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from sqlalchemy import Connection
from sqlalchemy import select
from sqlalchemy import update

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import Discard
from flask_ants_dr import MessageReport
from flask_ants_dr import RetryLater
from flask_ants_dr import message_delivered
from flask_ants_dr import message_reported
from flask_ants_dr.errors import InboxUnavailable
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import Redelivered
from flask_ants_dr.inbox import callbacks
from flask_ants_dr.inbox import delivery
from flask_ants_dr.inbox import inbox as inbox_module
from flask_ants_dr.inbox import messages as statements
from flask_ants_dr.inbox.delivery import Breaker
from flask_ants_dr.inbox.tables import State
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.inbox.worker import work
from flask_ants_dr.testing import record_signals
from kit import TESTS
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import many
from servers import free_port
from servers import is_open
from servers import wait_for


@pytest.fixture(params=[True, False], ids=["eager", "worker"])
def eager(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def post(app: Flask, body: Any) -> None:
    """Post a callback and have it dispatched."""
    assert Ants(app.test_client()).post(body).status_code == 200
    drain(app)


# Five in a row, and it would be let rest.
FAILURES = {"m0": 3, "m1": 0, "m2": 1}


def test_a_subscriber_that_returned_is_not_called_again(
    make_inbox_app: MakeApp, eager: bool
) -> None:
    app = make_inbox_app(eager=eager, backoff=0)
    calls: list[tuple[str, str]] = []

    def good(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls.append(("good", message.message_id))

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls.append(("failing", message.message_id))
        if calls.count(("failing", message.message_id)) <= FAILURES[message.message_id]:
            raise LookupError

    def last(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls.append(("last", message.message_id))

    message_reported.connect(good, sender=app)
    message_reported.connect(failing, sender=app)
    message_delivered.connect(last, sender=app)
    post(app, many(3))
    assert calls[:3] == [("good", "m0"), ("failing", "m0"), ("last", "m0")]
    expected = {("good", f"m{number}"): 1 for number in range(3)}
    expected |= {("failing", id): failures + 1 for id, failures in FAILURES.items()}
    expected |= {("last", f"m{number}"): 1 for number in range(3)}
    assert Counter(calls) == expected
    assert counts(app) == {"pending": 0, "done": 3, "dead": 0}


def test_two_subscribers_of_one_name_are_two(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(backoff=0)
    calls: Counter[int] = Counter()

    def make(number: int, failures: int) -> Callable[..., None]:
        def subscriber(sender: Flask, **extra: Any) -> None:
            calls[number] += 1
            if calls[number] <= failures:
                raise LookupError

        message_reported.connect(subscriber, sender=app, weak=False)
        return subscriber

    subscribers = [make(0, 0), make(1, 2), make(2, 0)]
    Ants(app.test_client()).post(callback(detail()))
    drain(app)
    assert calls == {0: 1, 1: 3, 2: 1}
    for one in subscribers:
        message_reported.disconnect(one, sender=app)


def test_retry_later_and_discard(
    make_inbox_app: MakeApp, eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_inbox_app(eager=eager, max_attempts=1)
    calls: Counter[str] = Counter()

    def later(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls["later"] += 1
        if calls["later"] <= 3:
            raise RetryLater(0)

    def discarding(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls["discarding"] += 1
        raise Discard("no such order")

    message_reported.connect(later, sender=app)
    message_reported.connect(discarding, sender=app)
    post(app, callback(detail()))
    wait_for(lambda: (drain(app), counts(app)["done"])[1])
    assert calls == {"later": 4, "discarding": 1}
    assert counts(app) == {"pending": 0, "done": 1, "dead": 0}
    assert caplog.messages == []


def test_it_waits_for_as_long_as_it_is_asked_to(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()

    def later(sender: Flask, **extra: Any) -> None:
        raise RetryLater(1000)

    message_reported.connect(later, sender=app)
    Ants(app.test_client()).post(callback(detail()))
    assert drain(app) == 0
    assert counts(app) == {"pending": 1, "done": 0, "dead": 0}


def test_without_an_inbox_a_message_can_be_discarded(app: Flask, ants: Ants) -> None:
    def discarding(sender: Flask, **extra: Any) -> None:
        raise Discard

    message_reported.connect(discarding, sender=app)
    assert ants.post(callback(detail())).status_code == 200


def test_a_subscriber_that_is_down_lets_the_others_go_on(make_inbox_app: MakeApp) -> None:
    """It is called five times, and then let rest; what it has not had waits for it."""
    app = make_inbox_app(eager=False, backoff=0)
    rows: list[str] = []
    asked: list[str] = []

    def writes(sender: Flask, message: MessageReport, **extra: Any) -> None:
        rows.append(message.message_id)

    def is_down(sender: Flask, message: MessageReport, **extra: Any) -> None:
        asked.append(message.message_id)
        raise ConnectionError

    message_reported.connect(writes, sender=app)
    message_reported.connect(is_down, sender=app)
    ants = Ants(app.test_client())
    ants.post(many(40))
    drain(app)
    assert rows == [f"m{number}" for number in range(40)]
    assert len(asked) == 5
    ants.post(callback(detail(messageId="late")))
    drain(app)
    assert rows[40:] == ["late"]
    assert counts(app) == {"pending": 41, "done": 0, "dead": 0}
    status = bound_inbox(app).status()
    (retrying,) = status["retrying"]
    assert retrying["failed_by"].endswith("is_down")
    assert (retrying["count"], retrying["error"]) == (41, "ConnectionError: ")
    assert (status["new"], status["pending"]) == (0, 41)


def test_the_circuit_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    breaker = Breaker()
    for _ in range(4):
        breaker.note("a", failed=True)
    assert breaker.rests("a") == 0
    breaker.note("a", failed=False)
    for _ in range(5):
        assert breaker.rests("a") == 0
        breaker.note("a", failed=True)
    assert breaker.rests("a") == 30
    assert breaker.rests("b") == 0
    now += 29
    assert breaker.rests("a") == 1
    now += 1
    assert breaker.rests("a") == 0  # one is tried
    assert breaker.rests("a") == 30  # and the others wait for it
    breaker.note("a", failed=True)
    now += 30
    assert breaker.rests("a") == 0
    breaker.note("a", failed=False)
    assert breaker.rests("a") == 0
    assert breaker.rests("a") == 0


def test_new_messages_come_before_retries(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, backoff=0, max_attempts=1000)
    calls: list[str] = []

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls.append(message.message_id)
        if len(calls) <= 4:
            raise LookupError

    message_reported.connect(subscriber, sender=app)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post(many(4))
    assert inbox.take() == 4
    ants.post(callback(detail(messageId="new"), detail(messageId="newer")))
    assert inbox.take() == 3
    assert calls[4:6] == ["new", "newer"]
    assert calls[6] in {"m0", "m1", "m2", "m3"}
    assert inbox.take() == 1


def test_eager_dispatch_ends_in_time(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager_seconds=0.2)
    heard: list[str] = []

    def slow(sender: Flask, message: MessageReport, **extra: Any) -> None:
        heard.append(message.message_id)
        time.sleep(0.05)

    message_reported.connect(slow, sender=app)
    assert Ants(app.test_client()).post(many(50)).get_json()["accepted"] == 50
    in_request = len(heard)
    assert 0 < in_request < 50
    assert counts(app) == {"pending": 50 - in_request, "done": in_request, "dead": 0}
    message_reported.disconnect(slow, sender=app)
    assert drain(app) == 50 - in_request


def test_message_dead(make_inbox_app: MakeApp, eager: bool) -> None:
    app = make_inbox_app(eager=eager, backoff=0, max_attempts=2)

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "m1":
            raise LookupError(f"no order for {message.to}")

    message_reported.connect(failing, sender=app)
    with record_signals(app) as heard:
        post(app, many(3, to="66898887777"))
    assert [one.message_id for one in heard.dead if one] == ["m1"]
    (dead,) = bound_inbox(app).dead()
    assert (dead.attempts, dead.error) == (2, "LookupError: no order for ***")
    assert dead.failed_by
    assert dead.failed_by.endswith("failing")


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_errors_that_are_no_exceptions_end_no_worker(
    make_inbox_app: MakeApp, error: type[BaseException]
) -> None:
    app = make_inbox_app(eager=False, backoff=1000)
    heard: list[str] = []

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "m1":
            raise error

    def other(sender: Flask, message: MessageReport, **extra: Any) -> None:
        heard.append(message.message_id)

    message_reported.connect(failing, sender=app)
    message_reported.connect(other, sender=app)
    Ants(app.test_client()).post(many(50))
    drain(app)
    assert len(heard) == 50
    assert counts(app) == {"pending": 1, "done": 49, "dead": 0}


def test_a_timeout_of_gevent_ends_no_worker(make_inbox_app: MakeApp) -> None:
    """It is none of Exception's kind; nothing stays claimed, and the next attempt succeeds."""
    gevent = pytest.importorskip(
        "gevent", reason="pip install gevent, where it has a wheel for this Python"
    )
    app = make_inbox_app(eager=False, backoff=0)
    calls: Counter[str] = Counter()

    def slow(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls[message.message_id] += 1
        is_slow = message.message_id == "m1" and calls["m1"] == 1
        try:
            with gevent.Timeout(0.01):
                gevent.sleep(60 if is_slow else 0)
        finally:
            gevent.get_hub().destroy()  # each thread has one

    message_reported.connect(slow, sender=app)
    Ants(app.test_client()).post(many(50))
    stop = threading.Event()

    def done(count: int) -> None:
        if counts(app)["done"] == 50:
            stop.set()

    assert not work([bound_inbox(app)], concurrency=2, poll=0.01, once=False, stop=stop, done=done)
    assert calls == {f"m{number}": 1 for number in range(50)} | {"m1": 2}
    assert counts(app) == {"pending": 0, "done": 50, "dead": 0}


class TimeLimit(BaseException):
    """What ends a task wherever it stands, as gevent's and Celery's limits do."""


@pytest.mark.parametrize("name", ["mark", "release"])
def test_a_limit_that_comes_while_outcomes_are_written(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They are written all the same, and the rest is given back, before the claim ends."""
    monkeypatch.setattr(delivery, "CLAIM", 1e6)
    app = make_inbox_app(eager=False)
    heard, inbox = Heard(app), bound_inbox(app)
    limits, write = [TimeLimit], getattr(statements, name)

    def limited(*arguments: Any) -> Any:
        if limits:
            raise limits.pop()
        return write(*arguments)

    monkeypatch.setattr(statements, name, limited)
    Ants(app.test_client()).post(many(3))
    with pytest.raises(TimeLimit):
        inbox.take(stop=lambda: len(heard.messages) == 2)
    wait_for(lambda: counts(app) == {"pending": 1, "done": 2, "dead": 0})
    wait_for(lambda: drain(app) == 1)
    assert [message.message_id for message in heard.messages] == ["m0", "m1", "m2"]


def test_a_limit_that_comes_before_the_first_message(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept for a task that is no more."""
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(many(3))

    def limited(batch: delivery.Batch) -> None:
        delivery._Keeper.add(delivery._keeper, batch)
        raise TimeLimit

    with monkeypatch.context() as patch:
        patch.setattr(delivery._keeper, "add", limited)
        with pytest.raises(TimeLimit):
            bound_inbox(app).take()
    assert not delivery._keeper._batches
    assert drain(app) == 3


def test_the_keeper_comes_again(make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_inbox_app(eager=False)
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    keep, ended = delivery.Batch.keep, list[threading.Thread]()

    def ends(batch: delivery.Batch) -> None:
        if not ended:
            ended.append(threading.current_thread())
            raise SystemExit
        keep(batch)

    monkeypatch.setattr(delivery.Batch, "keep", ends)
    alive = []

    def subscriber(sender: Flask, **extra: Any) -> None:
        wait_for(lambda: ended and not ended[0].is_alive())
        thread = delivery._keeper._thread
        alive.append(thread is not None and thread.is_alive())

    message_reported.connect(subscriber, sender=app)
    for number in range(2):
        Ants(app.test_client()).post(callback(detail(messageId=str(number))))
        drain(app)
    assert alive == [False, True]


@pytest.mark.slow(reason="a server of its own")
@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_requests_under_gevent_in_an_application_that_was_loaded_before(
    inbox_url: str, tmp_path: Path
) -> None:
    """Its locks are none of gevent's, and stop the process where one has to wait."""
    pytest.importorskip("gevent", reason="pip install gevent, where it has a wheel for this Python")
    port = free_port()
    environment = os.environ | {
        "FLASK_ANTS_DR_USERNAME": "ants",
        "FLASK_ANTS_DR_PASSWORD": "s3cret-pair",
        "FLASK_ANTS_DR_INBOX_URL": inbox_url,
        "HOST_ENGINE": "eager",
        "HOST_RECORD": str(tmp_path / "record"),
    }
    gunicorn = ["-m", "gunicorn", "--worker-class=gevent", "--preload", f"--bind=127.0.0.1:{port}"]
    with subprocess.Popen(
        [sys.executable, *gunicorn, "host:create_app()"], env=environment, cwd=TESTS
    ) as server:
        try:
            wait_for(lambda: is_open(port))
            url = f"http://127.0.0.1:{port}/sms/callback"

            def post(number: int) -> int:
                credentials = ("ants", "s3cret-pair")
                body = many(20, bulkId=str(number))
                return httpx.post(url, json=body, auth=credentials, timeout=20).status_code

            with ThreadPoolExecutor(8) as threads:
                assert list(threads.map(post, range(8))) == [200] * 8
        finally:
            server.terminate()


def test_a_short_failure_of_the_database(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was dispatched is marked, and what was not begun is given back, once it works again."""
    app = make_inbox_app(eager=False)
    heard: list[str] = []
    is_down = threading.Event()
    for name in ("mark", "release"):
        whole = getattr(statements, name)

        def failing(*args: Any, _whole: Callable[..., Any] = whole) -> Any:
            if is_down.is_set():
                raise InboxUnavailable("gone")
            return _whole(*args)

        monkeypatch.setattr(statements, name, failing)

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        heard.append(message.message_id)
        if message.message_id == "m5":
            is_down.set()
            time.sleep(0.06)  # more than a group waits

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(50))
    with pytest.raises(InboxUnavailable):
        bound_inbox(app).take()
    assert len(heard) >= 6
    is_down.clear()
    wait_for(lambda: (drain(app), counts(app)["done"] == 50)[1])
    assert Counter(heard) == {f"m{number}": 1 for number in range(50)}


def test_none_is_begun_before_those_of_the_last_claim_are_marked(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is heard again after a process was killed is what one group has, and not two."""
    app = make_inbox_app(eager=False)
    inbox = bound_inbox(app)
    monkeypatch.setattr(delivery, "BATCH", 5)
    mark = statements.mark

    def slow(*args: Any) -> Any:
        time.sleep(0.05)
        return mark(*args)

    monkeypatch.setattr(statements, "mark", slow)
    claims: list[set[str]] = []

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        held = select(messages.c.claim).where(messages.c.state == State.CLAIMED)
        with inbox.database.begin(writes=False) as connection:
            claims.append(set(connection.scalars(held)))

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(20))
    assert not work([inbox], concurrency=1, poll=1, once=True, stop=threading.Event())
    assert {len(held) for held in claims} == {1}
    assert len(set.union(*claims)) >= 4
    assert counts(app) == {"pending": 0, "done": 20, "dead": 0}


def test_one_that_failed_does_not_wait_for_all_new_ones(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_inbox_app(eager=False, backoff=0.001)
    inbox = bound_inbox(app)
    monkeypatch.setattr(delivery, "BATCH", 5)
    heard: list[str] = []

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        heard.append(message.message_id)
        if heard == ["failed"]:
            raise LookupError
        time.sleep(0.02)

    message_reported.connect(subscriber, sender=app)
    ants = Ants(app.test_client())
    ants.post(callback(detail(messageId="failed")))
    inbox.take()
    ants.post(many(40))
    assert not work([inbox], concurrency=1, poll=1, once=True, stop=threading.Event())
    assert len(heard) == 42
    assert heard[1:].index("failed") < 40


def test_what_a_worker_could_not_mark(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so and goes on when it is marked, and nothing is dispatched twice."""
    app = make_inbox_app(eager=False)
    inbox = bound_inbox(app)
    monkeypatch.setattr(delivery, "BATCH", 5)
    mark, failures = statements.mark, iter([InboxUnavailable("gone")] * 3)

    def failing(*args: Any) -> Any:
        for error in failures:
            raise error
        return mark(*args)

    monkeypatch.setattr(statements, "mark", failing)
    calls: Counter[str] = Counter()

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        calls[message.message_id] += 1

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(20))
    stop = threading.Event()

    def done(count: int) -> None:
        if counts(app)["done"] == 20:
            stop.set()

    assert not work([inbox], concurrency=1, poll=0.01, once=False, stop=stop, done=done)
    assert calls == {f"m{number}": 1 for number in range(20)}
    assert "the database failed; trying again" in caplog.text


def test_a_group_is_marked_while_a_subscriber_runs(make_inbox_app: MakeApp) -> None:
    """At the latest 50 ms after its first, whatever the next one does."""
    app = make_inbox_app(eager=False)
    go_on = threading.Event()

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "m3":
            assert go_on.wait(30)

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(5))
    thread = threading.Thread(target=bound_inbox(app).take)
    thread.start()
    wait_for(lambda: counts(app)["done"] == 3)
    go_on.set()
    thread.join()
    assert counts(app)["done"] == 5


@pytest.mark.slow(reason="waits for a lease to end")
def test_a_worker_whose_thread_is_blocked(make_inbox_app: MakeApp) -> None:
    """It finishes what it has in hand and says so, and its next process does the rest."""
    app = make_inbox_app(eager=False, lease=2, backoff=1000)
    heard: list[str] = []
    never = threading.Event()

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "m0":
            never.wait(60)
        heard.append(message.message_id)

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(12))
    stop, inbox = threading.Event(), bound_inbox(app)
    is_blocked = work([inbox], concurrency=2, poll=0.05, once=False, stop=stop)
    assert is_blocked
    inbox.blocked.clear()  # as in a new process
    assert not work([inbox], concurrency=1, poll=0.05, once=True, stop=threading.Event())
    assert sorted(heard) == sorted(f"m{number}" for number in range(1, 12))
    assert counts(app) == {"pending": 1, "done": 11, "dead": 0}
    stop.set()
    never.set()
    others = {"ants-dr-0", "ants-dr-1"}
    wait_for(lambda: others.isdisjoint(one.name for one in threading.enumerate()))


@pytest.mark.slow(reason="waits for a lease to end")
def test_who_returned_before_the_one_that_hangs(make_inbox_app: MakeApp) -> None:
    """It is not called again for that message either."""
    app = make_inbox_app(eager=False, lease=1, backoff=0)
    calls: Counter[str] = Counter()
    go_on = threading.Event()

    def good(sender: Flask, **extra: Any) -> None:
        calls["good"] += 1

    def hangs(sender: Flask, **extra: Any) -> None:
        calls["hangs"] += 1
        if calls["hangs"] == 1:
            go_on.wait(60)

    message_reported.connect(good, sender=app)
    message_reported.connect(hangs, sender=app)
    Ants(app.test_client()).post(callback(detail()))
    thread = threading.Thread(target=bound_inbox(app).take)
    thread.start()
    wait_for(lambda: calls["hangs"])
    wait_for(lambda: (drain(app), counts(app)["done"])[1])
    go_on.set()
    thread.join()
    assert calls == {"good": 1, "hangs": 2}
    assert counts(app) == {"pending": 0, "done": 1, "dead": 0}


def test_the_log_of_failures(make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    """One traceback for errors of a kind, then a line each that says which message it was."""
    app = make_inbox_app(eager=False, max_attempts=3)

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        raise LookupError

    message_reported.connect(failing, sender=app)
    Ants(app.test_client()).post(many(3, to="66898887777"))
    drain(app)
    first, *others = [one for one in caplog.messages if "failed at" in one]
    assert "raise LookupError\nLookupError" in first
    assert len(others) == 2
    for line in others:
        assert re.match(r"ants_dr: message [1-3] \(bulk 'b', to \*\*\*7777\) failed at ", line)
        assert "failing, attempt 1 of 3, the next one in " in line
        assert "\n" not in line


def test_the_inbox_of_a_blueprint(tmp_path: Path) -> None:
    blueprint = DeliveryReportBlueprint(inbox=Inbox())
    app = make_app(blueprint, ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/inbox.sqlite3")
    with app.app_context():
        assert blueprint.inbox is bound_inbox(app)
    without = DeliveryReportBlueprint()
    with (
        make_app(without).app_context(),
        pytest.raises(RuntimeError, match=r"make it with DeliveryReportBlueprint\(inbox=Inbox"),
    ):
        without.inbox  # noqa: B018
    with Flask("other").app_context(), pytest.raises(RuntimeError, match="has not registered"):
        blueprint.inbox  # noqa: B018


def test_done_messages_can_be_delivered_again(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard: list[str] = []

    def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
        heard.append(message.message_id)

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(3))
    inbox = bound_inbox(app)
    with inbox.database.begin(writes=False) as connection:
        chosen = select(messages.c.id).where(messages.c.position == 1)
        (id,) = connection.scalars(chosen)
    assert inbox.redeliver([id]) == Redelivered(pending=1, erased=0)
    assert inbox.redeliver([id]) == Redelivered(pending=0, erased=0)
    drain(app)
    assert heard == ["m0", "m1", "m2", "m1"]
    assert inbox.redeliver(since=datetime.now(UTC) + timedelta(hours=1)).pending == 0
    assert inbox.redeliver(since=datetime.now(UTC) - timedelta(hours=1)).pending == 3
    drain(app)
    assert heard[4:] == ["m0", "m1", "m2"]
    with pytest.raises(ValueError, match="Give ids, bulk_id or since"):
        inbox.redeliver()


def test_an_id_that_another_callback_has_had(make_inbox_app: MakeApp) -> None:
    """SQLite hands out the ids of what was deleted again."""
    app = make_inbox_app(eager=False, max_attempts=1)
    ants, inbox, heard = Ants(app.test_client()), bound_inbox(app), Heard(app)
    for text, message_id in (("first", "a"), ("second", "a"), ("third", "b")):
        assert ants.post(callback(detail(messageId=message_id, text=text))).status_code == 200
        assert drain(app) == 1
        assert inbox.purge(0) == 1
    assert [message.text for message in heard.messages] == ["first", "second", "third"]
    assert counts(app)["dead"] == 0


def test_a_message_whose_callback_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It fails, and costs no other its worker. (A shell of SQLite looks after no foreign keys.)"""
    path = tmp_path / "inbox.sqlite3"
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(eager=False, max_attempts=1)),
        ANTS_DR_INBOX_URL=f"sqlite:///{path}",
    )
    ants, heard = Ants(app.test_client()), Heard(app)
    for message_id in ("gone", "here"):
        ants.post(callback(detail(messageId=message_id)))
    with closing(sqlite3.connect(path)) as shell:
        shell.execute("DELETE FROM ants_dr_callbacks WHERE id = 1")
        shell.commit()
    inbox = bound_inbox(app)
    work([inbox], concurrency=1, poll=0.01, once=True, stop=threading.Event())
    assert [message.message_id for message in heard.messages] == ["here"]
    assert counts(app) == {"pending": 0, "done": 1, "dead": 1}
    (dead,) = heard.arguments("message_dead")
    assert dead["message"] is None
    assert "callback 1 is gone, and messages of it are here" in caplog.text
    assert inbox.troubles()
    inbox.database.close()


@pytest.mark.parametrize("seconds", [1.8e12, 31_536_001, float("inf"), float("nan")])
def test_no_retry_is_later_than_a_year(seconds: float) -> None:
    with pytest.raises(ValueError, match="at most 31,536,000 seconds, which is a year"):
        RetryLater(seconds)
    assert (RetryLater(31_536_000).seconds, RetryLater(-1).seconds) == (31_536_000, 0)


def test_message_dead_where_the_database_fails(make_inbox_app: MakeApp, eager: bool) -> None:
    """Whoever marks it later has nobody to tell."""
    app = make_inbox_app(eager=eager, max_attempts=1, timeout=0.5)
    heard, inbox = Heard(app), bound_inbox(app)
    other = make_inbox_app()

    with ExitStack() as lock:

        def failing(sender: Flask, **extra: Any) -> None:
            connection = lock.enter_context(bound_inbox(other).database.begin())
            connection.execute(update(messages).values(position=messages.c.position))
            raise LookupError

        message_reported.connect(failing, sender=app)
        assert Ants(app.test_client()).post(callback(detail())).status_code == 200
        if not eager:
            with pytest.raises(InboxUnavailable):
                inbox.take()
        assert heard.names.count("message_dead") == 1
    wait_for(lambda: counts(app)["dead"] == 1)
    wait_for(lambda: not delivery._keeper._batches)
    assert heard.names.count("message_dead") == 1


def test_message_dead_after_an_attempt_that_was_interrupted(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, max_attempts=1)
    heard = Heard(app)

    def interrupted(sender: Flask, **extra: Any) -> None:
        raise KeyboardInterrupt

    message_reported.connect(interrupted, sender=app)
    Ants(app.test_client()).post(callback(detail()))
    with pytest.raises(KeyboardInterrupt):
        bound_inbox(app).take()
    assert heard.names.count("message_dead") == counts(app)["dead"] == 1


@pytest.fixture
def work_between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Flask], None]:
    """Has operators' commands go in pieces of three, and a worker go on between them."""
    monkeypatch.setattr(inbox_module, "_PIECE", 3)

    def between(app: Flask) -> None:
        database, pieces = bound_inbox(app).database, count(1)
        run = database.run

        def run_and_work(action: Callable[..., Any], **options: Any) -> Any:
            found = run(action, **options)
            if "limit" in getattr(action, "keywords", ()):
                assert next(pieces) < 20, "it does not end"
                drain(app)
            return found

        monkeypatch.setattr(database, "run", run_and_work)

    return between


def test_each_is_delivered_again_once(
    make_inbox_app: MakeApp, work_between: Callable[[Flask], None]
) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    post(app, many(9))
    work_between(app)
    assert bound_inbox(app).redeliver(bulk_id="b") == Redelivered(pending=9, erased=0)
    assert Counter(message.message_id for message in heard.messages) == {
        f"m{number}": 2 for number in range(9)
    }


def test_each_dead_one_is_tried_again_once(
    make_inbox_app: MakeApp,
    work_between: Callable[[Flask], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "_FAILURES", 100)  # it is not let rest
    app = make_inbox_app(max_attempts=1)
    tries: Counter[str] = Counter()

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        tries[message.message_id] += 1
        raise Discard if tries[message.message_id] > 2 else LookupError

    message_reported.connect(failing, sender=app)
    post(app, many(9))
    work_between(app)
    assert bound_inbox(app).retry() == 9
    assert set(tries.values()) == {2}


def test_trying_now_what_is_asked_for_later_ends(
    make_inbox_app: MakeApp, work_between: Callable[[Flask], None]
) -> None:
    app = make_inbox_app()

    def later(sender: Flask, message: MessageReport, **extra: Any) -> None:
        raise RetryLater(3600)

    message_reported.connect(later, sender=app)
    post(app, many(9))
    work_between(app)
    assert bound_inbox(app).retry(state=State.WAITING) == 9


def test_what_is_erased_while_it_is_delivered_again(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_inbox_app()
    inbox, ants = bound_inbox(app), Ants(app.test_client())
    for number in range(9):
        assert ants.post(callback(detail(messageId=str(number)))).status_code == 200
    monkeypatch.setattr(inbox_module, "_PIECE", 3)
    lock, erased = callbacks.lock, list[int]()

    def erase_and_lock(connection: Connection, ids: Iterable[int]) -> Sequence[int]:
        ids = list(ids)
        if not erased and connection.dialect.name != "sqlite":  # which has one writer
            erased.append(ids[0])
            with inbox.database.begin() as other:
                callbacks.erase(other, erased, time.time() + 1, time.time())
        return lock(connection, ids)

    monkeypatch.setattr(callbacks, "lock", erase_and_lock)
    done = inbox.redeliver(since=datetime.now(UTC) - timedelta(hours=1))
    assert done == Redelivered(pending=9 - len(erased), erased=len(erased))
