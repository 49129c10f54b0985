"""Phone numbers in every notation."""

from __future__ import annotations

import pytest

from flask_ants_dr.inbox.phones import international


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0812345678", "66812345678"),
        ("66812345678", "66812345678"),
        ("+66 81 234 5678", "66812345678"),
        (" (081) 234-5678 ", "66812345678"),
        ("02 123 4567", "6621234567"),
        ("66000000000", "66000000000"),  # fictitious
        ("0000000000", "66000000000"),
        ("6591234567", "6591234567"),  # of Singapore
        ("+1 650 253 0000", "16502530000"),
        ("1234", "1234"),  # a short number
        ("12", None),
        ("1" * 16, None),
        ("0" * 41, None),
        ("", None),
        ("ANTS", None),
        ("+", None),
        ("012", None),
    ],
)
def test_a_number_as_ants_writes_it(text: str, expected: str | None) -> None:
    assert international(text) == expected
