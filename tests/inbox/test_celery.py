"""Celery as the engine: a real Redis, a real worker process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask

from flask_ants_dr.inbox.celery import enqueue
from host import create_app
from kit import TESTS
from kit import Ants
from kit import bound_inbox
from kit import counts
from kit import make_older
from kit import many
from kit import rows
from servers import free_port
from servers import redis
from servers import wait_for

# On one database; the kill campaign has Celery on all of them.
pytestmark = [
    pytest.mark.celery,
    pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True),
]


@contextmanager
def worker(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    celery = [sys.executable, "-m", "celery", "--app", "host_celery", "worker"]
    schedule = str(folder / "beat")
    process = subprocess.Popen(
        [*celery, "--concurrency", "2", "--loglevel", "error", "--schedule", schedule, *options],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, inbox_url: str, tmp_path: Path) -> int:
    """The broker's port, in the environment of the host and of its workers."""
    port = free_port()
    for name, value in {
        "FLASK_ANTS_DR_USERNAME": "ants",
        "FLASK_ANTS_DR_PASSWORD": "s3cret-pair",
        "FLASK_ANTS_DR_INBOX_URL": inbox_url,
        "HOST_ENGINE": "celery",
        "HOST_BROKER": f"redis://127.0.0.1:{port}/0",
        "HOST_RECORD": str(tmp_path / "record"),
    }.items():
        monkeypatch.setenv(name, value)
    return port


@pytest.fixture
def host(port: int) -> Iterator[Flask]:
    app = create_app()
    bound_inbox(app).database.create_tables()
    yield app
    bound_inbox(app).database.close()


def recorded(folder: Path, name: str = "record") -> Counter[str]:
    path = folder / name
    return Counter(path.read_text().split() if path.exists() else [])


def test_a_worker_dispatches_what_is_enqueued(host: Flask, port: int, tmp_path: Path) -> None:
    with redis(port, tmp_path), worker(tmp_path):
        assert Ants(host.test_client()).post(many(250)).status_code == 200
        wait_for(lambda: counts(host)["done"] == 250)
    assert recorded(tmp_path) == {f"m{number}": 1 for number in range(250)}


def test_a_subscriber_that_returned_is_not_called_again(
    host: Flask, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever worker takes up what another subscriber failed on."""
    monkeypatch.setenv("HOST_FAIL", "m3")
    with redis(port, tmp_path), worker(tmp_path, "--beat"):
        assert Ants(host.test_client()).post(many(20)).status_code == 200
        wait_for(lambda: counts(host)["done"] == 20)
    once = {f"m{number}": 1 for number in range(20)}
    assert recorded(tmp_path) == once
    assert recorded(tmp_path, "record.failing") == once | {"m3": 4}


def test_only_identifiers_go_to_the_broker(host: Flask, port: int, tmp_path: Path) -> None:
    with redis(port, tmp_path):
        body = many(3, text="planted text", to="66898887777")
        assert Ants(host.test_client()).post(body).status_code == 200
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"LRANGE celery 0 -1\r\n")
            connection.settimeout(10)
            queued = connection.recv(65_536)
    assert b"flask_ants_dr.dispatch" in queued
    for planted in (b"planted", b"8887777", b"m1"):
        assert planted not in queued


def test_a_broker_that_is_down(host: Flask, port: int, tmp_path: Path) -> None:
    """The request answers 200 all the same, and a periodic sweep takes it up."""
    assert Ants(host.test_client()).post(many(20)).status_code == 200
    assert counts(host) == {"pending": 20, "done": 0, "dead": 0}
    with ExitStack() as stack:
        stack.enter_context(redis(port, tmp_path))
        stack.enter_context(worker(tmp_path, "--beat"))
        wait_for(lambda: counts(host)["done"] == 20)
    assert recorded(tmp_path) == {f"m{number}": 1 for number in range(20)}


def test_a_sweep_deletes_what_was_kept_long_enough(host: Flask, port: int, tmp_path: Path) -> None:
    with redis(port, tmp_path):
        Ants(host.test_client()).post(many(3))
        bound_inbox(host).take()
        make_older(host, 31)
        with worker(tmp_path, "--beat"):
            wait_for(lambda: rows(host) == 0)


def test_a_worker_that_was_killed(host: Flask, port: int, tmp_path: Path) -> None:
    """The message that killed it is dispatched again, as is what it did in its last 50 ms."""
    os.environ["HOST_KILL"] = "m7"
    try:
        with redis(port, tmp_path), worker(tmp_path, "--beat"):
            assert Ants(host.test_client()).post(many(20)).status_code == 200
            wait_for(lambda: counts(host)["done"] == 20)
    finally:
        del os.environ["HOST_KILL"]
    calls = recorded(tmp_path)
    assert calls.keys() == {f"m{number}" for number in range(20)}
    assert calls["m7"] == 2
    assert {calls[f"m{number}"] for number in range(8, 20)} == {1}


def test_what_is_enqueued_twice_is_dispatched_once(host: Flask, port: int, tmp_path: Path) -> None:
    with redis(port, tmp_path):
        assert Ants(host.test_client()).post(many(50)).status_code == 200
        inbox = bound_inbox(host)
        enqueue(inbox.source, inbox.due(100))
        enqueue("no such source", [1])
        with worker(tmp_path):
            wait_for(lambda: counts(host)["done"] == 50)
            time.sleep(1)
    assert recorded(tmp_path) == {f"m{number}": 1 for number in range(50)}
