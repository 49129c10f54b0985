"""Nothing of a body, and no credentials, in logs, answers or ``repr``."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from flask import Flask

from flask_ants_dr import message_reported
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

SECRETS = [
    "planted-text-482913",
    "66898887777",
    "planted-data",
    "planted-unknown",
    "planted-member",
    "planted-name",
    "planted-password",
    "planted-query",
    "planted-description",
]


def planted(**members: Any) -> dict[str, Any]:
    return (
        detail(
            to="66898887777",
            text="planted-text-482913",
            callbackData="planted-data",
            **{"planted-member": "planted-unknown"},
            status={"name": "DELIVERED", "description": "planted-description"},
        )
        | members
    )


def bodies() -> dict[str, tuple[Any, str]]:
    good = json.dumps(callback(planted()), ensure_ascii=False)
    element = "<C><details><detail><text>planted-text-482913</text><to>66898887777</to>"
    return {
        "taken": (good, "application/json"),
        "one invalid": (callback(planted(), planted(messageId=None)), "application/json"),
        "none valid": (callback(planted(messageId=[])), "application/json"),
        "wrong text": (callback(planted(text="planted-text-482913\0")), "application/json"),
        "wrong date": (callback(planted(doneDate="planted-text-482913")), "application/json"),
        "wrong credit": (callback(planted(credit="planted-text-482913")), "application/json"),
        "wrong unknown": (callback(planted(**{"planted-member": "\0"})), "application/json"),
        "wrong bulk": (callback(planted(), bulkId={"planted-name": 1}), "application/json"),
        "cut off": (good[:-40], "application/json"),
        "bad escape": (good.replace("planted-data", r"\planted-data"), "application/json"),
        "bad encoding": (good.encode() + b"\xff", "application/json"),
        "bad charset": (good.encode() + b"\xff", "application/json; charset=planted-name"),
        "not json": (good, "application/xml"),
        "cut off xml": (element, "application/xml"),
        "wrong xml": (element + "</planted-name>", "application/xml"),
        "entity": (f'<!DOCTYPE a [<!ENTITY planted-name "66898887777">]>{element}', "text/xml"),
        "no type": (good, "planted-name/planted-name"),
        "tag": (f"{element}<planted-name {'a=' * 9000}", "text/xml"),
        "deep": ('{"planted-name":' * 100, "application/json"),
    }


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("name", bodies())
def test_no_secret_shows(caplog: pytest.LogCaptureFixture, name: str, raises: bool) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(ANTS_DR_USERNAME="planted-name", ANTS_DR_PASSWORD="planted-password")
    heard = Heard(app)
    shown: list[str] = []

    def fail(sender: Flask, **extra: Any) -> None:
        raise LookupError("no such order")

    if raises:
        message_reported.connect(fail, sender=app)
    body, content_type = bodies()[name]
    for password in ("planted-password", "wrong-planted-password"):
        response = Ants(app.test_client()).post(
            body,
            content_type,
            auth=("planted-name", password),
            url="/sms/callback?token=planted-query",
        )
        shown += [response.text, str(response.headers)]
    shown.append(caplog.text)
    for _, arguments in heard.calls:
        shown += [f"{value!r} {value}" for value in arguments.values()]
    for record in caplog.records:
        shown.append(str(record.__dict__))
    everything = "\n".join(shown)
    assert [secret for secret in SECRETS if secret in everything] == []
    assert "callback_rejected" in heard.names


def test_the_log_says_what_was_refused(ants: Ants, caplog: pytest.LogCaptureFixture) -> None:
    ants.post(callback(detail(), {}))
    ants.post("{")
    refused = "The body is not JSON: Expecting property name enclosed in double quotes"
    assert caplog.messages == [
        "ants_dr: 1 of 2 messages refused",
        f"ants_dr: callback refused with 400: {refused}, line 1, column 2.",
    ]
