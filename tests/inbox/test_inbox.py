"""The inbox, on each of its databases."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import closing
from contextlib import suppress
from dataclasses import fields
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from typing import TypeVar
from uuid import uuid4

import pytest
from flask import Flask
from flask import g
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import Table
from sqlalchemy import event
from sqlalchemy import func
from sqlalchemy import make_url
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr.errors import InboxUnavailable
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import callbacks
from flask_ants_dr.inbox import delivery
from flask_ants_dr.inbox import messages
from flask_ants_dr.inbox import metadata
from flask_ants_dr.inbox import worker
from flask_ants_dr.inbox.callbacks import digest
from flask_ants_dr.inbox.callbacks import digest_after
from flask_ants_dr.inbox.delivery import failed
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.inbox.messages import Claimed
from flask_ants_dr.inbox.messages import Outcome
from flask_ants_dr.inbox.retention import days_of_bodies
from flask_ants_dr.inbox.tables import State
from flask_ants_dr.inbox.tables import messages as messages_table
from flask_ants_dr.inbox.tables import quarantine as quarantine_table
from flask_ants_dr.models import Envelope
from kit import TESTS
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import locked
from kit import make_app
from kit import many
from kit import rows
from kit import stop_server
from servers import MariaDB
from servers import free_port
from servers import is_open
from servers import stopped
from servers import wait_for

T = TypeVar("T")

ENVELOPE = Envelope(
    source="ants_dr",
    content_type="",
    url_variables={},
    query={},
    received_at=datetime.now(UTC),
    body=b"",
)


def engine_of(app: Flask) -> Engine:
    database = bound_inbox(app).database
    with database.begin():
        assert database._engine is not None
        return database._engine


def test_eager_dispatch(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, heard = Ants(app.test_client()), Heard(app)
    response = ants.post(callback(detail(messageId="a"), {}, detail(messageId="b")))
    assert response.get_json()["accepted"] == 2
    assert response.get_json()["rejected"] == 1
    assert heard.names[:2] == ["report_received", "message_invalid"]
    assert [message.message_id for message in heard.messages] == ["a", "b"]
    assert counts(app) == {"pending": 0, "done": 2, "dead": 0}
    assert drain(app) == 0
    assert (rows(app, "callbacks"), rows(app, "quarantine")) == (1, 1)


def test_deferred_dispatch(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    ants, heard = Ants(app.test_client()), Heard(app)
    body = callback(*[detail(messageId=f"m{number}", credit=1.5) for number in range(250)])
    assert ants.post(body, url="/sms/callback?order=7").status_code == 200
    assert heard.names == ["report_received"]
    assert counts(app) == {"pending": 250, "done": 0, "dead": 0}
    assert drain(app) == 250
    assert [message.message_id for message in heard.messages] == [f"m{n}" for n in range(250)]
    assert counts(app)["done"] == 250
    received = heard.arguments("report_received")[0]["report"]
    reports = [arguments["report"] for arguments in heard.arguments("message_reported")]
    for report in reports:
        assert (report.bulk_id, report.source) == ("b", "ants_dr")
        assert report.url_params == {"order": "7"}
    # What was claimed together is together, and equal to what was received.
    assert [len(report.messages) for report in reports[:1] + reports[-1:]] == [250, 250]
    assert tuple(heard.messages) == received.messages


def test_a_repeated_callback_changes_nothing(make_inbox_app: MakeApp, json_sample: bytes) -> None:
    app = make_inbox_app()
    ants, heard = Ants(app.test_client()), Heard(app)
    body = callback(detail(), {}, doneDate="x")
    for _ in range(3):
        for sent in (json_sample, json_sample.decode().encode("utf-16"), body):
            assert ants.post(sent).get_json()["accepted"] in {1, 2}
    assert Counter(heard.names) == {
        "report_received": 2,
        "message_reported": 3,
        "message_delivered": 3,
        "message_invalid": 1,
    }
    assert (rows(app), rows(app, "callbacks"), rows(app, "quarantine")) == (3, 2, 1)


@pytest.mark.parametrize(
    "first", [("ants_dr",), ("a,",), ("ants_dr", None), ("ants_dr", "{'a': \"ก\"}", "b'")]
)
@pytest.mark.parametrize("others", [("m1", None), ("\ud800", "1", 1.5, None)])
def test_keys_are_what_they_were(first: tuple[Any, ...], others: tuple[Any, ...]) -> None:
    """However they are made: what is stored is found by them."""
    assert digest_after(*first)(*others) == digest(*first, *others)


def test_json_and_xml_of_one_report_are_the_same(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    ants.post(callback(detail(doneDate="2026-01-01T00:00:00.5")))
    ants.post(callback(detail(doneDate="2025-12-31T17:00:00.500Z")))
    ants.post(
        "<C><bulkId>b</bulkId><details><detail><messageId>1</messageId><status><name>DELIVERED"
        "</name></status><doneDate>2026-01-01T00:00:00.5000000</doneDate></detail></details></C>",
        "text/xml",
    )
    assert rows(app) == 1


def test_what_makes_a_report_new(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    base = {"to": "661", "doneDate": "2026-01-01T00:00:00"}
    bodies = [
        callback(detail(**base)),
        callback(detail(**base), bulkId="other"),
        callback(detail(**base), bulkId=""),
        callback(detail(**base), bulkId=None),
        callback(detail(**base | {"to": "662"})),
        callback(detail(**base | {"to": None})),
        callback(detail(**base | {"to": ""})),
        callback(detail(**base | {"messageId": "2"})),
        callback(detail(**base | {"doneDate": "2026-01-01T00:00:01"})),
        callback(detail(**base | {"doneDate": None})),
        callback(detail(**base | {"status": {"name": "PENDING"}})),
    ]
    for body in bodies:
        assert ants.post(body).status_code == 200
    assert rows(app) == len(bodies)
    same = base | {"text": "other", "credit": 3, "status": {"name": "DELIVERED", "code": "9"}}
    assert ants.post(callback(detail(**same))).status_code == 200
    assert rows(app) == len(bodies)


def test_a_message_that_is_twice_in_a_callback_is_stored_once(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    assert Ants(app.test_client()).post(callback(detail(), detail())).json == {
        "accepted": 2,
        "rejected": 0,
    }
    assert len(heard.messages) == rows(app) == 1


def test_the_url_is_part_of_what_makes_a_report_new(inbox_url: str) -> None:
    """Two tenants have nothing in common, and neither have two orders."""
    blueprint = DeliveryReportBlueprint(rule="/sms/<tenant>", inbox=Inbox(eager=False))
    app = make_app(blueprint, ANTS_DR_INBOX_URL=inbox_url)
    bound_inbox(app).database.create_tables()
    ants, heard = Ants(app.test_client()), Heard(app)
    for url in ("/sms/acme?order=41", "/sms/globex", "/sms/acme?order=42") * 2:
        assert ants.post(callback(detail(), bulkId=None), url=url).status_code == 200
    assert rows(app) == 3
    drain(app)
    reports = [arguments["report"] for arguments in heard.arguments("message_reported")]
    assert [report.url_params for report in reports] == [
        {"tenant": "acme", "order": "41"},
        {"tenant": "globex"},
        {"tenant": "acme", "order": "42"},
    ]
    bound_inbox(app).database.close()


def test_a_broken_database_costs_no_other_blueprint(inbox_url: str, tmp_path: Path) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(eager=False)),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/broken",
        OTP_INBOX_URL=inbox_url,
        OTP_USERNAME="ants",
        OTP_PASSWORD="s3cret-pair",
    )
    (tmp_path / "broken").write_text("this is no database, but as long as one" * 100)
    app.register_blueprint(
        DeliveryReportBlueprint("otp", rule="/otp", config_prefix="OTP", inbox=Inbox(eager=False))
    )
    inboxes = bound_inboxes(app)
    inboxes[1].database.create_tables()
    heard = Heard(app)
    assert Ants(app.test_client()).post(callback(detail()), url="/otp").status_code == 200
    stop = threading.Event()

    def done(count: int) -> None:
        if count:
            stop.set()

    worker.work(inboxes, concurrency=2, poll=0.01, once=False, stop=stop, done=done)
    assert len(heard.messages) == 1
    for inbox in inboxes:
        inbox.database.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the machine cannot fork")
def test_a_fork_after_the_first_use(make_inbox_app: MakeApp) -> None:
    """As of a server that loads the application before it forks its workers."""
    app = make_inbox_app(eager=False, timeout=20)
    children = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where threads could be
        for number in range(3):
            rows(app)
            child = os.fork()
            if not child:
                statuses = {
                    Ants(app.test_client()).post(many(5) | {"bulkId": f"{number}-{n}"}).status_code
                    for n in range(10)
                }
                os._exit(statuses != {200})
            children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert rows(app) == 150


def test_two_sources_in_one_database(inbox_url: str, make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    blueprint = DeliveryReportBlueprint("otp", rule="/otp", inbox=Inbox(eager=False))
    app.register_blueprint(blueprint)
    ants, heard = Ants(app.test_client()), Heard(app)
    for url in ("/sms/callback", "/otp"):
        assert ants.post(callback(detail()), url=url).status_code == 200
    assert len(heard.messages) == 1
    assert rows(app) == 2
    assert len(app.extensions["ants_dr_databases"]) == 1


@pytest.mark.parametrize("eager", [True, False])
def test_the_same_callback_from_16_threads(make_inbox_app: MakeApp, eager: bool) -> None:
    app = make_inbox_app(eager=eager, timeout=30)
    heard = Heard(app)
    body = many(50)
    barrier = threading.Barrier(16)

    def post(_: int) -> int:
        barrier.wait()
        return Ants(app.test_client()).post(body).status_code

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(post, range(16))) == [200] * 16
    drain(app)
    assert rows(app) == 50
    assert rows(app, "callbacks") == 1
    assert Counter(message.message_id for message in heard.messages) == {
        f"m{number}": 1 for number in range(50)
    }
    assert heard.names.count("report_received") == 1


@pytest.mark.slow(reason="thousands of messages, from many threads")
def test_overlapping_callbacks_do_not_wait_for_each_other_for_ever(
    make_inbox_app: MakeApp,
) -> None:
    app = make_inbox_app(eager=False, timeout=30)
    one, two = many(3000), many(3000)
    two["details"].reverse()

    def post(number: int) -> int:
        body = (one, two)[number % 2] | {"x": number}
        return Ants(app.test_client()).post(body).status_code

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(post, range(16))) == [200] * 16
    assert rows(app) == 3000


@pytest.mark.slow(reason="hundreds of messages, from many threads")
def test_workers_share_the_work(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, timeout=30)
    heard = Heard(app)
    for number in range(10):
        Ants(app.test_client()).post(many(40) | {"bulkId": f"b{number}"})
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda _: drain(app), range(4))) == 400
    assert len(heard.messages) == 400
    assert counts(app) == {"pending": 0, "done": 400, "dead": 0}


def test_an_application_context_of_its_own_for_each_message(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    seen: list[bool] = []

    def subscriber(sender: Flask, **extra: Any) -> None:
        seen.append(hasattr(g, "touched"))
        g.touched = True

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(3))
    assert seen == [False] * 3


class TestFailures:
    def test_five_times_then_success(self, make_inbox_app: MakeApp) -> None:
        app = make_inbox_app(backoff=0)
        calls: list[str] = []

        def flaky(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            if message.message_id == "m1" and calls.count("m1") <= 5:
                raise LookupError

        message_reported.connect(flaky, sender=app)
        assert Ants(app.test_client()).post(many(3)).status_code == 200
        drain(app)
        assert Counter(calls) == {"m0": 1, "m1": 6, "m2": 1}
        assert counts(app) == {"pending": 0, "done": 3, "dead": 0}

    def test_always(self, make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
        app = make_inbox_app(backoff=0, max_attempts=3)
        inbox = bound_inbox(app)
        calls: list[str] = []

        def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            local = (message.to or "").replace("66", "0", 1)
            raise LookupError(f"no order for {message.to}, {local}, {message.text}")

        message_reported.connect(failing, sender=app)
        body = callback(detail(to="66898887777", text="planted text"))
        assert Ants(app.test_client()).post(body).status_code == 200
        assert drain(app) == 2
        assert counts(app) == {"pending": 0, "done": 0, "dead": 1}
        (dead,) = inbox.dead()
        assert dead.attempts == len(calls) == 3
        assert dead.error == "LookupError: no order for ***, ***, ***"
        assert "planted" not in caplog.text
        assert "8887777" not in caplog.text
        assert "in failing\n" in caplog.text
        message_reported.disconnect(failing, sender=app)
        assert inbox.retry([dead.id]) == 1
        assert drain(app) == 1
        assert counts(app) == {"pending": 0, "done": 1, "dead": 0}

    def test_backoff_grows_with_jitter(self, make_inbox_app: MakeApp) -> None:
        inbox = bound_inbox(make_inbox_app(backoff=10, max_backoff=60, max_attempts=10_000))
        for attempts, longest in [(1, 10), (2, 20), (3, 40), (4, 60), (1000, 60)]:
            row = Claimed(1, 1, "key", attempts - 1)
            report = DeliveryReport(messages=())
            errors = {"subscriber": LookupError()}
            now = time.time()
            delays = [failed(inbox, row, None, report, errors, ()).due_at - now for _ in range(500)]
            assert 0 <= min(delays) < longest * 0.1
            assert longest * 0.9 < max(delays) <= longest + 1

    def test_a_failed_message_waits(self, make_inbox_app: MakeApp) -> None:
        app = make_inbox_app(backoff=1e6, max_backoff=1e6)

        def failing(sender: Flask, **extra: Any) -> None:
            raise LookupError

        message_reported.connect(failing, sender=app)
        Ants(app.test_client()).post(callback(detail()))
        assert drain(app) == 0
        assert counts(app)["pending"] == 1

    @pytest.mark.slow(reason="waits for a lease to end")
    def test_a_subscriber_that_hangs(
        self, make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its attempt has failed when the lease ends, and the others are given back."""
        app = make_inbox_app(eager=False, lease=2, backoff=0)
        calls: list[str] = []
        go_on = threading.Event()

        def subscriber(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            if message.message_id == "m0" and calls.count("m0") == 1:
                assert go_on.wait(30)

        message_reported.connect(subscriber, sender=app)
        Ants(app.test_client()).post(many(3))
        inbox = bound_inbox(app)
        with ThreadPoolExecutor(1) as hung:
            result = hung.submit(inbox.take)
            wait_for(lambda: bool(inbox.blocked))
            wait_for(lambda: counts(app)["done"] + drain(app) >= 3)
            go_on.set()
            assert result.result(10) == 3
        # The one that hung does not go on with the others when it is let go.
        assert Counter(calls) == {"m0": 2, "m1": 1, "m2": 1}
        assert counts(app) == {"pending": 0, "done": 3, "dead": 0}
        (line,) = [one for one in caplog.messages if "failed" in one]
        assert "subscriber, attempt 1 of 150" in line
        assert "TimeoutError: it took longer than the lease of 2 s" in line

    @pytest.mark.slow(reason="waits for leases to end")
    def test_a_slow_batch_keeps_its_claim(
        self, make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivery, "CLAIM", 1.0)
        monkeypatch.setattr(delivery, "RENEWED", 0.3)
        app = make_inbox_app(eager=False)
        calls: list[str] = []

        def slow(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            time.sleep(0.25)

        message_reported.connect(slow, sender=app)
        Ants(app.test_client()).post(many(8))
        with ThreadPoolExecutor(1) as other:
            taking = other.submit(bound_inbox(app).take)
            time.sleep(0.1)
            while not taking.done():
                assert bound_inbox(app).take() == 0
                time.sleep(0.1)
        assert len(calls) == 8

    @pytest.mark.parametrize("eager", [True, False])
    @pytest.mark.slow(reason="waits for leases to end")
    def test_a_message_that_takes_its_workers_with_it(
        self, make_inbox_app: MakeApp, eager: bool
    ) -> None:
        """It ends as a dead one, and costs none of those that were claimed with it."""
        app = make_inbox_app(eager=eager, max_attempts=3)
        calls: list[str] = []

        class Killed(KeyboardInterrupt):
            pass

        def killing(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            if message.message_id == "m3":
                raise Killed

        message_reported.connect(killing, sender=app)
        with suppress(Killed):
            Ants(app.test_client()).post(many(10))
        for _ in range(30):
            with suppress(Killed):
                drain(app)
        assert Counter(calls) == {f"m{number}": 1 for number in range(10)} | {"m3": 3}
        assert counts(app) == {"pending": 0, "done": 9, "dead": 1}
        (dead,) = bound_inbox(app).dead()
        assert dead.error == "its last worker did not finish it"

    def test_teardown_functions_and_errors_that_fail_themselves(
        self, make_inbox_app: MakeApp
    ) -> None:
        app = make_inbox_app(max_attempts=1)
        calls: list[str] = []

        class Unspeakable(Exception):
            def __str__(self) -> str:
                raise ValueError

        def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
            calls.append(message.message_id)
            g.fail = message.message_id == "m1"
            if message.message_id == "m0":
                raise Unspeakable

        message_reported.connect(failing, sender=app)

        @app.teardown_appcontext
        def teardown(error: object) -> None:
            if g.get("fail"):
                raise ZeroDivisionError("the session is gone")

        assert Ants(app.test_client()).post(many(3)).status_code == 200
        assert calls == ["m0", "m1", "m2"]
        dead = bound_inbox(app).dead()
        assert {row.error for row in dead} == {
            "Unspeakable: (without a message)",
            "ZeroDivisionError: the session is gone",
        }

    @pytest.mark.slow(reason="waits for leases to end")
    def test_a_slow_report_received_does_not_outlive_the_claim(
        self, make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flask_ants_dr import report_received

        monkeypatch.setattr(delivery, "CLAIM", 1.5)
        monkeypatch.setattr(delivery, "RENEWED", 0.1)
        app = make_inbox_app()
        heard = Heard(app)

        def slow(sender: Flask, **extra: Any) -> None:
            time.sleep(1.8)
            drain(app)

        report_received.connect(slow, sender=app)
        assert Ants(app.test_client()).post(callback(detail())).status_code == 200
        drain(app)
        assert len(heard.messages) == 1

    def test_stopping_gives_back_what_was_not_begun(self, make_inbox_app: MakeApp) -> None:
        app = make_inbox_app(eager=False)
        heard = Heard(app)
        Ants(app.test_client()).post(many(10))
        bound_inbox(app).take(stop=lambda: len(heard.messages) == 4)
        assert len(heard.messages) == 4
        assert counts(app) == {"pending": 6, "done": 4, "dead": 0}
        with bound_inbox(app).database.begin() as connection:
            tried = select(func.max(messages_table.c.attempts)).where(
                messages_table.c.state == "waiting"
            )
            assert connection.scalar(tried) == 0
        assert drain(app) == 6

    def test_report_received_that_raises_costs_nothing(
        self, make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        from flask_ants_dr import report_received

        app = make_inbox_app()
        heard = Heard(app)

        def failing(sender: Flask, **extra: Any) -> None:
            raise LookupError

        report_received.connect(failing, sender=app)
        assert Ants(app.test_client()).post(callback(detail())).status_code == 200
        assert len(heard.messages) == 1
        (message,) = caplog.messages
        assert message.startswith("ants_dr: a subscriber raised\n")
        assert message.endswith("raise LookupError\nLookupError")


class TestUnavailable:
    """The database fails in the middle of a callback, and the next one works once it is back."""

    def check(self, app: Flask, fail: Callable[[], object], mend: Callable[[], object]) -> None:
        ants, heard = Ants(app.test_client()), Heard(app)
        assert ants.post(many(3)).status_code == 200
        heard.calls.clear()
        fail()
        body = callback(*[detail(messageId=f"n{n}", text="x" * 1000) for n in range(200)])
        for sent in (body, "not json" * 30_000):
            response = ants.post(sent)
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "30"
            assert response.mimetype == "application/problem+json"
        assert heard.names == ["callback_rejected"] * 2
        mend()
        assert rows(app) == 3
        assert rows(app, "callbacks") == 1
        assert ants.post(body).status_code == 200
        assert len(heard.messages) == 200
        assert counts(app) == {"pending": 0, "done": 203, "dead": 0}

    def test_gone(
        self, make_inbox_app: MakeApp, inbox_url: str, tmp_path: Path, server: Any
    ) -> None:
        app = make_inbox_app(timeout=1)
        if inbox_url.startswith("sqlite"):
            database = bound_inbox(app).database

            away = tmp_path.with_name(tmp_path.name + "-away")

            def fail() -> None:
                database.close()
                tmp_path.rename(away)
                tmp_path.write_text("in the way")

            def mend() -> None:
                tmp_path.unlink()
                away.rename(tmp_path)

            self.check(app, fail, mend)
        else:
            self.check(app, lambda: stop_server(server), server.start)

    def test_locked(self, make_inbox_app: MakeApp, inbox_url: str) -> None:
        app = make_inbox_app(timeout=1)
        if inbox_url.startswith("sqlite"):
            path = inbox_url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                self.check(
                    app,
                    lambda: other.execute("BEGIN IMMEDIATE"),
                    lambda: other.execute("ROLLBACK"),
                )
        else:
            with engine_of(app).connect() as connection, ExitStack() as stack:
                self.check(app, lambda: stack.enter_context(locked(connection)), stack.close)

    def test_read_only(self, make_inbox_app: MakeApp, inbox_url: str) -> None:
        app = make_inbox_app()
        engine = engine_of(app)
        on, off = {
            "sqlite": ("PRAGMA query_only = on", "PRAGMA query_only = off"),
            "postgresql": (
                "SET default_transaction_read_only = on",
                "SET default_transaction_read_only = off",
            ),
        }.get(
            make_url(inbox_url).get_backend_name(),
            ("SET SESSION TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE"),
        )

        def perform(statement: str) -> Callable[[], None]:
            def on_checkout(connection: Any, *args: object) -> None:
                connection.cursor().execute(statement)
                connection.commit()

            def listen() -> None:
                event.listen(engine, "checkout", on_checkout)

            return listen

        self.check(app, perform(on), perform(off))

    @pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
    def test_full(self, make_inbox_app: MakeApp) -> None:
        """SQLite has a limit to set; for PostgreSQL it would take a file system of its own."""
        app = make_inbox_app()
        engine = engine_of(app)

        def set_to(pages: int) -> Callable[[], None]:
            def on_checkout(connection: Any, *args: object) -> None:
                connection.execute(f"PRAGMA max_page_count = {pages}")

            def listen() -> None:
                event.listen(engine, "checkout", on_checkout)

            return listen

        self.check(app, set_to(20), set_to(100_000))

    @pytest.mark.without_tables
    @pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
    def test_no_tables(self, inbox_url: str, caplog: pytest.LogCaptureFixture) -> None:
        app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=inbox_url)
        assert Ants(app.test_client()).post(callback(detail())).status_code == 503
        assert "tables are missing: run 'flask ants-dr init-db'." in caplog.text
        bound_inbox(app).database.close()

    def test_a_failure_after_the_commit_costs_nothing(self, make_inbox_app: MakeApp) -> None:
        """The mark fails, the callback is taken, and the mark is made once the database is back."""
        app = make_inbox_app()
        heard = Heard(app)
        engine = engine_of(app)

        def fail(connection: object, cursor: object, statement: str, *args: object) -> None:
            if statement.startswith("UPDATE"):
                raise OperationalError(statement, {}, Exception("gone"))

        event.listen(engine, "before_cursor_execute", fail)
        assert Ants(app.test_client()).post(callback(detail())).status_code == 200
        event.remove(engine, "before_cursor_execute", fail)
        wait_for(lambda: counts(app)["done"])
        assert drain(app) == 0
        assert len(heard.messages) == 1
        assert counts(app) == {"pending": 0, "done": 1, "dead": 0}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:hunter2?mode=memory&uri=true",
        "not a url",
        "nosuchdialect://x",
        "oracle://user:hunter2@host/database",
        "postgresql+hunter2://host/database",
        "postgresql+psycopg://user:hunter2@host:port/database",
        7,
    ],
)
def test_urls_that_are_none(url: Any) -> None:
    with pytest.raises(ValueError, match="ANTS_DR_INBOX_URL must be an SQLAlchemy URL") as caught:
        make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    assert "not a url" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("postgresql+asyncpg://user:hunter2@host/database", "postgresql+psycopg://"),
        ("postgresql+psycopg_async://user:hunter2@host/database", "postgresql+psycopg://"),
        ("sqlite+aiosqlite:////hunter2/inbox.sqlite3", "sqlite:////"),
        ("mysql+aiomysql://user:hunter2@host/database", "mysql+pymysql://"),
        ("mariadb+asyncmy://user:hunter2@host/database", "mariadb+pymysql://"),
    ],
)
def test_a_driver_for_asyncio(url: str, cure: str) -> None:
    with pytest.raises(ValueError, match=r"ANTS_DR_INBOX_URL names .* for asyncio") as caught:
        make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    assert url.split("://")[0] in str(caught.value)
    assert cure in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "module", "package"),
    [
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("postgresql+psycopg", "psycopg", "psycopg[binary]"),
        ("postgresql+pg8000", "pg8000", "pg8000"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mariadb+pymysql", "pymysql", "pymysql"),
    ],
)
def test_a_driver_that_is_missing(
    driver: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    url = f"{driver}://user:hunter2@host/database"
    with pytest.raises(ValueError, match="ANTS_DR_INBOX_URL needs the driver") as caught:
        make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    assert f"the driver {module}, which cannot be imported" in str(caught.value)
    assert f"pip install '{package}'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_two_blueprints_with_one_url_keep_their_own_timeout(inbox_url: str) -> None:
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(timeout=0.2)), ANTS_DR_INBOX_URL=inbox_url)
    for name, timeout in (("patient", 60), ("third", 0.2)):
        app.register_blueprint(
            DeliveryReportBlueprint(name, rule=f"/{name}", inbox=Inbox(timeout=timeout))
        )
    first, second, third = (inbox.database for inbox in bound_inboxes(app))
    assert first is third
    first.create_tables()
    second.create_tables()

    def post(url: str) -> int:
        return Ants(app.test_client()).post(callback(detail()), url=url).status_code

    with ThreadPoolExecutor(1) as threads:
        with second.begin() as connection, locked(connection):  # on SQLite a transaction locks
            waiting = threads.submit(post, "/patient")
            assert [post(url) for url in ("/sms/callback", "/third")] == [503, 503]
        assert waiting.result() == 200
    for database in (first, second):
        database.close()


NUMBERS = {
    "max_attempts": False,
    "lease": False,
    "eager_seconds": False,
    "timeout": False,
    "keep_days": False,
    "keep_bodies_days": False,
    "quarantine_days": False,
    "backoff": True,
    "max_backoff": True,
    "quarantine_bytes": True,
}
"""And whether they can be 0."""


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [-1, -0.5, 0, float("nan"), float("inf"), 10**20, True, False, "5", None]
)
def test_numbers_that_are_none(name: str, value: Any) -> None:
    if value == 0 and value is not False and NUMBERS[name]:
        assert getattr(Inbox(**{name: value}), name) == 0
    elif (name == "quarantine_bytes" and value == 10**20) or (
        name in {"keep_days", "keep_bodies_days"} and value is None
    ):
        assert getattr(Inbox(**{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=f"^{name} must be"):
            Inbox(**{name: value})


@pytest.mark.parametrize("name", ["max_attempts", "quarantine_bytes"])
def test_numbers_that_must_be_whole(name: str) -> None:
    options: dict[str, Any] = {name: 1.0}
    with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
        Inbox(**options)


def test_no_body_is_kept_longer_than_its_messages() -> None:
    assert days_of_bodies(Inbox(keep_days=3)) == 3
    assert days_of_bodies(Inbox()) == 7
    assert days_of_bodies(Inbox(keep_days=None)) == 7
    assert days_of_bodies(Inbox(keep_bodies_days=None)) == 30
    assert days_of_bodies(Inbox(keep_days=None, keep_bodies_days=None)) is None


def test_every_number_is_checked() -> None:
    numbers = {one.name for one in fields(Inbox) if type(one.default) in (int, float)}
    assert numbers == NUMBERS.keys()


def test_enqueue_and_eager() -> None:
    with pytest.raises(ValueError, match="eager is False"):
        Inbox(enqueue=lambda source, ids: None)


def test_the_default_is_sqlite_in_the_instance_folder(tmp_path: Path) -> None:
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config.update(ANTS_DR_USERNAME="ants", ANTS_DR_PASSWORD="s3cret-pair")
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox()))
    assert Ants(app.test_client()).post(callback(detail())).status_code == 200
    bound_inbox(app).database.close()
    path = tmp_path / "instance" / "ants_dr.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT count(*) FROM ants_dr_messages").fetchone() == (1,)


def test_the_tables_can_be_part_of_a_hosts_metadata() -> None:
    assert set(metadata.tables) == {
        "ants_dr_callback_counts",
        "ants_dr_callbacks",
        "ants_dr_errors",
        "ants_dr_ledger",
        "ants_dr_message_counts",
        "ants_dr_messages",
        "ants_dr_quarantine",
        "ants_dr_tasks",
        "ants_dr_version",
        "ants_dr_workers",
    }


WITHOUT = """
import sys
sys.modules["{missing}"] = None
import flask_ants_dr.cli
assert not [name for name in sys.modules if name.startswith("flask_ants_dr.inbox")]
import {module}
"""


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("sqlalchemy", "flask_ants_dr.inbox", "inbox"),
        ("sqlalchemy", "flask_ants_dr.inbox.celery", "inbox"),
        ("celery", "flask_ants_dr.inbox.celery", "celery"),
    ],
)
@pytest.mark.slow(reason="a process each, which imports it anew")
def test_without_the_extra(missing: str, module: str, extra: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, module=module)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"pip install 'Flask-ANTS-DR[{extra}]'" in run.stderr.splitlines()[-1]


def test_a_claim_that_ended_cannot_be_finished(make_inbox_app: MakeApp) -> None:
    """What its worker found out late does not count against the one that took over."""
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(callback(detail()))
    claim: dict[str, Any] = {"now": time.time() + 1, "until": 0.0}
    with bound_inbox(app).database.begin() as connection:
        (one,) = messages.claim_new(connection, "ants_dr", token="late", limit=1, **claim)
        again, lost = messages.claim_abandoned(
            connection, "ants_dr", token="new", max_attempts=5, **claim
        )
        (two,) = again
        assert (two.id, one.attempts, two.attempts, lost) == (one.id, 0, 1, [])
        outcome = Outcome(one, State.DEAD, 1)
        assert messages.mark(connection, "late", [outcome], 1.0) == [outcome]
        messages.renew(connection, "late", [one.id], 1e12)
        messages.release(connection, "late", [one.id], 1.0)
        assert messages.mark(connection, "new", [Outcome(two, State.DONE, 2)], 1.0) == []
    assert counts(app) == {"pending": 0, "done": 1, "dead": 0}


def while_another_looks(app: Flask, table: Table, action: Callable[[], T]) -> T:
    """What comes of something that begins while another transaction has each row locked."""
    with ThreadPoolExecutor(1) as threads:
        with bound_inbox(app).database.begin() as connection:
            connection.execute(select(table.c.id).with_for_update()).all()
            running = threads.submit(action)
            time.sleep(0.2)
        return running.result()


DEAD = {"state": State.DEAD, "attempts": 1, "failed_by": "host.subscriber"}


@pytest.mark.parametrize(
    ("values", "action"),
    [
        ({}, lambda inbox, id: inbox.take([id])),
        ({"attempts": 1}, lambda inbox, id: inbox.take([id])),
        ({"state": State.CLAIMED}, lambda inbox, id: inbox.take([id])),
        ({"attempts": 1, "due_at": 1e12}, lambda inbox, id: inbox.retry([id], state=State.WAITING)),
        (DEAD, lambda inbox, id: inbox.retry([id])),
        (DEAD, lambda inbox, id: inbox.discard([id])),
        (DEAD, lambda inbox, id: inbox.purge(0.0, dead=True)),
        ({"state": State.DONE}, lambda inbox, id: inbox.purge(0.0)),
        ({"state": State.DONE}, lambda inbox, id: inbox.redeliver(ids=[id]).pending),
    ],
)
def test_what_another_one_looks_at_is_waited_for(
    make_inbox_app: MakeApp, values: dict[str, Any], action: Callable[[BoundInbox, int], int]
) -> None:
    """As workers do who look for work; on MariaDB also at what they do not take."""
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(callback(detail()))
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.execute(update(messages_table).values(finished_at=1.0, **values))
        (id,) = connection.scalars(select(messages_table.c.id))
    assert while_another_looks(app, messages_table, lambda: action(inbox, id)) == 1


def test_a_quarantine_that_another_one_looks_at_is_purged(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(callback({}))
    purge = partial(bound_inbox(app).purge_quarantine, 0.0)
    assert while_another_looks(app, quarantine_table, purge) == 1


def test_a_claim_that_another_one_looks_at_is_renewed(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(callback(detail(), detail(messageId="2")))
    inbox = bound_inbox(app)
    claim = inbox._claim()
    monkeypatch.setattr(delivery, "RENEWED", 0.0)
    monkeypatch.setattr(delivery, "CLAIM", 1e6)
    batch = delivery.Batch(inbox, claim.token, claim.rows)
    while_another_looks(app, messages_table, batch.keep)
    with inbox.database.begin(writes=False) as connection:
        ends = connection.scalars(select(messages_table.c.due_at)).all()
    assert min(ends) > time.time() + 1e5
    batch.close()


@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_what_was_tried_too_often_is_not_claimed_where_it_was_locked(
    make_inbox_app: MakeApp,
) -> None:
    """When it was to be given up, and no longer when one is claimed."""
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(callback(detail()))
    claim: dict[str, Any] = {"token": "new", "now": 1.0, "until": 2.0, "max_attempts": 2}
    with engine_of(app).begin() as connection:
        tried = {"state": State.CLAIMED, "attempts": 1, "due_at": 0.0}
        connection.execute(update(messages_table).values(tried))
    with engine_of(app).connect() as other, bound_inbox(app).database.begin() as connection:
        other.execute(select(messages_table.c.id).with_for_update()).all()
        event.listen(connection, "after_cursor_execute", lambda *_: other.rollback(), once=True)
        assert messages.claim_abandoned(connection, "ants_dr", **claim) == ([], [])


def test_more_messages_than_a_statement_takes_parameters(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ids = range(1, 70_000)
    with bound_inbox(app).database.begin() as connection:
        messages.release(connection, "nobody's", ids, 1.0)


def test_a_probe_that_fails_leaves_the_connection_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox()),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path / 'inbox.sqlite3'}",
    )
    inbox = bound_inbox(app)

    def cache_size() -> int:
        with inbox.database.begin(writes=False) as connection:
            return int(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())

    before = cache_size()
    with inbox.database.begin() as connection:
        limit = "CREATE TRIGGER full BEFORE INSERT ON ants_dr_callbacks"
        connection.exec_driver_sql(f"{limit} BEGIN SELECT raise(ABORT, 'full'); END")
    with pytest.raises(InboxUnavailable):
        inbox.probe()
    assert cache_size() == before
    inbox.database.close()


def test_a_database_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    url = f"sqlite:///{tmp_path}/file/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    assert Ants(app.test_client()).post(callback(detail())).status_code == 503


def test_an_error_that_no_database_can_store(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)

    def failing(sender: Flask, **extra: Any) -> None:
        raise LookupError("a\0b\ud800c")

    message_reported.connect(failing, sender=app)
    Ants(app.test_client()).post(callback(detail()))
    (dead,) = bound_inbox(app).dead(1)
    assert dead.error == r"LookupError: a\u0000b\ud800c"


def test_no_value_of_a_message_in_the_log(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_inbox_app(backoff=0, max_attempts=2)

    def failing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        raise KeyError(message.extra["x"]["y"][0], message.callback_data, message.text)

    message_reported.connect(failing, sender=app)
    planted = detail(x={"y": ["planted"]}, callbackData="too", text="one\n'sown'\nก")
    Ants(app.test_client()).post(callback(planted))
    drain(app)
    lines = [record.getMessage() for record in caplog.records if "flask_ants_dr" in record.name]
    assert lines
    assert "planted" not in "\n".join(lines)
    assert "sown" not in "\n".join(lines)


def test_connections_are_closed_with_their_application(inbox_url: str) -> None:
    def use() -> weakref.ref[Flask]:
        app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=inbox_url)
        bound_inbox(app).database.create_tables()
        bound_inbox(app).status()
        return weakref.ref(app)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        app = use()
        gc.collect()
    assert app() is None
    assert not [one for one in caught if one.category is ResourceWarning]


def test_reading_waits_for_no_writer(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    inbox = bound_inbox(app)
    with engine_of(app).begin():
        assert inbox.status()["pending"] == 0
        assert not inbox.dead()
        assert not inbox.quarantined()


@pytest.mark.parametrize(
    "bodies",
    [
        [callback(detail(to=66812345678.5)), callback(detail(to=66812345679.5))],
        [callback(detail(doneDate="27/5/2019")), callback(detail(doneDate="28/5/2019"))],
        [callback(detail(), bulkId={"n": 1}), callback(detail(), bulkId={"n": 2})],
    ],
)
def test_what_cannot_be_read_tells_messages_apart(
    make_inbox_app: MakeApp, bodies: list[Any]
) -> None:
    app = make_inbox_app()
    for body in [*bodies, *bodies]:
        assert Ants(app.test_client()).post(body).status_code == 200
    assert rows(app) == len(bodies)


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("change", ["deleted", "exchanged"])
def test_a_file_that_is_deleted_or_exchanged(
    make_inbox_app: MakeApp, inbox_url: str, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    """It is noticed by the next callback, and the one after that is stored in the new file."""
    app = make_inbox_app(eager=False)
    bound_inbox(app).database.create_tables()  # as init-db does
    ants, path = Ants(app.test_client()), Path(inbox_url.removeprefix("sqlite:///"))
    assert ants.post(callback(detail(messageId="0"))).status_code == 200
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    if change == "exchanged":
        path.touch()
    statuses = [ants.post(callback(detail(messageId=str(n)))).status_code for n in (1, 2, 3)]
    assert statuses == [503, 200, 200]
    assert "the file was deleted or exchanged while it was open" in caplog.text
    assert counts(app)["pending"] == 2


def test_a_file_by_its_uri(tmp_path: Path) -> None:
    url = f"sqlite:///file:{tmp_path}/inbox.sqlite3?uri=true"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    for number in range(2):
        body = callback(detail(messageId=str(number)))
        assert Ants(app.test_client()).post(body).status_code == 200
    bound_inbox(app).database.close()
    assert (tmp_path / "inbox.sqlite3").exists()
    assert not Path("file:").exists()


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_requests_wait_beside_each_other_for_a_file_that_is_locked(
    make_inbox_app: MakeApp, inbox_url: str
) -> None:
    app = make_inbox_app()
    path = inbox_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x); BEGIN IMMEDIATE")

        def post(number: int) -> int:
            body = callback(detail(messageId=str(number)))
            return Ants(app.test_client()).post(body).status_code

        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(post, range(4))
            database = bound_inbox(app).database
            wait_for(lambda: database._engine and database._engine.pool.checkedout() == 4)  # type: ignore[attr-defined]
            lock.execute("ROLLBACK")
            assert list(answers) == [200] * 4


@pytest.mark.slow(reason="processes that open a file at once")
def test_a_new_file_that_processes_open_at_once(tmp_path: Path) -> None:
    program = (
        "from kit import *; from flask_ants_dr import *; from flask_ants_dr.inbox import Inbox;"
        f"app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL='sqlite:///{tmp_path}/new');"
        "print(Ants(app.test_client()).post(callback(detail())).status_code)"
    )
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in running] == ["200\n"] * 4


def test_a_database_that_cannot_hold_every_text(postgresql: Any) -> None:
    name = f"latin_{uuid4().hex}"
    encoding = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    postgresql.psql(f"CREATE DATABASE {name} {encoding};")
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox()),
        ANTS_DR_INBOX_URL=postgresql.get_uri(name, "psycopg"),
    )
    response = Ants(app.test_client()).post(callback(detail()))
    assert response.status_code == 503
    assert "ENCODING 'UTF8'" in response.text
    bound_inbox(app).database.close()


@pytest.mark.slow(reason="waits for an answer that does not come")
@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
def test_a_server_that_does_not_answer(make_inbox_app: MakeApp) -> None:
    """The connection is cut on our side, and the next one works when the server goes on."""
    app = make_inbox_app(timeout=2)
    ants, heard = Ants(app.test_client()), Heard(app)
    assert ants.post(callback(detail(messageId="0"))).status_code == 200
    with bound_inbox(app).database.begin(writes=False) as connection:
        process = connection.scalar(select(func.pg_backend_pid()))
        role = connection.scalar(text("SELECT current_user"))
    servers = subprocess.run(
        ["pgrep", "-f", f"postgres: {role} "], capture_output=True, text=True, check=True
    )
    assert str(process) in servers.stdout.split()
    with stopped(*map(int, servers.stdout.split())):
        assert ants.post(callback(detail(messageId="1"))).status_code == 503
    assert ants.post(callback(detail(messageId="2"))).status_code == 200
    assert [message.message_id for message in heard.messages] == ["0", "2"]


@pytest.mark.slow(reason="waits for an answer that does not come")
@pytest.mark.parametrize("inbox_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("connected", [True, False])
def test_a_mariadb_server_that_does_not_answer(
    make_inbox_app: MakeApp, mariadb: MariaDB, connected: bool
) -> None:
    """Neither to a statement nor to who connects."""
    server = mariadb.own
    app = make_inbox_app(timeout=2)
    ants, heard = Ants(app.test_client()), Heard(app)
    assert ants.post(callback(detail(messageId="0"))).status_code == 200
    if not connected:
        bound_inbox(app).database.close()
    with stopped(server.pid):
        started = time.monotonic()
        assert ants.post(callback(detail(messageId="1"))).status_code == 503
        assert time.monotonic() - started < 20
    assert ants.post(callback(detail(messageId="2"))).status_code == 200
    assert [message.message_id for message in heard.messages] == ["0", "2"]
    assert rows(app) == 2


@pytest.mark.slow(reason="waits for a deadline")
@pytest.mark.parametrize(
    ("inbox_url", "sleep"),
    [("postgresql", "SELECT pg_sleep(0.4)"), ("mariadb", "SELECT sleep(0.4)")],
    indirect=["inbox_url"],
)
def test_a_transaction_has_one_deadline(make_inbox_app: MakeApp, sleep: str) -> None:
    """However many answers it waits for, none of them for long."""
    answers = []

    def work(connection: Connection) -> None:
        for _ in range(10):
            answers.append(connection.exec_driver_sql(sleep))

    with pytest.raises(InboxUnavailable):
        bound_inbox(make_inbox_app(timeout=1)).database.run(work)
    assert len(answers) < 5


@pytest.mark.parametrize("inbox_url", ["mariadb"], indirect=True)
def test_what_a_transaction_says_is_of_it_alone(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    variable = "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"
    level = "SELECT trx_isolation_level FROM information_schema.innodb_trx"
    with bound_inbox(app).database.begin() as connection:
        callbacks.insert(connection, ENVELOPE)
        own = text(f"{level} WHERE trx_mysql_thread_id = connection_id()")
        assert connection.scalar(own) == "READ COMMITTED"
    with engine_of(app).connect() as connection:
        assert connection.execute(text(variable)).first()[1] == "REPEATABLE-READ"  # type: ignore[index]


@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_deadlock_is_tried_again(make_inbox_app: MakeApp) -> None:
    """Two transactions that lock two callbacks in opposite orders; the database ends one."""
    app = make_inbox_app(timeout=20)
    database = bound_inbox(app).database
    with database.begin() as connection:
        ids = [callbacks.insert(connection, ENVELOPE) for _ in range(2)]
    tries: Counter[int] = Counter()
    barrier = threading.Barrier(2)
    one_has_ended = threading.Event()

    def lock(order: int) -> int:
        def work(connection: Connection) -> None:
            tries[order] += 1
            if tries[order] > 1:
                one_has_ended.wait(20)  # else the two can meet again
            callbacks.lock(connection, [ids[order]])
            if tries[order] == 1:
                barrier.wait(20)
            callbacks.lock(connection, [ids[1 - order]])

        database.run(work)
        one_has_ended.set()
        return order

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lock, range(2))) == [0, 1]
    assert sum(tries.values()) == 3


def test_a_conflict_is_not_tried_again_for_ever(make_inbox_app: MakeApp) -> None:
    """As deadlocks could be that come again and again; other failures are not tried again."""
    database = bound_inbox(make_inbox_app()).database
    tries: list[str] = []

    class Deadlock(Exception):
        sqlstate = "40P01"

    def fail(connection: Connection, statement: str, error: Exception) -> None:
        tries.append(statement)
        raise OperationalError(statement, {}, error)

    for statement, error in (("one", Deadlock(1213, "Deadlock")), ("two", Exception("gone"))):
        with pytest.raises(InboxUnavailable):
            database.run(partial(fail, statement=statement, error=error))
    assert Counter(tries) == {"one": 1 if database.is_sqlite else 3, "two": 1}


def test_sources_that_differ_by_case_or_are_not_ascii(inbox_url: str) -> None:
    app = make_app()
    app.config.update(ANTS_DR_INBOX_URL=inbox_url)
    names = ("otp", "OTP", "ก🐘")
    for name in names:
        inbox = Inbox(eager=False, max_attempts=1)
        app.register_blueprint(DeliveryReportBlueprint(name, rule=f"/{name}", inbox=inbox))
    inboxes = bound_inboxes(app)
    inboxes[0].database.create_tables()

    def failing(sender: Flask, **extra: Any) -> None:
        raise LookupError("ไม่พบ 🐘")

    message_reported.connect(failing, sender=app)
    for name in names[1:]:
        assert Ants(app.test_client()).post(callback(detail()), url=f"/{name}").status_code == 200
    assert [inbox.take() for inbox in inboxes] == [0, 1, 1]
    dead = [[(one.source, one.error) for one in inbox.dead()] for inbox in inboxes]
    assert dead == [[]] + [[(name, "LookupError: ไม่พบ 🐘")] for name in names[1:]]
    inboxes[0].database.close()


BODIES = {
    "unicode": callback(detail(text="สวัสดี 🐘 é e\u0301"), bulkId="ก🐘"),
    "hostile": (
        rb'{"bulkId": "\u0000\ud800\\", "details": [{"messageId": "a\u0000b\ud83d", "status":'
        rb' {"name": "DELIVERED"}, "text": "' + b"'; DROP TABLE ants_dr_messages; -- %s"
        rb' \\"}]}'
    ),
    "utf-16": json.dumps(callback(detail(text="ก🐘"))).encode("utf-16"),
    "8 MiB": (
        b'{"details": [{"messageId": "1", "status": {"name": "DELIVERED"}, "text": "'
        + rb"\n" * (4 * 1024 * 1024 - 40)
        + b'"}]}'
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_read_again_as_they_came(make_inbox_app: MakeApp, name: str) -> None:
    app = make_inbox_app(eager=False, timeout=30)
    ants, heard = Ants(app.test_client()), Heard(app)
    order = "ก🐘\"'\\" * 3000
    assert ants.post(BODIES[name], query_string={"order": order}).status_code == 200
    assert drain(app) == 1
    (received,) = heard.arguments("report_received")
    (reported,) = heard.arguments("message_reported")
    assert reported["report"] == received["report"]
    assert reported["report"].url_params == {"order": order}


def test_any_bytes_are_kept(make_inbox_app: MakeApp) -> None:
    """In quarantine; 8 MiB of them can be twice as much in a statement."""
    app = make_inbox_app(timeout=30)
    for body in (bytes(range(256)) * 100, b"\0'\"\\" * 2 * 1024 * 1024):
        assert Ants(app.test_client()).post(body).status_code == 400
        entry = bound_inbox(app).quarantined()[-1]
        assert bound_inbox(app).show(entry.id)[1].body == body


@pytest.mark.slow(reason="starts PgBouncer")
@pytest.mark.skipif(not shutil.which("pgbouncer"), reason="apt-get install pgbouncer")
@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
def test_a_pooler_in_transaction_mode(inbox_url: str, tmp_path: Path) -> None:
    """Transactions of all requests share two connections, and leave nothing on them."""
    url = make_url(inbox_url)
    port = free_port()
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={url.query['host']} user={url.username} pool_size=2\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = transaction\n"
    )
    # It refuses to run as root, and has to reach the server's socket.
    owner = Path(str(url.query["host"])).owner()
    as_owner = ["-u", owner] if os.geteuid() == 0 else []
    pooler = subprocess.Popen(
        ["pgbouncer", "-q", *as_owner, str(settings)], stderr=subprocess.PIPE, text=True
    )
    pooled = f"postgresql+psycopg://{url.username}@127.0.0.1:{port}/{url.database}"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=pooled)
    try:
        wait_for(lambda: is_open(port))
        bound_inbox(app).database.create_tables()
        heard = Heard(app)

        def post(number: int) -> int:
            body = many(20) | {"bulkId": str(number)}
            return Ants(app.test_client()).post(body).status_code

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(post, range(40))) == {200}
        assert len(heard.messages) == 800
        assert counts(app) == {"pending": 0, "done": 800, "dead": 0}
        with bound_inbox(app).database.begin(is_current=False) as connection:
            for name in ("lock_timeout", "statement_timeout", "synchronous_commit"):
                assert connection.scalar(text(f"SHOW {name}")) in {"0", "on"}
    finally:
        bound_inbox(app).database.close()
        pooler.terminate()
        pooler.communicate()


def test_a_report_says_when_it_came(make_inbox_app: MakeApp) -> None:
    """Also where it is dispatched later."""
    app = make_inbox_app(eager=False)
    heard = Heard(app)
    before = datetime.now(UTC)
    Ants(app.test_client()).post(many(1))
    after = datetime.now(UTC)
    drain(app)
    (envelope,), (message,) = (
        heard.arguments("report_received"),
        heard.arguments("message_reported"),
    )
    assert before <= envelope["report"].received_at <= after
    dispatched = message["report"].received_at
    assert abs(dispatched - envelope["report"].received_at) < timedelta(milliseconds=1)
