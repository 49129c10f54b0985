"""The example application as its users start it: a copy of it, in a process, over HTTP."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from werkzeug.datastructures import Authorization

from kit import ROOT
from servers import free_port
from servers import is_open
from servers import wait_for

PAIR = Authorization("basic", {"username": "ants", "password": "demo"})


class Demo:
    """
    :param folder: where the copy is made, so that its record starts empty.
    :param inbox_url: another database than that of its users.
    """

    def __init__(self, folder: Path, inbox_url: str | None = None) -> None:
        shutil.copytree(ROOT / "example_app", folder / "example_app")
        shutil.copy(ROOT / ".flaskenv", folder)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FLASK_")
        } | {"FLASK_RUN_PORT": str(self.port)}
        if inbox_url is not None:
            self._environment["FLASK_ANTS_DR_INBOX_URL"] = inbox_url
            self.flask("ants-dr", "init-db")

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command("run"), cwd=self.folder, env=self._environment)
        wait_for(lambda: process.poll() is not None or is_open(self.port))
        return process

    def flask(self, *arguments: str) -> str:
        """What a ``flask`` command prints, which must succeed."""
        command = self._command(*arguments)
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, check=True, stdout=subprocess.PIPE
        ).stdout.decode()

    def request(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return response, response.read()

    def page(self, path: str) -> str:
        response, body = self.request("GET", path)
        assert response.status == 200
        return body.decode()

    def rows(self, path: str) -> list[dict[str, str]]:
        """A table of the console."""
        text = self.page(f"/ants-dr/{path}?format=csv").removeprefix("\ufeff")
        return list(csv.DictReader(text.splitlines()))

    def press(self, path: str, fields: Iterable[tuple[str, Any]] = ()) -> str:
        """Send a form, and return where it leads."""
        response, _ = self.request(
            "POST",
            path,
            urlencode(list(fields)).encode(),
            content_type="application/x-www-form-urlencoded",
        )
        assert response.status == 303
        return response.headers["Location"]

    def post(self, body: bytes, content_type: str = "application/json") -> Any:
        """Post a callback and return the answer's JSON."""
        _, answer = self.request(
            "POST", "/sms/callback", body, content_type=content_type, authorization=str(PAIR)
        )
        return json.loads(answer)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", "example_app", *arguments]


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)
