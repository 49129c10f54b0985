"""What each blueprint has made of an application's configuration, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

from flask import Flask

from .config import Settings
from .dispatch import Transaction
from .encoding import Format
from .models import DeliveryReport
from .models import Envelope
from .models import InvalidDetail
from .schemas import ReportSchema

if TYPE_CHECKING:
    from .fast import FastSchema

#: ANTS takes no longer notifyUrl (its documentation of the Send request).
NOTIFY_URL_CHARACTERS = 150

#: What callbacks can be asked to be, by ``notifyContentType``.
NOTIFY_FORMATS: Mapping[str, Format] = {"application/json": "json", "application/xml": "xml"}


class DurableInbox(Protocol):
    """What a blueprint needs of its inbox, which belongs to an extra."""

    @property
    def transaction(self) -> Transaction | None:
        """Makes what a subscriber's turn is in, where it is in the host's own database."""

    def accept(
        self,
        envelope: Envelope,
        report: DeliveryReport,
        invalid: Sequence[InvalidDetail],
        callback_id: int | None = None,
    ) -> int:
        """Commit a callback and have it dispatched; return how many messages of it are new."""

    def quarantine(self, envelope: Envelope, error: Exception) -> None:
        """Keep a callback that could not be read."""

    def ping(self) -> None:
        """See whether the database answers."""

    def probe(self) -> None:
        """See whether a callback could be stored."""

    def status(self) -> dict[str, Any]:
        """How it stands with messages, callbacks and workers."""

    def kept(self) -> dict[str, float | None]:
        """How many days what is kept, and is overdue."""

    def reconciliation(self) -> dict[str, float | None]:
        """When Message Logs were asked last, and how much no callback had brought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One blueprint in one application."""

    name: str
    """What the blueprint is registered as, with the names of those around it."""
    config_prefix: str
    settings: Settings
    schema: ReportSchema
    fast: FastSchema | None
    """What reads by the schema faster than it does (extra ``fast``)."""
    inbox: DurableInbox | None


def registrations(app: Flask) -> dict[str, Registration]:
    """The blueprints of an application by their names, in the order of their registration."""
    known: dict[str, Registration] = app.extensions.setdefault("ants_dr", {})
    return known


def find_registration(app: Flask, blueprint: str | None = None) -> Registration:
    """A blueprint of an application, by default the only one.

    :raises ValueError: there is none, or none of that name, or there are several.
    """
    known = registrations(app)
    if not known:
        raise ValueError("The application has registered no DeliveryReportBlueprint.")
    if blueprint is None and len(known) > 1:
        raise ValueError(f"The application has several blueprints; name one: {', '.join(known)}.")
    if blueprint is not None and blueprint not in known:
        raise ValueError(f"There is no blueprint {blueprint!r}, only: {', '.join(known)}.")
    return known[blueprint or next(iter(known))]


def callback_path(app: Flask, registration: Registration) -> str:
    """The path of a blueprint's callback, without the application's root.

    :raises ValueError: its rule has variables.
    """
    (rule,) = app.url_map.iter_rules(f"{registration.name}.callback")
    if rule.arguments - (rule.defaults or {}).keys():
        raise ValueError(f"The rule {rule.rule} has variables: give the URL.")
    # Not url_for(), which needs a host that the application trusts.
    return app.url_map.bind("localhost").build(f"{registration.name}.callback")


def configured_credentials(
    app: Flask,
    registration: Registration,
    username: str | None = None,
    password: str | None = None,
) -> tuple[str, str]:
    """The pair that a blueprint is configured with; if it has several, the first.

    :param username: to take in place of the configured one.
    :param password: to take in place of the configured one.
    :raises ValueError: the host checks credentials itself.
    """
    if username is not None and password is not None:
        return username, password
    prefix = registration.config_prefix
    pair = app.config.get(f"{prefix}_USERNAME"), app.config.get(f"{prefix}_PASSWORD")
    if None in pair:
        pair = next(iter(app.config.get(f"{prefix}_CREDENTIALS", {}).items()), pair)
    if None in pair and registration.settings.auth_required:
        raise ValueError("The application checks credentials itself: give username and password.")
    known_username, known_password = ("" if part is None else str(part) for part in pair)
    return (
        known_username if username is None else username,
        known_password if password is None else password,
    )
