"""Configuration: every wrong one is a clear error at registration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from flask import Flask

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.registration import registrations
from kit import TESTS
from kit import Ants
from kit import callback
from kit import detail
from kit import make_app

NO_PAIR: dict[str, Any] = {"ANTS_DR_USERNAME": None, "ANTS_DR_PASSWORD": None}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NO_PAIR, "no credentials: set ANTS_DR_USERNAME and ANTS_DR_PASSWORD"),
        (NO_PAIR | {"ANTS_DR_CREDENTIALS": {}}, "no credentials"),
        ({"ANTS_DR_PASSWORD": None}, "ANTS_DR_USERNAME and ANTS_DR_PASSWORD must all be strings"),
        ({"ANTS_DR_USERNAME": None}, "ANTS_DR_USERNAME and ANTS_DR_PASSWORD must all be strings"),
        ({"ANTS_DR_USERNAME": ""}, "ANTS_DR_USERNAME and ANTS_DR_PASSWORD must all be strings"),
        ({"ANTS_DR_PASSWORD": ""}, "not empty"),
        ({"ANTS_DR_PASSWORD": 1.5}, "double quotes"),
        ({"ANTS_DR_PASSWORD": True}, "must all be strings"),
        ({"ANTS_DR_PASSWORD": b"bytes"}, "must all be strings"),
        ({"ANTS_DR_USERNAME": "a:b"}, "cannot have a colon"),
        ({"ANTS_DR_CREDENTIALS": {"a:b": "c"}}, "ANTS_DR_CREDENTIALS: a user name cannot have"),
        ({"ANTS_DR_CREDENTIALS": {"a": ""}}, "ANTS_DR_CREDENTIALS must all be strings"),
        ({"ANTS_DR_CREDENTIALS": {"a": None}}, "ANTS_DR_CREDENTIALS must all be strings"),
        ({"ANTS_DR_CREDENTIALS": "a:b"}, "ANTS_DR_CREDENTIALS must be a dict"),
        ({"ANTS_DR_CREDENTIALS": None}, "ANTS_DR_CREDENTIALS must be a dict"),
        ({"ANTS_DR_AUTH_REQUIRED": "False"}, "ANTS_DR_AUTH_REQUIRED must be True or False"),
        ({"ANTS_DR_AUTH_REQUIRED": 0}, "ANTS_DR_AUTH_REQUIRED must be True or False"),
        ({"ANTS_DR_AUTH_REQUIRED": None}, "ANTS_DR_AUTH_REQUIRED must be True or False"),
        *(
            ({"ANTS_DR_TIMEZONE": name}, "ANTS_DR_TIMEZONE must be the IANA name")
            for name in ("Asia/Bankok", "", "Asia", "../../etc/passwd", "/etc/passwd", 7, None)
        ),
        *(
            ({f"ANTS_DR_{key}": value}, f"ANTS_DR_{key} must be a whole number of {unit}, 1 or")
            for key, unit in [("MAX_CONTENT_LENGTH", "bytes"), ("MAX_MESSAGES", "messages")]
            for value in ("8MB", "100", 0, -1, 1.5, None, True)
        ),
        ({"ANTS_DR_API_USERNAME": "a"}, "ANTS_DR_API_USERNAME and ANTS_DR_API_PASSWORD must all"),
        ({"ANTS_DR_API_PASSWORD": "a"}, "ANTS_DR_API_USERNAME and ANTS_DR_API_PASSWORD must all"),
        (
            {"ANTS_DR_API_USERNAME": "a:b", "ANTS_DR_API_PASSWORD": "c"},
            "ANTS_DR_API_PASSWORD: a user name cannot have a colon",
        ),
        *(
            ({"ANTS_DR_API_URL": value}, "ANTS_DR_API_URL must be a URL such as https://api-serv")
            for value in (
                "api-service.ants.co.th",
                "ftp://ants.example",
                "https://",
                "https://name:planted@ants.example",
                "https://ants.example?a=b",
                "https://ants.example#a",
                "https://ants.example:port",
                "https://ants.example/a b",
                "https://[ants",
                "",
                None,
                7,
            )
        ),
    ],
)
def test_wrong_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_app(**config)


def test_no_error_repeats_a_password() -> None:
    with pytest.raises(ValueError, match="colon") as caught:
        make_app(ANTS_DR_USERNAME="a:b", ANTS_DR_PASSWORD="planted")
    assert "planted" not in str(caught.value)


NO_DATABASE = """
import sys
sys.modules["tzdata"] = None
from kit import make_app
make_app()
"""


@pytest.mark.slow(reason="a process, without the database of time zones")
def test_no_time_zone_database() -> None:
    """A machine without one: nothing on zoneinfo's path, and no package tzdata."""
    run = subprocess.run(
        [sys.executable, "-c", NO_DATABASE],
        check=False,
        cwd=TESTS,
        env=os.environ | {"PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.stderr.splitlines()[-1] == (
        "ValueError: ANTS_DR_TIMEZONE: this machine has no time zone database;"
        " install the package tzdata."
    )


def test_from_prefixed_env(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "USERNAME": "66812345678",  # which Flask reads as a number
        "PASSWORD": "p",
        "CREDENTIALS": '{"second": "q"}',
        "MAX_MESSAGES": "1",
        "TIMEZONE": "UTC",
    }
    for key, value in environment.items():
        monkeypatch.setenv(f"FLASK_ANTS_DR_{key}", value)

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config.from_prefixed_env()
        app.register_blueprint(DeliveryReportBlueprint())
        return app

    ants = Ants(create_app().test_client())
    for auth in [("66812345678", "p"), ("second", "q")]:
        assert ants.post(callback(detail()), auth=auth).status_code == 200
        assert ants.post(callback(detail(), detail()), auth=auth).status_code == 413


def test_a_password_in_the_environment_that_looks_like_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cure that the error names works."""
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", "1e5")
    app = Flask(__name__)
    app.config.from_prefixed_env()
    with pytest.raises(ValueError, match="double quotes"):
        make_app(ANTS_DR_PASSWORD=app.config["ANTS_DR_PASSWORD"])
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", json.dumps("1e5"))
    app.config.from_prefixed_env()
    again = make_app(ANTS_DR_PASSWORD=app.config["ANTS_DR_PASSWORD"])
    assert Ants(again.test_client()).post(callback(), auth=("ants", "1e5")).status_code == 200


def test_a_prefix_of_its_own() -> None:
    blueprint = DeliveryReportBlueprint("otp", rule="/otp", config_prefix="OTP_DR")
    with pytest.raises(ValueError, match="set OTP_DR_USERNAME and OTP_DR_PASSWORD"):
        make_app(blueprint)


def test_nothing_of_credentials_is_in_the_repr() -> None:
    app = make_app()
    settings = registrations(app)["ants_dr"].settings
    for digest in settings.credentials:
        assert repr(digest) not in repr(settings)
