"""The README's Python blocks run, in their order, as one program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Ants
from conftest import callback
from conftest import detail
from flask import Flask

from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import Recorder

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == README.read_text("utf-8").count("```python")
    program: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(block, program)

    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", "ants")
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", "secret")
    ants = Ants(program["create_app"]().test_client())
    body = callback(detail(messageId="m", doneDate="2026-01-01T00:00:00"))
    assert ants.post(body, auth=("ants", "secret")).status_code == 200
    assert capsys.readouterr().out == "m 2026-01-01 00:00:00+07:00\n"


def test_tests_of_a_host(app: Flask, ants_client: AntsClient, ants_signals: Recorder) -> None:
    """The blocks that are tests themselves."""
    program: dict[str, Any] = {}
    for block in re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        if "def test_" in block:
            exec(block, program)
    program["test_an_expired_message"](app)
    ants_signals.delivered.clear()
    program["test_with_fixtures"](ants_client, ants_signals)
