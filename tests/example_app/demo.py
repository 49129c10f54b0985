"""The example application as its users start it: a copy of it, in a process, over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from werkzeug.datastructures import Authorization

from kit import ROOT

PAIR = Authorization("basic", {"username": "ants", "password": "demo"})


class Demo:
    """:param folder: where the copy is made, so that its record starts empty."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "example_app", folder / "example_app")
        shutil.copy(ROOT / ".flaskenv", folder)
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self, port: int | None = None) -> subprocess.Popen[bytes]:
        port = port or self.port
        options = ["--app", "example_app", "run", "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", *options],
            cwd=self.folder,
            env={
                name: value for name, value in os.environ.items() if not name.startswith("FLASK_")
            },
        )

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(lambda: process.poll() is not None or answers())
        return process

    def request(
        self, method: str, path: str, body: bytes = b"", port: int | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection("127.0.0.1", port or self.port, timeout=10)) as connection:
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return response, response.read()

    def post(self, body: bytes, content_type: str = "application/json", **options: Any) -> Any:
        """Post a callback and return the answer's JSON."""
        response, answer = self.request(
            "POST",
            "/sms/callback",
            body,
            content_type=content_type,
            authorization=str(PAIR),
            **options,
        )
        assert response.status == 200
        return json.loads(answer)

    def query(self, statement: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        path = self.folder / "instance" / "ants_dr.sqlite3"
        with closing(sqlite3.connect(path)) as database:
            return database.execute(statement, tuple(parameters)).fetchall()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
