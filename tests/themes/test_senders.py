"""Bodies as real senders write them, gathered from public bug reports, with invented values."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_ants_dr import MessageReport
from flask_ants_dr.registration import registrations
from kit import Ants
from kit import Heard
from kit import make_app

CASES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("senders.json").read_text("utf-8")
)


@pytest.fixture(params=["by msgspec", "by marshmallow"])
def app(request: pytest.FixtureRequest) -> Flask:
    app = make_app()
    if request.param == "by marshmallow":
        known = registrations(app)
        from dataclasses import replace

        known["ants_dr"] = replace(known["ants_dr"], fast=None)
    return app


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['name']}")
def test_senders(ants: Ants, heard: Heard, case: dict[str, Any]) -> None:
    expect = case["expect"]
    body = b64decode(case["body_base64"])
    answer = ants.post(body, case["content_type"], headers=case.get("headers"))
    assert answer.status_code == expect["status"]
    if expect["status"] == 200:
        counts = answer.get_json()
        assert counts["accepted"] == expect["accepted"]
        assert counts["rejected"] == expect.get("rejected", 0)
        assert len(heard.messages) == expect["accepted"]
        check(heard.messages[0], expect.get("first", {}))
    else:
        assert expect.get("detail_names", "") in answer.get_json()["detail"]


def check(message: MessageReport, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        match name:
            case "problems":
                assert message.problems.keys() >= set(value)
            case "extra":
                assert message.extra.items() >= value.items()
            case "state":
                assert message.status.state == value
            case "done_date":
                assert (message.done_date and message.done_date.isoformat()) == value
            case "credit":
                assert message.credit is value or str(message.credit) == value
            case _:
                assert getattr(message, name) == value
