"""The blueprint in its applications."""

from __future__ import annotations

import inspect
import json
from datetime import UTC
from datetime import date
from datetime import datetime
from decimal import Decimal
from enum import Enum
from enum import StrEnum
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from flask import Blueprint
from flask import Flask
from flask import Request
from flask import request
from flask import url_for

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import report_received
from flask_ants_dr.blueprint import _LARGE
from flask_ants_dr.blueprint import _PARAMETERS_OF_URL_FOR


class Plain(StrEnum):
    MEMBER = "1"


class Member(str, Enum):  # noqa: UP042  # whose str() is no value
    MEMBER = "1"


from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app


def test_reports_carry_their_source_and_url_parameters() -> None:
    app = make_app(DeliveryReportBlueprint(rule="/sms/<tenant>/<int:number>"))
    ants, heard = Ants(app.test_client()), Heard(app)
    url = "/sms/acme/7?campaign=songkran&tenant=spoofed&campaign=2&ref=%E0%B8%81"
    assert ants.post(callback(detail()), url=url).status_code == 200
    report = heard.arguments("report_received")[0]["report"]
    assert report.source == "ants_dr"
    assert report.url_params == {
        "campaign": "songkran",
        "tenant": "acme",
        "number": "7",
        "ref": "ก",
    }


def test_a_body_that_the_host_has_read_before() -> None:
    app = make_app()

    @app.before_request
    def log() -> None:
        assert request.get_data()

    for text in ("", "x" * _LARGE):
        answer = Ants(app.test_client()).post(callback(detail(text=text)))
        assert answer.json == {"accepted": 1, "rejected": 0}


def test_a_body_as_long_as_the_host_allows_that_it_has_looked_at() -> None:
    body = json.dumps(callback(detail(text="x" * _LARGE))).encode()
    app = make_app(MAX_CONTENT_LENGTH=len(body))

    @app.before_request
    def look() -> None:
        assert request.stream

    # As gunicorn says, whose streams end by themselves.
    ended = {"wsgi.input_terminated": True}
    answer = Ants(app.test_client()).post(body, environ_overrides=ended)
    assert answer.json == {"accepted": 1, "rejected": 0}


def test_a_request_class_that_reads_bodies_in_its_own_way() -> None:
    class Wrapped(Request):
        def get_data(self, *args: Any, **options: Any) -> Any:
            return super().get_data(*args, **options).removeprefix(b"wrapped:")

    class Elsewhere(Request):
        @property
        def stream(self) -> Any:
            return BytesIO(self.environ["wsgi.input"].read()[len("wrapped:") :])

    for kind in (Wrapped, Elsewhere):
        app = make_app()
        app.request_class = kind
        body = b"wrapped:" + json.dumps(callback(detail(text="x" * _LARGE))).encode()
        answer = Ants(app.test_client()).post(body)
        assert answer.json == {"accepted": 1, "rejected": 0}


def test_several_blueprints_in_one_application() -> None:
    app = make_app(OTP_USERNAME="otp", OTP_PASSWORD="p", OTP_TIMEZONE="UTC")
    app.register_blueprint(
        DeliveryReportBlueprint("otp", rule="/otp/callback", config_prefix="OTP")
    )
    ants, heard = Ants(app.test_client()), Heard(app)
    body = callback(detail(doneDate="2026-01-01T00:00:00"))
    assert ants.post(body).status_code == 200
    assert ants.post(body, url="/otp/callback").status_code == 401
    assert ants.post(body, url="/otp/callback", auth=("otp", "p")).status_code == 200
    assert ants.post(body, auth=("otp", "p")).status_code == 401
    first, second = (arguments["report"] for arguments in heard.arguments("report_received"))
    assert (first.source, second.source) == ("ants_dr", "otp")
    assert first.messages[0].done_date == datetime(2025, 12, 31, 17, tzinfo=UTC)
    assert second.messages[0].done_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert [a["source"] for a in heard.arguments("callback_rejected")] == ["otp", "ants_dr"]


def test_one_blueprint_in_several_applications() -> None:
    """Two applications in one process see nothing of each other."""
    blueprint = DeliveryReportBlueprint()
    one = make_app(blueprint)
    two = make_app(
        blueprint, ANTS_DR_PASSWORD="two", ANTS_DR_TIMEZONE="UTC", ANTS_DR_MAX_MESSAGES=1
    )
    heard_one, heard_two = Heard(one), Heard(two)
    body = callback(detail(doneDate="2026-01-01T00:00:00"))
    assert Ants(one.test_client()).post(body).status_code == 200
    assert heard_two.calls == []
    assert Ants(two.test_client()).post(body).status_code == 401
    assert Ants(two.test_client()).post(body, auth=("ants", "two")).status_code == 200
    assert Ants(one.test_client()).post(body, auth=("ants", "two")).status_code == 401
    assert heard_one.messages[0].done_date == datetime(2025, 12, 31, 17, tzinfo=UTC)
    assert heard_two.messages[0].done_date == datetime(2026, 1, 1, tzinfo=UTC)
    many = callback(detail(), detail())
    assert Ants(one.test_client()).post(many).status_code == 200
    assert Ants(two.test_client()).post(many, auth=("ants", "two")).status_code == 413


def test_one_blueprint_twice_in_one_application_and_nested() -> None:
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME="a", ANTS_DR_PASSWORD="b")
    blueprint = DeliveryReportBlueprint(url_prefix="/one")
    app.register_blueprint(blueprint)
    parent = Blueprint("parent", __name__, url_prefix="/parent")
    parent.register_blueprint(blueprint, name="child", url_prefix="/child")
    app.register_blueprint(parent)
    ants, heard = Ants(app.test_client()), Heard(app)
    for prefix in ("/one", "/parent/child"):
        url = f"{prefix}/sms/callback"
        assert ants.post(callback(detail()), url=url, auth=("a", "b")).status_code == 200
    sources = [arguments["report"].source for arguments in heard.arguments("report_received")]
    assert sources == ["ants_dr", "parent.child"]


def test_registering_twice_under_one_name_is_an_error() -> None:
    app = make_app()
    with pytest.raises(ValueError, match="already registered"):
        app.register_blueprint(DeliveryReportBlueprint())


def test_subscribers_of_every_application() -> None:
    """``connect`` hears every application, ``connect_via`` one."""
    one, two = make_app(), make_app()
    every: list[Flask] = []
    only: list[Flask] = []

    @report_received.connect
    def hear_every(app: Flask, **extra: Any) -> None:
        every.append(app)

    @report_received.connect_via(one)
    def hear_one(app: Flask, **extra: Any) -> None:
        only.append(app)

    for app in (one, two):
        Ants(app.test_client()).post(callback(detail()))
    assert every == [one, two]
    assert only == [one]


class TestNotifyParams:
    def test_in_a_request(self) -> None:
        blueprint = DeliveryReportBlueprint(rule="/dr/<tenant>")
        app = make_app(blueprint)
        with app.test_request_context(base_url="https://example.com"):
            params = blueprint.notify_params("application/xml", tenant="a", ref="ก&b", n=1)
        assert params == {
            "notifyUrl": "https://example.com/dr/a?ref=%E0%B8%81%26b&n=1",
            "notifyContentType": "application/xml",
        }

    def test_in_a_request_of_another_host_without_tls(self) -> None:
        blueprint = DeliveryReportBlueprint()
        app = make_app(blueprint, SERVER_NAME="sms.example.com", PREFERRED_URL_SCHEME="https")
        with app.test_request_context(base_url="http://attacker.example"):
            url = blueprint.notify_params()["notifyUrl"]
        assert url == "https://sms.example.com/sms/callback"

    def test_what_it_says_reaches_the_callback(self) -> None:
        blueprint = DeliveryReportBlueprint()
        app = make_app(blueprint, SERVER_NAME="sms.example.com", PREFERRED_URL_SCHEME="https")
        ants, heard = Ants(app.test_client()), Heard(app)
        with app.app_context():
            params = blueprint.notify_params(order="42")
        url = params["notifyUrl"]
        assert url == "https://sms.example.com/sms/callback?order=42"
        assert (
            ants.post(callback(detail()), params["notifyContentType"], url=url).status_code == 200
        )
        assert heard.arguments("report_received")[0]["report"].url_params == {"order": "42"}

    def test_nested_and_renamed(self) -> None:
        blueprint = DeliveryReportBlueprint()
        app = Flask(__name__)
        app.config.update(ANTS_DR_USERNAME="a", ANTS_DR_PASSWORD="b")
        app.register_blueprint(blueprint, name="renamed")
        with app.test_request_context():
            assert blueprint.notify_params()["notifyUrl"] == "http://localhost/sms/callback"
            assert url_for("renamed.callback") == "/sms/callback"

    @pytest.mark.parametrize(("length", "fits"), [(150, True), (151, False)])
    def test_the_length_that_ants_takes(self, length: int, fits: bool) -> None:
        blueprint = DeliveryReportBlueprint()
        with make_app(blueprint).test_request_context():
            value = "x" * (length - len("http://localhost/sms/callback?q="))
            if fits:
                assert len(blueprint.notify_params(q=value)["notifyUrl"]) == 150
            else:
                with pytest.raises(ValueError, match="has 151 characters, and ANTS takes 150"):
                    blueprint.notify_params(q=value)

    def test_another_content_type(self) -> None:
        blueprint = DeliveryReportBlueprint()
        context = make_app(blueprint).test_request_context()
        with context, pytest.raises(ValueError, match="application/json or application/xml"):
            blueprint.notify_params("text/xml")

    @pytest.mark.parametrize(
        "value", ["", "ก&b=c\n+ %41#\0", "x" * 60, 7, -1, 10**20, Plain.MEMBER]
    )
    @pytest.mark.parametrize("name", ["order", "_order", "self_", "tenant"])
    def test_what_comes_back(self, name: str, value: Any) -> None:
        blueprint = DeliveryReportBlueprint()
        app = make_app(blueprint, SERVER_NAME="a.example")
        ants, heard = Ants(app.test_client()), Heard(app)
        with app.app_context():
            url = blueprint.notify_params(**{name: value})["notifyUrl"]
        assert ants.post(callback(detail()), url=url).status_code == 200
        report = heard.arguments("report_received")[0]["report"]
        assert report.url_params == {name: str(value)}

    @pytest.mark.parametrize(
        "value",
        [
            ["1", "2"],
            ("1",),
            {"1"},
            {"1": "2"},
            None,
            True,
            1.5,
            b"1",
            Decimal(1),
            UUID(int=1),
            date(2026, 1, 1),
            Member.MEMBER,
            "\ud800",
        ],
    )
    @pytest.mark.parametrize("name", ["order", "tenant"])
    def test_what_does_not_come_back_as_it_is(self, name: str, value: Any) -> None:
        blueprint = DeliveryReportBlueprint(rule="/sms/<tenant>")
        parameters = {"tenant": "a", name: value}
        with (
            make_app(blueprint).test_request_context(),
            pytest.raises(ValueError, match=f"{name} must be a string or a whole number"),
        ):
            blueprint.notify_params(**parameters)

    @pytest.mark.parametrize("name", ["endpoint", "_anchor", "_method", "_scheme", "_external"])
    def test_names_that_are_flasks(self, name: str) -> None:
        blueprint = DeliveryReportBlueprint()
        parameters: dict[str, Any] = {name: True}
        with (
            make_app(blueprint).test_request_context(),
            pytest.raises(ValueError, match=f"{name} means something to Flask"),
        ):
            blueprint.notify_params("application/json", **parameters)

    def test_the_names_that_are_flasks_are_those(self) -> None:
        parameters = inspect.signature(url_for).parameters
        assert {*parameters} - {"values"} == _PARAMETERS_OF_URL_FOR

    def test_not_registered(self) -> None:
        with make_app().test_request_context(), pytest.raises(RuntimeError, match="not registered"):
            DeliveryReportBlueprint("other").notify_params()


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("order=\xff", {"order": "\ufffd"}),
        ("order=%ff&\xe0\xb8\x81=%E0%B8%81", {"order": "%FF", "ก": "ก"}),
        ("order=1&order=2&empty=&flag", {"order": "1", "empty": "", "flag": ""}),
    ],
)
def test_the_query_as_servers_hand_it_on(query: str, parameters: dict[str, str]) -> None:
    app = make_app()
    heard = Heard(app)
    environ = {"QUERY_STRING": query}
    answer = Ants(app.test_client()).post(callback(detail()), environ_overrides=environ)
    assert answer.status_code == 200
    assert heard.arguments("report_received")[0]["report"].url_params == parameters
