from __future__ import annotations

import pytest

from flask_ants_dr.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0.0.0.0", "::", "", None, "127.0.0.1.example", "localhost.example"]
)
def test_another_one(host: str | None) -> None:
    assert not is_loopback(host)
