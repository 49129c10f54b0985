"""Who may call."""

from __future__ import annotations

import hmac
from base64 import b64encode
from io import BytesIO
from typing import Any

import pytest

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import callback_rejected
from kit import PASSWORD
from kit import USERNAME
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

BODY = callback(detail())


def basic(pair: str | bytes, scheme: str = "Basic") -> dict[str, str]:
    data = pair.encode() if isinstance(pair, str) else pair
    return {"Authorization": f"{scheme} {b64encode(data).decode()}"}


def status(ants: Ants, **headers: str) -> int:
    return ants.post(BODY, auth=None, headers=headers).status_code


def test_the_configured_pair(ants: Ants) -> None:
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}")) == 200


@pytest.mark.parametrize("scheme", ["basic", "BASIC"])
def test_the_scheme_in_any_case(ants: Ants, scheme: str) -> None:
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}", scheme)) == 200


@pytest.mark.parametrize(
    "pair",
    [
        f"nobody:{PASSWORD}",
        f"{USERNAME}:wrong",
        f"{USERNAME}:",
        f":{PASSWORD}",
        ":",
        "",
        f"{USERNAME}{PASSWORD}",
        f"{USERNAME}:{PASSWORD} ",
        f"{USERNAME.upper()}:{PASSWORD}",
        b"\xff\xfe:\xff",
        f"{USERNAME}:{PASSWORD}\0",
    ],
)
def test_wrong_pairs(ants: Ants, heard: Heard, pair: str | bytes) -> None:
    assert status(ants, **basic(pair)) == 401
    assert heard.names == ["callback_rejected"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YW50",
        "Basic YW50cw=",
        "Basic \xe9\xff",
        "ants:s3cret-pair",
    ],
)
def test_malformed_headers(ants: Ants, header: str) -> None:
    assert status(ants, Authorization=header) == 401


@pytest.mark.parametrize("scheme", ["Bearer", "Digest", "Basicx", "Negotiate"])
def test_other_schemes_with_the_right_pair(ants: Ants, scheme: str) -> None:
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}", scheme)) == 401


@pytest.mark.parametrize(
    ("username", "password"),
    [("ants", "with:colon:"), ("ants", ":"), ("แอนท์", "รหัสผ่าน"), ("é", "ü" * 500), ("7", "007")],
)
def test_unusual_pairs(username: str, password: str) -> None:
    ants = Ants(make_app(ANTS_DR_USERNAME=username, ANTS_DR_PASSWORD=password).test_client())
    assert status(ants, **basic(f"{username}:{password}")) == 200
    assert status(ants, **basic(f"{username}:{password}x")) == 401


def test_latin_1_pairs() -> None:
    """HTTP Basic had no encoding for long, and old clients send Latin-1."""
    ants = Ants(make_app(ANTS_DR_USERNAME="é", ANTS_DR_PASSWORD="ü").test_client())
    assert status(ants, **basic("é:ü".encode("latin-1"))) == 200


def test_two_pairs_during_rotation() -> None:
    app = make_app(ANTS_DR_CREDENTIALS={"ants": "next", "other": "third"})
    ants = Ants(app.test_client())
    for pair in (f"{USERNAME}:{PASSWORD}", "ants:next", "other:third"):
        assert status(ants, **basic(pair)) == 200
    for pair in ("ants:third", f"other:{PASSWORD}", "other:next"):
        assert status(ants, **basic(pair)) == 401


def test_credentials_without_a_single_pair() -> None:
    app = make_app(ANTS_DR_USERNAME=None, ANTS_DR_PASSWORD=None, ANTS_DR_CREDENTIALS={"a": "b"})
    assert status(Ants(app.test_client()), **basic("a:b")) == 200


def test_an_open_route() -> None:
    with pytest.warns(UserWarning, match="ANTS_DR_AUTH_REQUIRED is False"):
        app = make_app(ANTS_DR_AUTH_REQUIRED=False, ANTS_DR_USERNAME=None, ANTS_DR_PASSWORD=None)
    ants = Ants(app.test_client())
    assert status(ants) == 200
    assert status(ants, **basic("any:pair")) == 200


def test_the_hosts_own_verify_password() -> None:
    blueprint = DeliveryReportBlueprint()
    asked: list[tuple[str, str]] = []

    @blueprint.auth.verify_password
    def verify(username: str, password: str) -> str | None:
        asked.append((username, password))
        return username if password == "from the database" else None

    app = make_app(blueprint, ANTS_DR_USERNAME=None, ANTS_DR_PASSWORD=None)
    ants = Ants(app.test_client())
    assert status(ants, **basic("someone:from the database")) == 200
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}")) == 401
    assert asked == [("someone", "from the database"), (USERNAME, PASSWORD)]


def test_the_hosts_own_verify_password_after_registration() -> None:
    """Until then, and only until then, the configured pair counts."""
    blueprint = DeliveryReportBlueprint()
    ants = Ants(make_app(blueprint).test_client())
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}")) == 200
    blueprint.auth.verify_password(lambda username, password: username == "someone")
    assert status(ants, **basic("someone:x")) == 200
    assert status(ants, **basic(f"{USERNAME}:{PASSWORD}")) == 401


def test_the_hosts_own_verify_password_on_an_open_route() -> None:
    """One of the two must be a mistake."""
    blueprint = DeliveryReportBlueprint()
    blueprint.auth.verify_password(lambda username, password: None)
    with pytest.raises(ValueError, match="ANTS_DR_AUTH_REQUIRED is False, but"):
        make_app(blueprint, ANTS_DR_AUTH_REQUIRED=False)


@pytest.mark.parametrize("pair", ["nobody:x", "b:wrong", "b:c", f"{USERNAME}:{PASSWORD}"])
def test_the_same_work_for_every_pair(monkeypatch: pytest.MonkeyPatch, pair: str) -> None:
    """Every pair is compared with every configured one, by digests of the same length."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def spy(given: Any, known: Any) -> bool:
        compared.append((len(given), len(known)))
        return compare(given, known)

    app = make_app(ANTS_DR_CREDENTIALS={"b": "c", "d": "e"})
    monkeypatch.setattr(hmac, "compare_digest", spy)
    status(Ants(app.test_client()), **basic(pair))
    assert compared == [(32, 32)] * 3


class Unread(BytesIO):
    def read(self, *args: Any) -> bytes:
        raise AssertionError("the body was read")

    readline = readinto = readlines = read  # type: ignore[assignment]


def test_nothing_of_the_body_is_read_before(ants: Ants) -> None:
    def post(password: str) -> int:
        return ants.client.post(
            "/sms/callback",
            auth=(USERNAME, password),
            content_type="application/json",
            input_stream=Unread(),
            environ_overrides={"CONTENT_LENGTH": "100"},
        ).status_code

    ants.client.application.testing = True
    assert post("wrong") == 401
    with pytest.raises(AssertionError, match="the body was read"):
        post(PASSWORD)


def test_a_subscriber_that_raises_does_not_let_anybody_in(app: Any, ants: Ants) -> None:
    def fail(sender: object, **extra: object) -> None:
        raise TypeError("Flask-HTTPAuth calls an error handler again after this one")

    calls: list[object] = []

    def count(sender: object, **extra: object) -> None:
        calls.append(extra["error"])

    callback_rejected.connect(fail, sender=app)
    callback_rejected.connect(count, sender=app)
    assert status(ants) == 500
    assert len(calls) == 1
