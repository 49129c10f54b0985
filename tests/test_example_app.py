"""The example application, started as its users start it, over real HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES
from conftest import callback
from conftest import detail
from werkzeug.datastructures import Authorization

ROOT = Path(__file__).parents[1]
PAIR = Authorization("basic", {"username": "ants", "password": "demo"})


class Demo:
    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, body, names)
            response = connection.getresponse()
            assert response.status == 200
            return json.loads(response.read())

    def post(self, body: bytes, content_type: str) -> Any:
        return self.request(
            "POST", "/sms/callback", body, content_type=content_type, authorization=str(PAIR)
        )

    @property
    def messages(self) -> Any:
        return self.request("GET", "/")["messages"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A copy of it, so that its record starts empty."""
    shutil.copytree(ROOT / "example_app", tmp_path / "example_app")
    shutil.copy(ROOT / ".flaskenv", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", str(port)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("FLASK_")},
    )
    try:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Demo(port)
    finally:
        process.terminate()
        process.wait(10)


def test_both_samples_are_recorded_once_however_often_they_come(demo: Demo) -> None:
    for _ in range(2):
        for name in ("json", "xml"):
            body = (SAMPLES / f"report.{name}").read_bytes()
            assert demo.post(body, f"application/{name}") == {"accepted": 2, "rejected": 0}
    messages = demo.messages
    assert len(messages) == 4
    assert {message["state"] for message in messages} == {"DELIVERED"}
    assert {message["message_id"] for message in messages} == {
        "25501288135972440649",
        "25501288135972440650",
    }
    assert {message["recipient"] for message in messages} == {"***6789", "***3445"}


def test_a_final_state_stays(demo: Demo) -> None:
    for name in ("ACCEPTED", "EXPIRED", "PENDING"):
        body = json.dumps(callback(detail(status={"name": name}))).encode()
        demo.post(body, "application/json")
    (message,) = demo.messages
    assert message["state"] == "EXPIRED"


def test_the_readme_posts_to_it() -> None:
    lines = re.findall(r"^curl .*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 2
    for line, name in zip(lines, ("json", "xml"), strict=True):
        assert "-u ants:demo" in line
        assert f"@example_app/report.{name} " in line
