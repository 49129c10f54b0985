"""What hosts test with."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from flask import Flask

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr import message_delivered
from flask_ants_dr.encoding import ENCODINGS
from flask_ants_dr.encoding import FORMATS
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import Format
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import String
from flask_ants_dr.testing import STATUSES
from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import make_message
from flask_ants_dr.testing import make_report
from flask_ants_dr.testing import record_signals
from kit import make_app


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_delivered_is_what_was_made(app: Flask, format: Format, encoding: Encoding) -> None:
    report = make_report(make_message(), make_message("EXPIRED"), make_message("ACCEPTED"))
    with record_signals(app) as heard:
        response = AntsClient(app.test_client()).deliver(report, format=format, encoding=encoding)
    assert response.get_json() == {"accepted": 3, "rejected": 0}
    assert heard.reports == [replace(report, source="ants_dr")]
    assert tuple(heard.reported) == report.messages
    assert heard.delivered == [report.messages[0]]
    assert heard.failed == [report.messages[1]]
    assert heard.invalid == []
    assert heard.rejected == []


def test_what_is_refused_is_recorded(app: Flask) -> None:
    client = AntsClient(app.test_client())
    good = {"messageId": "1", "status": {"name": "DELIVERED"}}
    with record_signals(app) as heard:
        assert client.deliver({"details": [{"to": "66"}, good]}).status_code == 200
        assert client.post(b"{", "application/json").status_code == 400
    assert [detail.index for detail in heard.invalid] == [0]
    assert [error.status for error in heard.rejected] == [400]
    client.deliver(make_report())
    assert len(heard.delivered) == 1, "nothing is recorded after the end"


def test_defaults() -> None:
    first, second = make_message(), make_message()
    assert first.message_id != second.message_id
    assert first.status == Status(
        code="000", name="DELIVERED", description="Successfully sent to phone"
    )
    assert first.done_date
    assert first.send_date
    assert first.done_date > first.send_date
    assert make_message("pending").done_date is None
    assert make_message("NEW_NAME").status == Status(name="NEW_NAME")
    assert make_message(Status(name="X")).status.name == "X"
    message = make_message("EXPIRED", to="66000000001", credit=None, extra={"a": 1})
    assert (message.to, message.credit, message.extra) == ("66000000001", None, {"a": 1})
    assert make_report().messages[0].credit == Decimal("1.00")
    assert make_report(bulk_id=None).bulk_id is None
    assert {Status(name=name).state for name in STATUSES} == {*DeliveryState} - {
        DeliveryState.UNKNOWN
    }


def test_the_query_string_and_a_schema_of_the_hosts() -> None:
    class OwnMessageSchema(MessageSchema):
        operator = String(load_default=None)

    class OwnReportSchema(ReportSchema):
        details = Details(OwnMessageSchema, attribute="messages", required=True)

    app = make_app(DeliveryReportBlueprint(schema=OwnReportSchema))
    report = make_report(make_message(extra={"operator": "AIS"}), url_params={"order": "42"})
    with record_signals(app) as heard:
        AntsClient(app.test_client()).deliver(report, format="xml")
    assert heard.reports[0].url_params == {"order": "42"}
    assert heard.reported[0].extra == {"operator": "AIS"}


def test_several_blueprints() -> None:
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME="a", ANTS_DR_PASSWORD="b", MY_CREDENTIALS={"c": "d"})
    app.register_blueprint(DeliveryReportBlueprint())
    app.register_blueprint(
        DeliveryReportBlueprint("mine", rule="/mine", config_prefix="MY", url_prefix="/x")
    )
    with pytest.raises(ValueError, match=r"several blueprints; name one: ants_dr, mine\."):
        AntsClient(app.test_client())
    with pytest.raises(ValueError, match="no blueprint 'other', only: ants_dr, mine"):
        AntsClient(app.test_client(), blueprint="other")
    for name in ("ants_dr", "mine"):
        with record_signals(app) as heard:
            assert AntsClient(app.test_client(), blueprint=name).deliver(make_report())
        assert heard.reports[0].source == name


def test_what_must_be_given() -> None:
    with pytest.raises(ValueError, match="registered no DeliveryReportBlueprint"):
        AntsClient(Flask(__name__).test_client())
    blueprint = DeliveryReportBlueprint(rule="/sms/<tenant>")
    blueprint.auth.verify_password(lambda username, password: password == "own")
    app = Flask(__name__)
    app.register_blueprint(blueprint)
    with pytest.raises(ValueError, match="has variables: give the URL"):
        AntsClient(app.test_client())
    with pytest.raises(ValueError, match="give username and password"):
        AntsClient(app.test_client(), url="/sms/shop")
    client = AntsClient(app.test_client(), url="/sms/shop", username="x", password="own")
    assert client.deliver(make_report()).status_code == 200


@pytest.mark.filterwarnings("ignore:ANTS_DR_AUTH_REQUIRED")
def test_an_open_route() -> None:
    app = Flask(__name__)
    app.config["ANTS_DR_AUTH_REQUIRED"] = False
    app.register_blueprint(DeliveryReportBlueprint())
    assert AntsClient(app.test_client()).deliver(make_report()).status_code == 200


@pytest.mark.parametrize("wrong", [{"username": "other"}, {"password": "other"}])
def test_wrong_credentials(app: Flask, wrong: dict[str, str]) -> None:
    client = AntsClient(app.test_client(), **wrong)
    with record_signals(app) as heard:
        assert client.deliver(make_report()).status_code == 401
    assert [error.status for error in heard.rejected] == [401]


def test_trusted_hosts_and_a_root() -> None:
    app = make_app(TRUSTED_HOSTS=["localhost"], APPLICATION_ROOT="/root")
    assert AntsClient(app.test_client()).deliver(make_report()).status_code == 200
    app.config["TRUSTED_HOSTS"] = ["sms.example.com"]
    assert AntsClient(app.test_client()).deliver(make_report()).status_code == 400


def test_fixtures(ants_client: AntsClient, ants_signals: object, app: Flask) -> None:
    heard: list[DeliveryReport] = []

    def subscriber(sender: Flask, **arguments: object) -> None:
        heard.append(arguments["report"])  # type: ignore[arg-type]

    with message_delivered.connected_to(subscriber, sender=app):
        ants_client.deliver(make_report())
    assert len(heard) == len(ants_signals.delivered) == 1  # type: ignore[attr-defined]


def test_the_plugin_imports_nothing_that_is_not_asked_for(tmp_path: Path) -> None:
    """A project that does not use the fixtures does not notice that the package is installed."""
    tmp_path.joinpath("test_other.py").write_text(
        "import sys\n\ndef test_other():\n"
        "    assert 'pytest_flask_ants_dr' in sys.modules\n"
        "    assert not {'flask', 'flask_ants_dr', 'marshmallow'} & sys.modules.keys()\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
