"""What each blueprint has made of an application's configuration, and where that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask

from .config import Settings
from .models import DeliveryReport
from .models import Envelope
from .models import InvalidDetail
from .schemas import ReportSchema

if TYPE_CHECKING:
    from .inbox.inbox import BoundInbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One blueprint in one application."""

    name: str
    """What the blueprint is registered as, with the names of those around it."""
    config_prefix: str
    settings: Settings
    schema: ReportSchema
    read: Callable[[Envelope], tuple[DeliveryReport, list[InvalidDetail]]]
    """Decodes and validates a callback."""
    inbox: BoundInbox | None


def registrations(app: Flask) -> dict[str, Registration]:
    """The blueprints of an application by their names, in the order of their registration."""
    known: dict[str, Registration] = app.extensions.setdefault("ants_dr", {})
    return known
