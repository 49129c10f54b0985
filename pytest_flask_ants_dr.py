"""Fixtures for the tests of applications that receive delivery reports.

They need a fixture ``app`` of yours. Nothing is imported before one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from flask_ants_dr.testing import AntsClient
    from flask_ants_dr.testing import Recorder


@pytest.fixture
def ants_client(app: Flask) -> AntsClient:
    """Delivers reports to the application of the fixture ``app``, as ANTS does."""
    from flask_ants_dr.testing import AntsClient

    return AntsClient(app.test_client())


@pytest.fixture
def ants_signals(app: Flask) -> Iterator[Recorder]:
    """Records the signals of the application of the fixture ``app``."""
    from flask_ants_dr.testing import record_signals

    with record_signals(app) as heard:
        yield heard
