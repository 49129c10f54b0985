"""The READMEs' Python blocks run, in their order, as one program."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from blocks import READMES
from blocks import program
from kit import Ants
from kit import callback
from kit import detail

pytestmark = pytest.mark.usefixtures("own_subscribers")

both = pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)


@both
def test_python_blocks(
    readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = program(readme)
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", "ants")
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", "secret")
    ants = Ants(names["create_app"]().test_client())
    body = callback(detail(messageId="m", doneDate="2026-01-01T00:00:00"))
    assert ants.post(body, auth=("ants", "secret")).status_code == 200
    assert capsys.readouterr().out == "m 2026-01-01 00:00:00+07:00\n"


@both
def test_tests_of_a_host(readme: Path, app: Flask) -> None:
    """The blocks that are tests themselves."""
    names = program(readme)
    tests = [names[name] for name in names if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        test(app)
