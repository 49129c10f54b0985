"""What the log's records are about, by area."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import flask_ants_dr
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import log
from flask_ants_dr import message_dead
from flask_ants_dr import message_reported
from flask_ants_dr import report_received
from flask_ants_dr.inbox import Inbox
from kit import ROOT
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from servers import wait_for

LOGGERS = {name for name, value in vars(log).items() if isinstance(value, logging.Logger)}
FIELDS = {"source", "status", "message", "subscriber", "attempt"}
SECRETS = ("66812345678", "otp-1234", "MyBrand", "id-77", "planted")


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Those that say something."""
    prefix = "ants_dr_"
    said = {n.removeprefix(prefix): v for n, v in vars(record).items() if n.startswith(prefix)}
    assert said.keys() == FIELDS
    return {name: value for name, value in said.items() if value is not None}


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """The area and the fields of each record, none of which has a value of a body."""
    found = []
    for record in caplog.records:
        assert record.name.startswith("flask_ants_dr.")
        shown = f"{record.getMessage()} {fields(record)}"
        assert not [secret for secret in SECRETS if secret in shown]
        found.append((record.name.removeprefix("flask_ants_dr."), fields(record)))
    return found


def test_every_record_says_what_it_is_about() -> None:
    """By an area's logger, with a template that is constant."""
    found = set()
    for path in sorted(Path(flask_ants_dr.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of, name = ast.unparse(node.func.value), node.func.attr
            assert name != "getLogger" or path.name == "log.py", f"{path}:{node.lineno}"
            if name not in {"debug", "info", "warning", "error", "exception", "critical", "log"}:
                continue
            where = f"{path}:{node.lineno}"
            assert of in LOGGERS, where
            assert isinstance(node.args[0], ast.Constant), where
            (extra,) = [one.value for one in node.keywords if one.arg == "extra"]
            assert ast.unparse(extra).startswith("about("), where
            found.add(of)
    assert found == LOGGERS


def test_what_is_refused(ants: Ants, caplog: pytest.LogCaptureFixture) -> None:
    odd = detail(messageId="id-77", to="66812345678", doneDate="planted")
    ants.post(callback(odd, {"text": "otp-1234"}))
    ants.post('{"planted')
    ants.post(callback(), auth=("planted", "otp-1234"))
    assert told(caplog) == [
        ("callback", {"source": "ants_dr"}),
        ("callback", {"source": "ants_dr"}),
        ("callback", {"source": "ants_dr", "status": 400}),
        ("callback", {"source": "ants_dr", "status": 401}),
    ]


@pytest.fixture
def app(tmp_path: Path) -> Any:
    inbox = Inbox(backoff=0, max_attempts=2, quarantine_bytes=10_000)
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=inbox), ANTS_DR_INBOX_URL=url)
    yield app
    bound_inbox(app).database.close()


def test_what_subscribers_raise(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    def name(subscriber: Callable[..., None]) -> str:
        return f"{subscriber.__module__}.{subscriber.__qualname__}"

    @report_received.connect_via(app)
    def hears_of_reports(app: Flask, **extra: Any) -> None:
        raise LookupError

    @message_reported.connect_via(app)
    def books(app: Flask, message: MessageReport, **extra: Any) -> None:
        raise LookupError(message.text)

    @message_dead.connect_via(app)
    def hears_of_dead(app: Flask, **extra: Any) -> None:
        raise LookupError

    message = detail(messageId="id-77", to="66812345678", text="otp-1234")
    Ants(app.test_client()).post(callback(message | {"from": "MyBrand"}))

    def is_over() -> bool:
        drain(app)
        return counts(app)["dead"] == 1

    wait_for(is_over)
    (dead,) = bound_inbox(app).dead()
    attempt = {"source": "ants_dr", "message": dead.id, "subscriber": name(books)}
    assert told(caplog) == [
        ("delivery", {"source": "ants_dr", "subscriber": name(hears_of_reports)}),
        ("delivery", attempt | {"attempt": 1}),
        ("delivery", attempt | {"attempt": 2}),
        ("delivery", attempt | {"attempt": 2, "subscriber": name(hears_of_dead)}),
    ]
    templates = [record.msg for record in caplog.records]
    assert templates[1] == templates[2]


def test_what_fails_in_the_inbox(
    app: Flask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ants = Ants(app.test_client())
    for number in range(2):
        assert ants.post(f'{{"planted {number}' + 6000 * "x").status_code == 400
    bound_inbox(app).database.close()
    (tmp_path / "inbox.sqlite3").unlink()
    assert ants.post(callback(detail(messageId="id-77"))).status_code == 503
    refused = ("callback", {"source": "ants_dr", "status": 400})
    assert told(caplog) == [
        refused,
        ("inbox", {"source": "ants_dr"}),  # its quarantine is full
        refused,
        ("inbox", {}),
        ("callback", {"source": "ants_dr", "status": 503}),
    ]


def test_the_manual_has_loggers_and_attributes() -> None:
    page = (ROOT / "docs" / "production.md").read_text("utf-8")
    loggers = {getattr(log, name).name for name in LOGGERS}
    assert set(re.findall(r"^\| `(flask_ants_dr\.\w+)` \|", page, re.MULTILINE)) == loggers
    assert set(re.findall(r"^\| `ants_dr_(\w+)` \|", page, re.MULTILINE)) == FIELDS
