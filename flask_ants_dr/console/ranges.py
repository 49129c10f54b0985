"""Ranges of time that an address can name, each up to now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from datetime import timedelta

from flask import request

from ..schemas import BANGKOK

RANGES = ("1h", "today", "24h", "7d", "30d")

_SPANS = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}


def chosen(default: str, names: Sequence[str] = RANGES) -> str:
    """The one that the address names."""
    name = request.args.get("range", default)
    return name if name in names else default


def begin(name: str, now: datetime) -> datetime:
    """When a range began: today did so at midnight in Bangkok."""
    if name == "today":
        return now.astimezone(BANGKOK).replace(hour=0, minute=0, second=0, microsecond=0)
    return now - _SPANS[name]
