"""The models."""

from __future__ import annotations

import pytest

from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageReport
from flask_ants_dr import Status

FINAL = {"UNDELIVERED", "DELIVERED", "EXPIRED", "REJECTED", "COMPLETED"}
OTHER = {"ACCEPTED", "PENDING", "UNKNOWN"}


def test_the_states() -> None:
    assert {state.name for state in DeliveryState} == FINAL | OTHER
    assert {state.name for state in DeliveryState if state.is_final} == FINAL


@pytest.mark.parametrize("name", ["", "unknown", "DELIVERED2", "is_final", "__class__"])
def test_names_that_are_no_state(name: str) -> None:
    assert Status(name=name).state is DeliveryState.UNKNOWN


@pytest.mark.parametrize(
    ("to", "shown"), [("66123456789", "'***6789'"), ("123", "'***123'"), (None, "None")]
)
def test_repr_masks_the_phone_number(to: str | None, shown: str) -> None:
    message = MessageReport(message_id="m", to=to, text="secret", status=Status(name="PENDING"))
    assert repr(message) == (f"<MessageReport 'm' to={shown} status='PENDING' done_date=None>")


def test_repr_is_short_whatever_came() -> None:
    long = "x" * 1_000_000
    message = MessageReport(message_id=long, to=long, status=Status(name=long))
    assert len(repr(message)) < 500
