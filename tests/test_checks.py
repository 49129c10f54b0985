"""What ``flask ants-dr check`` finds, and ``flask ants-dr openapi`` describes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from openapi_spec_validator import validate
from sqlalchemy import event
from sqlalchemy import text as sql
from werkzeug.serving import make_server

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import message_delivered
from flask_ants_dr import message_reported
from flask_ants_dr.checks import check
from flask_ants_dr.checks import quick
from flask_ants_dr.cli import cli
from flask_ants_dr.encoding import encode
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import bound_inboxes
from flask_ants_dr.inbox.workers import SignOfLife
from flask_ants_dr.openapi import add_callbacks
from flask_ants_dr.openapi import openapi_document
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import String
from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import make_report
from kit import PASSWORD
from kit import USERNAME
from kit import Heard
from kit import bound_inbox
from kit import make_app
from kit import make_older

GOOD: dict[str, Any] = {
    "SERVER_NAME": "sms.example.com",
    "PREFERRED_URL_SCHEME": "https",
    "ANTS_DR_PASSWORD": "correct horse battery staple",
}


def levels(app: Flask, url: str | None = None) -> dict[str, str]:
    return {finding.subject: finding.level for finding in check(app, url)}


@pytest.fixture
def inbox_app(tmp_path: Path) -> Iterator[Flask]:
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(eager=False)), ANTS_DR_INBOX_URL=url, **GOOD)
    yield app
    bound_inbox(app).database.close()


def test_nothing_to_complain_of(inbox_app: Flask) -> None:
    heard = Heard(inbox_app)
    assert set(levels(inbox_app).values()) == {"ok"}
    run = inbox_app.test_cli_runner().invoke(cli, ["check"])
    assert run.exit_code == 0
    assert "https://sms.example.com/sms/callback" in run.output
    assert "curl -u" in run.output
    assert "battery" not in run.output
    assert heard.calls == []


def test_what_is_kept_how_long(inbox_app: Flask) -> None:
    def kept(app: Flask) -> tuple[str, str]:
        return next((one.level, one.text) for one in check(app) if one.subject == "kept")

    expected = "messages 30 days, bodies 7 days, quarantine 30 days"
    assert kept(inbox_app) == ("ok", expected)
    AntsClient(inbox_app.test_client()).deliver(make_report())
    bound_inbox(inbox_app).take()
    make_older(inbox_app, 30.9)
    assert kept(inbox_app) == ("ok", expected)
    make_older(inbox_app, 1)
    level, text = kept(inbox_app)
    assert level == "warning"
    assert text == f"{expected}; done messages are overdue for 1.9 days: start flask ants-dr work"
    url = inbox_app.config["ANTS_DR_INBOX_URL"]
    blueprint = DeliveryReportBlueprint(inbox=Inbox(keep_days=None, keep_bodies_days=0.5))
    app = make_app(blueprint, ANTS_DR_INBOX_URL=url, **GOOD)
    assert kept(app) == ("ok", "messages for ever, bodies 0.5 days, quarantine 30 days")
    bound_inbox(app).database.close()


def test_nobody_listens() -> None:
    app = make_app(**GOOD)
    found = levels(app)
    assert {found[name] for name in ("message-reported", "message-delivered")} == {"error"}
    run = app.test_cli_runner().invoke(cli, ["check", "--json"])
    assert run.exit_code == 1
    assert {
        "blueprint": "ants_dr",
        "level": "ok",
        "subject": "route",
        "text": "POST /sms/callback",
    } in (json.loads(run.output))


def test_failures_that_nobody_hears() -> None:
    app = make_app(**GOOD)

    def subscriber(sender: Flask, **arguments: Any) -> None: ...

    message_delivered.connect(subscriber, sender=app)
    assert levels(app)["message-failed"] == "warning"
    assert levels(app)["message-reported"] == "ok"
    message_reported.connect(subscriber, sender=app)
    assert levels(app)["message-failed"] == "ok"


@pytest.mark.parametrize(
    ("config", "url", "level"),
    [
        ({}, None, "warning"),
        ({"SERVER_NAME": "a.example"}, None, "warning"),
        ({"SERVER_NAME": ".".join(["a" * 46] * 3), "PREFERRED_URL_SCHEME": "https"}, None, "error"),
        ({}, "https://a.example/sms/callback", "ok"),
        ({}, "https://a.example/" + "a" * 120 + "/sms/callback", "error"),
        ({}, "https://a.example/" + "a" * 119 + "/sms/callback", "ok"),
        ({}, "https://a.example/other", "warning"),
        ({**GOOD, "TRUSTED_HOSTS": ["sms.example.com"]}, None, "ok"),
    ],
)
def test_the_url(config: dict[str, Any], url: str | None, level: str) -> None:
    assert levels(make_app(**config), url)["notifyUrl"] == level


@pytest.mark.parametrize("url", ["", "foo", "https://name:pair@a.example/sms/callback"])
def test_what_is_no_url(url: str) -> None:
    run = make_app().test_cli_runner().invoke(cli, ["check", "--url", url])
    assert run.exit_code == 2
    assert "give one such as http://" in run.output
    assert "pair@" not in run.output


def test_the_url_of_a_rule_with_variables() -> None:
    app = make_app(DeliveryReportBlueprint(rule="/sms/<tenant>"), SERVER_NAME="a.example")
    assert levels(app)["notifyUrl"] == "warning"
    assert app.test_cli_runner().invoke(cli, ["check"]).exit_code == 1


@pytest.mark.parametrize(
    ("config", "subject", "level"),
    [
        ({"ANTS_DR_PASSWORD": "short"}, "credentials", "warning"),
        ({"ANTS_DR_PASSWORD": "aaaaaaaaaaaaaaaa"}, "credentials", "warning"),
        ({"ANTS_DR_PASSWORD": "a8f2k1m9x7q4"}, "credentials", "ok"),
        ({"ANTS_DR_TIMEZONE": "UTC"}, "time zone", "warning"),
        ({}, "time zone", "ok"),
        ({"ANTS_DR_MAX_CONTENT_LENGTH": 1_000_000}, "limits", "error"),
        ({"ANTS_DR_MAX_MESSAGES": 499}, "limits", "error"),
        ({"ANTS_DR_MAX_MESSAGES": 500}, "limits", "ok"),
        ({}, "inbox", "warning"),
    ],
)
def test_the_configuration(config: dict[str, Any], subject: str, level: str) -> None:
    assert levels(make_app(**config))[subject] == level


SPACED = ("white ", " white", "white\n", "\tw", "white\u200b", "\ufeffwhite", "\u3000white", " ")


@pytest.mark.parametrize("text", SPACED)
@pytest.mark.parametrize(
    "key", ["ANTS_DR_USERNAME", "ANTS_DR_PASSWORD", "ANTS_DR_CREDENTIALS", "name"]
)
def test_white_space_at_an_end_of_credentials(key: str, text: str) -> None:
    config: dict[str, Any] = {"ANTS_DR_PASSWORD": GOOD["ANTS_DR_PASSWORD"], key: text}
    if key == "ANTS_DR_CREDENTIALS":
        config[key] = {"other": text, "number": 7}
    if config.pop("name", None):
        key = "ANTS_DR_CREDENTIALS"
        config[key] = {text: "other"}
    found = [one for one in check(make_app(**config)) if one.subject == "credentials"]
    (warning,) = [one for one in found if "at an end of" in one.text]
    assert warning.level == "warning"
    assert f"at an end of {key}:" in warning.text
    assert "white" not in warning.text.replace("white space", "")


def test_white_space_within_credentials() -> None:
    config = {"ANTS_DR_PASSWORD": GOOD["ANTS_DR_PASSWORD"], "ANTS_DR_USERNAME": "a b"}
    app = make_app(**config, ANTS_DR_CREDENTIALS={"กำ": "a b ก็"})
    assert levels(app)["credentials"] == "ok"


@pytest.mark.filterwarnings("ignore:ANTS_DR_AUTH_REQUIRED")
def test_other_ways_to_authenticate() -> None:
    assert levels(make_open_app())["credentials"] == "warning"
    blueprint = DeliveryReportBlueprint()
    blueprint.auth.verify_password(lambda username, password: False)
    app = Flask(__name__)
    app.register_blueprint(blueprint)
    assert levels(app)["credentials"] == "ok"


def make_open_app() -> Flask:
    app = Flask(__name__)
    app.config["ANTS_DR_AUTH_REQUIRED"] = False
    app.register_blueprint(DeliveryReportBlueprint())
    return app


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ({}, "error"),
        ({"WTF_CSRF_METHODS": ["PUT"]}, "ok"),
        ({"WTF_CSRF_CHECK_DEFAULT": False}, "ok"),
        ({"WTF_CSRF_ENABLED": False}, "ok"),
    ],
)
@pytest.mark.parametrize("rule", ["/sms/callback", "/sms/<uuid:tenant>"])
def test_a_protection_of_forms(config: dict[str, Any], level: str, rule: str) -> None:
    """Flask-WTF's: ``check`` says what a callback is answered with."""
    app = make_app(DeliveryReportBlueprint(rule=rule), SECRET_KEY="dev", **GOOD, **config)
    csrf = CSRFProtect(app)
    heard = Heard(app)
    url = f"https://sms.example.com{rule.replace('<uuid:tenant>', str(UUID(int=1)))}"
    assert levels(app)["CSRF protection"] == level
    assert heard.calls == []
    assert app.test_client().post(url).status_code == (400 if level == "error" else 401)
    csrf.exempt(app.blueprints["ants_dr"])
    assert levels(app)["CSRF protection"] == "ok"
    assert app.test_client().post(url).status_code == 401


def test_a_view_that_is_exempt_and_functions_before_requests(app: Flask) -> None:
    assert "CSRF protection" not in levels(app)
    app.secret_key = "dev"
    CSRFProtect(app).exempt(app.view_functions["ants_dr.callback"])
    assert levels(app)["CSRF protection"] == "ok"
    answers: list[Any] = ["no", LookupError()]

    @app.before_request
    def answer() -> Any:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    for text in ("a before_request function answers instead", "function raised LookupError"):
        (finding,) = [one for one in check(app) if one.subject == "CSRF protection"]
        assert finding.level == "warning"
        assert text in finding.text
        del answers[0]


def test_the_backlog(inbox_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with inbox_app.test_request_context():
        client = AntsClient(inbox_app.test_client())
    client.deliver(make_report())
    assert levels(inbox_app)["inbox"] == "ok"
    client.post(b"{", "application/json")
    assert levels(inbox_app)["inbox"] == "warning"
    inbox = bound_inbox(inbox_app)
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_callbacks SET received_at = received_at - 3600")
    assert levels(inbox_app)["inbox"] == "error"
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ants_dr_quarantine")
    assert levels(inbox_app)["inbox"] == "error"


def test_a_subscriber_that_fails_is_not_a_worker_that_is_missing(inbox_app: Flask) -> None:
    def failing(sender: Flask, **extra: Any) -> None:
        raise LookupError

    message_reported.connect(failing, sender=inbox_app)
    with inbox_app.test_request_context():
        AntsClient(inbox_app.test_client()).deliver(make_report())
    inbox = bound_inbox(inbox_app)
    inbox.take()
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_callbacks SET received_at = received_at - 3600")
    (finding,) = [one for one in check(inbox_app) if one.subject == "inbox"]
    assert finding.level == "warning"
    assert "failing failed: see flask ants-dr status" in finding.text


def test_a_full_disk(inbox_app: Flask) -> None:
    inbox = bound_inbox(inbox_app)
    assert levels(inbox_app)["inbox"] == "ok"
    with inbox.database.begin(writes=False) as connection:
        assert connection.scalar(sql("SELECT count(*) FROM ants_dr_callbacks")) == 0
        pages = connection.scalar(sql("PRAGMA page_count"))
    inbox.database.close()
    engine = inbox.database._engine
    assert engine

    def fill(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")

    event.listen(engine, "connect", fill)
    (finding,) = [one for one in check(inbox_app) if one.subject == "inbox"]
    assert finding.level == "error"
    assert "cannot store a callback" in finding.text


def test_no_blueprint() -> None:
    app = Flask(__name__)
    (finding,) = check(app)
    assert (finding.level, finding.subject) == ("error", "route")
    assert app.test_cli_runner().invoke(cli, ["check"]).exit_code == 1


# The OpenAPI document.


class OwnMessageSchema(MessageSchema):
    operator = String(required=True)


class OwnReportSchema(ReportSchema):
    details = Details(OwnMessageSchema, attribute="messages", required=True)


def test_the_document_is_valid_and_of_the_schema_in_force(inbox_app: Flask) -> None:
    inbox_app.register_blueprint(
        DeliveryReportBlueprint("own", rule="/own/<int:shop>", schema=OwnReportSchema)
    )
    run = inbox_app.test_cli_runner().invoke(cli, ["openapi"])
    document = json.loads(run.output)
    validate(document)
    assert document == openapi_document(inbox_app)
    paths, schemas = document["paths"], document["components"]["schemas"]
    assert paths.keys() == {"/sms/callback", "/own/{shop}"}
    assert "503" in paths["/sms/callback"]["post"]["responses"]
    assert "503" not in paths["/own/{shop}"]["post"]["responses"]
    assert "operator" in schemas["OwnMessage"]["required"]
    assert schemas["Message"]["properties"]["credit"]["type"] == ["number", "string", "null"]
    assert schemas["Message"]["properties"]["messageId"]["type"] == ["string", "integer"]


def test_a_document_of_the_hosts(app: Flask) -> None:
    spec = APISpec("Host", "1", "3.1.0", plugins=[MarshmallowPlugin()])
    spec.path("/orders", operations={"get": {"responses": {"200": {"description": "Orders"}}}})
    add_callbacks(spec, app)
    document = spec.to_dict()
    validate(document)
    assert document["paths"].keys() == {"/orders", "/sms/callback"}
    with pytest.raises(ValueError, match="needs a MarshmallowPlugin"):
        add_callbacks(APISpec("Host", "1", "3.1.0"), app)


@pytest.mark.slow(reason="hundreds of requests, made up from the document")
def test_schemathesis_finds_nothing(inbox_app: Flask, tmp_path: Path) -> None:
    """Against a real server: no 5xx, and no answer that the document does not describe."""
    inbox_app.config["SERVER_NAME"] = None
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(openapi_document(inbox_app)))
    server = make_server("127.0.0.1", 0, inbox_app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
    ]
    try:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                "from schemathesis.cli import schemathesis; schemathesis()",
                "run",
                str(document),
                "--url",
                f"http://127.0.0.1:{server.port}",
                "--auth",
                f"{USERNAME}:{GOOD['ANTS_DR_PASSWORD']}",
                "--checks",
                ",".join(checks),
                "--max-examples",
                "10",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert run.returncode == 0, run.stdout
    assert "Tested: 1" in run.stdout


def test_what_the_document_says_of_xml_is_taken(app: Flask) -> None:
    """The names that it gives to the elements are those that ANTS uses."""
    document = openapi_document(app)
    content = document["paths"]["/sms/callback"]["post"]["requestBody"]["content"]
    assert content["application/xml"]["schema"]["xml"] == {"name": "CALLBACK"}
    details = document["components"]["schemas"]["Report"]["properties"]["details"]
    assert details["xml"] == {"wrapped": True}
    assert details["items"]["xml"] == {"name": "detail"}
    body, _ = encode({"details": [{"messageId": "1"}]}, "xml")
    assert b"<CALLBACK" in body
    assert b"<detail>" in body
    assert PASSWORD not in json.dumps(document)


def test_which_of_the_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(ReportSchema):
        def load(self, data: Any, **kwargs: Any) -> Any:
            return super().load(data, **kwargs)

    def text(app: Flask) -> str:
        return next(found.text for found in check(app) if found.subject == "validation")

    assert text(make_app()).startswith("by msgspec")
    assert "more than add fields" in text(make_app(DeliveryReportBlueprint(schema=Own)))
    for name in ("msgspec", "flask_ants_dr.fast"):
        monkeypatch.setitem(sys.modules, name, None)
    app = make_app()
    assert "Flask-ANTS-DR[fast]" in text(app)
    assert AntsClient(app.test_client()).deliver(make_report()).status_code == 200


def test_a_session_that_nobody_commits(tmp_path: Path) -> None:
    """Where the host has one, and the inbox does not know of it."""
    for inbox, level in ((Inbox(), "warning"), (Inbox(session=DB.session), None), (None, None)):
        app = make_app(
            DeliveryReportBlueprint(inbox=inbox),
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/host.sqlite3",
            ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/inbox.sqlite3" if level else None,
        )
        DB.init_app(app)
        assert levels(app).get("session") == level
        with app.app_context():
            DB.engine.dispose()
        for one in bound_inboxes(app):
            one.database.close()


DB = SQLAlchemy()


def test_a_silence_is_an_error(inbox_app: Flask) -> None:
    def found(silent_after: timedelta | None) -> tuple[str, str]:
        findings = check(inbox_app, silent_after=silent_after)
        return next((one.level, one.text) for one in findings if one.subject == "callbacks")

    assert found(None) == ("ok", "none was taken so far")
    assert found(timedelta(hours=2))[0] == "error"
    with inbox_app.test_request_context():
        AntsClient(inbox_app.test_client()).deliver(make_report())
    assert found(timedelta(hours=2))[0] == "ok"
    with bound_inbox(inbox_app).database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_callback_counts SET last_at = last_at - 7300")
    level, text = found(timedelta(hours=2))
    assert level == "error"
    assert text.endswith("nothing for longer than 2:00:00")
    assert found(timedelta(hours=3))[0] == "ok"
    assert inbox_app.test_client().post("/sms/callback").status_code == 401
    assert found(None)[0] == "warning"
    assert "1 were refused since" in found(None)[1]
    runner = inbox_app.test_cli_runner()
    assert runner.invoke(cli, ["check", "--silent-after", "2h"]).exit_code == 1
    assert runner.invoke(cli, ["check", "--silent-after", "2 hours"]).exit_code == 2


def test_without_an_inbox_nobody_knows_of_a_silence() -> None:
    found = [one for one in check(make_app(), silent_after=timedelta(1)) if one.level == "error"]
    assert "callbacks" in {one.subject for one in found}


def test_workers_that_are_alive(inbox_app: Flask) -> None:
    def found() -> tuple[str, str]:
        return next((one.level, one.text) for one in check(inbox_app) if one.subject == "workers")

    inbox = bound_inbox(inbox_app)
    assert found()[0] == "ok"
    with inbox_app.test_request_context():
        AntsClient(inbox_app.test_client()).deliver(make_report())
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_messages SET state = 'waiting'")
    level, text = found()
    assert level == "warning"
    assert "start flask ants-dr work" in text
    inbox.database.run(partial(SignOfLife("work").give, source=inbox.source))
    level, text = found()
    assert level == "ok"
    assert text.startswith("1 alive: work on ")


def test_a_quick_check_looks_at_the_database_only(inbox_app: Flask) -> None:
    runner = inbox_app.test_cli_runner()
    run = runner.invoke(cli, ["check", "--quick"])
    assert (run.exit_code, run.output) == (
        0,
        "ants_dr\n  ok       inbox              its database answers\n",
    )
    assert make_app().test_cli_runner().invoke(cli, ["check", "--quick"]).exit_code == 0
    with bound_inbox(inbox_app).database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_version SET version_num = '9999'")
    assert runner.invoke(cli, ["check", "--quick"]).exit_code == 1
    (finding,) = quick(inbox_app)
    assert "its database does not answer as it should" in finding.text
