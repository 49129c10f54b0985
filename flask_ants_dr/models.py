"""What a callback says, as immutable values that are safe to log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from unicodedata import category


class DeliveryState(StrEnum):
    """What became of a message: the status names of ANTS, and ``UNKNOWN`` for any other."""

    ACCEPTED = "ACCEPTED"
    """Taken by ANTS."""
    PENDING = "PENDING"
    """On its way to the operator."""
    UNDELIVERED = "UNDELIVERED"
    """Could not be delivered."""
    DELIVERED = "DELIVERED"
    """On the phone."""
    EXPIRED = "EXPIRED"
    """Its validity ran out, 48 hours by default, or the operator says so."""
    REJECTED = "REJECTED"
    """Refused by ANTS or by the operator."""
    COMPLETED = "COMPLETED"
    """Final, but no proof that it reached the phone."""
    UNKNOWN = "UNKNOWN"
    """A name that ANTS had not documented when this was written."""

    @property
    def is_final(self) -> bool:
        """Whether no later report will change it."""
        return self not in _NOT_FINAL


_STATES = dict(DeliveryState.__members__)
_NOT_FINAL = {DeliveryState.ACCEPTED, DeliveryState.PENDING, DeliveryState.UNKNOWN}

_LONGEST_NAME = 200


def _visible(name: str) -> str:
    """A name without what nobody sees in it: format and control characters, and U+FFFD."""
    return "".join(one for one in name if category(one) not in {"Cf", "Cc"} and one != "\ufffd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The ``status`` of one message.

    The state is told by the name, never by the code: ANTS documents code ``000`` both under
    PENDING and under DELIVERED.
    """

    code: str | None = None
    """ANTS's code, as it came: for people, not for decisions."""
    name: str
    """ANTS's name, as it came."""
    description: str | None = None
    """ANTS's words for it."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Members that no schema knows, and what could not be read, as JSON has them (numbers as
    ``int`` or ``float``)."""
    problems: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Why a member could not be read, by its name on the wire; no values."""

    @property
    def state(self) -> DeliveryState:
        """The name as a :class:`DeliveryState`, whatever its case and what nobody sees in it."""
        state = _STATES.get(self.name)
        if state is None:
            name = _visible(self.name[:_LONGEST_NAME]).strip().upper()
            state = _STATES.get(name, DeliveryState.UNKNOWN)
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReport:
    """What became of one message to one phone: one of the ``details`` of a callback.

    Neither ``message_id`` nor ``bulk_id`` need be unique: what is reported on is the
    combination of source, bulk, message and ``to``.
    """

    message_id: str
    """What ANTS, or whoever sent the message, calls it."""
    to: str | None = None
    """The phone number that the message went to."""
    sender: str | None = None
    """The sender name that the phone showed (``from`` on the wire)."""
    text: str | None = None
    """The text that was sent."""
    credit: Decimal | None = None
    """What the message cost, exactly as ANTS wrote it."""
    send_date: datetime | None = None
    """When ANTS sent it, with its time zone."""
    done_date: datetime | None = None
    """When it reached its end, with its time zone."""
    status: Status
    """What became of it."""
    callback_data: str | None = None
    """What the sender asked to get back."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Members that no schema knows, and what could not be read, as JSON has them (numbers as
    ``int`` or ``float``)."""
    problems: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Why a member could not be read, by its name on the wire, e.g. ``doneDate``; no values. The
    member itself is ``None``, and ``extra`` has what came. (Those of ``status`` are in its own.)"""

    def __repr__(self) -> str:
        to = self.to and f"***{self.to[-4:]}"
        return (
            f"<MessageReport {self.message_id[:200]!r} to={to!r} status={self.status.name[:50]!r}"
            f" done_date={self.done_date and self.done_date.isoformat()!r}>"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidDetail:
    """One of the ``details`` of a callback that does not validate."""

    index: int
    """Its place among them."""
    errors: Mapping[Any, Any] = field(hash=False)
    """marshmallow's messages by path."""
    payload: Any = field(hash=False, repr=False)
    """What came, as plain values. Unlike the rest of it, no text for a log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """One callback of ANTS: a bulk and what became of its messages."""

    bulk_id: str | None = None
    """The bulk's identifier. ANTS leaves it out where a message went to one phone only."""
    messages: tuple[MessageReport, ...]
    """The valid ones. In a worker, those that were claimed together."""
    source: str = ""
    """The name of the blueprint that received it."""
    url_params: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The query string and the URL variables of the callback."""
    received_at: datetime | None = field(default=None, compare=False)
    """When the callback came, in UTC. ``None`` for a report that came in none."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Members that no schema knows, and what could not be read, as JSON has them (numbers as
    ``int`` or ``float``)."""
    problems: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Why a member of the report itself could not be read, by its name on the wire; no values."""

    def __repr__(self) -> str:
        bulk_id = self.bulk_id and self.bulk_id[:200]
        return f"<DeliveryReport {bulk_id!r} source={self.source!r} messages={len(self.messages)}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A callback as it came, before anything is made of it."""

    source: str
    content_type: str
    content_encoding: str = ""
    """What it is compressed with."""
    url_variables: Mapping[str, str] = field(hash=False, repr=False)
    """The variables of the URL rule."""
    query: Mapping[str, str] = field(hash=False, repr=False)
    """The query string."""
    received_at: datetime
    """When it came, in UTC."""
    body: bytes = field(repr=False)

    @property
    def url_params(self) -> dict[str, str]:
        """Both; a variable counts more than a parameter of its name."""
        return {**self.query, **self.url_variables}
