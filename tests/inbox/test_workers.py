"""Which processes dispatch what waits."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from functools import partial
from threading import Event
from threading import Thread

import pytest
from flask import Flask

from flask_ants_dr.inbox import worker
from flask_ants_dr.inbox.workers import SignOfLife
from kit import bound_inbox
from servers import wait_for

MakeApp = Callable[..., Flask]


def test_a_worker_is_alive_until_it_ends(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SEEN", 0.05)
    inbox = bound_inbox(make_inbox_app(eager=False))
    stop, before = Event(), datetime.now(UTC)
    thread = Thread(
        target=lambda: worker.work([inbox], concurrency=1, poll=0.1, once=False, stop=stop)
    )
    thread.start()
    try:
        wait_for(lambda: len(inbox.workers()) == 1)
        (first,) = inbox.workers()
        assert (first.kind, first.host, first.pid) == ("work", socket.gethostname(), os.getpid())
        assert before <= first.since <= first.seen_at <= datetime.now(UTC)
        wait_for(lambda: inbox.workers()[0].seen_at > first.seen_at)
        (status,) = inbox.status()["workers"]
        assert status["pid"] == os.getpid()
    finally:
        stop.set()
        thread.join()
    assert inbox.workers() == []


def test_one_that_died_is_dead_after_a_while(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = bound_inbox(make_inbox_app())
    first, second = SignOfLife("work"), SignOfLife("celery")
    for sign in (first, second):
        inbox.database.run(partial(sign.give, source=inbox.source))
    assert [one.kind for one in inbox.workers()] == ["work", "celery"]
    now = time.time()
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now + 31)
        assert [one.kind for one in inbox.workers()] == ["celery"]
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now + 90_000)
        third = SignOfLife("work")
        inbox.database.run(partial(third.give, source=inbox.source))
        with inbox.database.begin(writes=False) as connection:
            left = connection.exec_driver_sql("SELECT count(*) FROM ants_dr_workers").scalar()
    assert left == 1


def test_a_run_until_nothing_is_due_is_no_worker(make_inbox_app: MakeApp) -> None:
    inbox = bound_inbox(make_inbox_app())
    worker.work([inbox], concurrency=1, poll=0.1, once=True, stop=Event())
    assert inbox.workers() == []
