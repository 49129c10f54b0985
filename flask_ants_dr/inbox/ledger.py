"""The ledger: what became of each message, and what was expected."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Row
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import func
from sqlalchemy import literal_column
from sqlalchemy import null
from sqlalchemy import select
from sqlalchemy import update

from ..decoding.text import storable
from ..models import DeliveryReport
from ..models import DeliveryState
from ..models import Envelope
from ..models import MessageReport
from ..models import Status
from . import pages
from .callbacks import CHARACTERS
from .callbacks import digest
from .callbacks import indexed
from .callbacks import status_name
from .dialects import among
from .dialects import upsert
from .phones import as_asked
from .phones import as_reported
from .phones import international
from .tables import ledger

if TYPE_CHECKING:
    from .inbox import BoundInbox

#: In which order states that are not final come. One that is final comes after them all.
_ORDER = {state: f"{number:02}" for number, state in enumerate(DeliveryState)}
_FINALS = {state for state in DeliveryState if state.is_final}
_FINAL = "1"

_NEWEST_FIRST = (ledger.c.changed_at.desc(), ledger.c.id.desc())
_OLDEST_FIRST = (ledger.c.open_since, ledger.c.id)

_AGES = 1e12
"""Seconds: more than any database's time has."""

_STATES = (None, *DeliveryState)

# One subquery for each: of all states together, no index has a range of time.
_COUNTS = select(
    *(
        select(func.count())
        .where(ledger.c.source == bindparam("source"), ledger.c.state == state)
        .where(ledger.c.changed_at >= bindparam("since"), ledger.c.changed_at < bindparam("until"))
        .scalar_subquery()
        for state in _STATES
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a message: one row of the ledger."""

    message_id: str
    """Its first 200 characters."""
    to: str | None
    """The phone number: the digits, with the country code in front. ``None`` where none was said,
    or where it is erased."""
    bulk_id: str | None
    reference: str | None
    """What the host calls it."""
    state: DeliveryState | None
    """``None`` where nothing has been reported."""
    status: Status | None
    """ANTS's words for it."""
    sender: str | None
    credit: Decimal | None
    send_date: datetime | None
    """In UTC, as the other times are."""
    done_date: datetime | None
    expected_at: datetime | None
    """When the host sent it, where it said so."""
    reported_at: datetime | None
    """When the latest report came."""
    reports: int
    """How many there were. A repetition is none."""
    cursor: str = field(default="", compare=False)
    """Where it is in the list that it came from."""

    @property
    def is_final(self) -> bool:
        """Whether no later report will change it."""
        return self.state is not None and self.state.is_final

    def __repr__(self) -> str:
        to = self.to and f"***{self.to[-4:]}"
        return f"<Entry {self.message_id!r} to={to!r} state={self.state and self.state.value!r}>"


class Ledger:
    """The ledger of one inbox: ``blueprint.inbox.ledger``."""

    def __init__(self, inbox: BoundInbox) -> None:
        self._inbox = inbox

    def expect(
        self,
        message_id: str,
        to: str,
        *,
        bulk_id: str | None = None,
        reference: str | None = None,
        sent_at: datetime | None = None,
        url_variables: Mapping[str, str] | None = None,
    ) -> None:
        """Note that the host is sending a message, before or after its first report.

        With ``Inbox(session=...)`` it is written in the host's own transaction, and committed with
        it; otherwise at once.

        :param message_id: as the host or ANTS calls it.
        :param to: the phone number in any usual notation; one without a country code is Thai.
        :param bulk_id: of the request.
        :param reference: what the host calls it: an order's number, say. At most 200 characters.
        :param sent_at: when it is sent, aware; now, by default.
        :param url_variables: the variables of the blueprint's URL rule, where it has any.
        :raises ValueError: ``to`` is no phone number, ``sent_at`` has no time zone, or an
            identifier is empty or too long. The message names the parameter.
        :raises InboxUnavailable: the database failed.
        """
        self.expect_many(
            [(message_id, to)],
            bulk_id=bulk_id,
            reference=reference,
            sent_at=sent_at,
            url_variables=url_variables,
        )

    def expect_many(
        self,
        messages: Iterable[tuple[str, str]],
        *,
        bulk_id: str | None = None,
        reference: str | None = None,
        sent_at: datetime | None = None,
        url_variables: Mapping[str, str] | None = None,
    ) -> None:
        """Note that the host is sending messages of one bulk; see :meth:`expect`.

        :param messages: pairs of ``message_id`` and ``to``.
        """
        if sent_at is not None and sent_at.tzinfo is None:
            raise ValueError("sent_at must have a time zone.")
        bulk_id = bulk_id and _identifier("bulk_id", bulk_id)
        reference = reference and _identifier("reference", reference)
        at = time.time() if sent_at is None else sent_at.timestamp()
        origin = _origin(self._inbox.source, url_variables)
        rows: dict[str, dict[str, Any]] = {}
        for given, to in messages:
            if not given:
                raise ValueError("message_id must not be empty.")
            message_id = _identifier("message_id", given)
            number = international(to)
            if number is None:
                raise ValueError(
                    "to must be a phone number, such as 0812345678 or +66 81 234 5678."
                )
            key = digest(*origin, message_id, number)
            rows[key] = {
                "source": self._inbox.source,
                "key": key,
                "message_id": message_id,
                "to_number": number,
                "bulk_id": bulk_id,
                "reference": reference,
                "rank": "",
                "expected_at": at,
                "open_since": at,
                "changed_at": at,
                "reports": 0,
            }
        if rows:
            self._inbox.write(lambda connection: _upsert(connection, rows))

    def get(
        self, message_id: str, to: str, *, url_variables: Mapping[str, str] | None = None
    ) -> Entry | None:
        """What is known of one message.

        :param to: the phone number in any usual notation.
        :return: ``None`` where it is neither expected nor reported.
        :raises InboxUnavailable: the database failed.
        """
        origin = _origin(self._inbox.source, url_variables)
        key = digest(*origin, storable(message_id), as_asked(to))
        found = self._find(ledger.c.key == key, limit=1)
        return found[0] if found else None

    def find(
        self,
        *,
        to: str | None = None,
        message_id: str | None = None,
        bulk_id: str | None = None,
        reference: str | None = None,
        state: DeliveryState | None = None,
        since: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> list[Entry]:
        """The messages that all of this is true of, those that changed last first.

        :param to: the phone number in any usual notation.
        :param state: what became of them.
        :param since: when they were last expected or reported, at the earliest; aware.
        :param limit: how many, at most.
        :param cursor: only those behind the entry that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        said = {
            ledger.c.to_number: indexed(to and as_asked(to)),
            ledger.c.message_id: indexed(message_id and storable(message_id)),
            ledger.c.bulk_id: indexed(bulk_id and storable(bulk_id)),
            ledger.c.reference: reference and storable(reference),
        }
        is_same = self._inbox.database.dialect.is_same
        is_theirs = [is_same(column, value) for column, value in said.items() if value is not None]
        if since is not None:
            is_theirs.append(ledger.c.changed_at >= since.timestamp())
        if cursor is not None:
            is_theirs.append(pages.behind(ledger.c.changed_at, ledger.c.id, cursor))
        if state is not None:
            is_theirs.append(ledger.c.state == state)
        elif all(value is None for value in said.values()):
            # The index has them by state.
            by_state = [(*is_theirs, ledger.c.state == one) for one in _STATES]
            # One that goes forward between two of the questions is found by both.
            latest = {row.id: row for row in self._rows(*by_state, limit=limit)}
            found = sorted(latest.values(), key=lambda row: (row.changed_at, row.id), reverse=True)
            return [_entry(row, row.changed_at) for row in found[:limit]]
        return self._find(*is_theirs, limit=limit)

    def counts(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> dict[DeliveryState | None, int]:
        """How many messages there are in each state; under ``None``, those that nothing has been
        reported of.

        :param since: when they were last expected or reported, at the earliest; aware.
        :param until: before when they were; aware.
        :raises InboxUnavailable: the database failed.
        """
        said = {
            "source": self._inbox.source,
            "since": -_AGES if since is None else since.timestamp(),
            "until": _AGES if until is None else until.timestamp(),
        }
        with self._inbox.database.begin(writes=False) as connection:
            return dict(zip(_STATES, connection.execute(_COUNTS, said).one(), strict=True))

    def overdue(
        self,
        after: timedelta,
        *,
        since: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> list[Entry]:
        """The messages that were expected or reported so long ago, and are not final.

        :param since: when that was, at the earliest; aware.
        :param limit: how many, at most: the oldest.
        :param cursor: only those behind the entry that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        before = time.time() - after.total_seconds()
        is_overdue = ledger.c.open_since <= before
        if since is not None:
            is_overdue &= ledger.c.open_since >= since.timestamp()
        if cursor is not None:
            is_overdue &= pages.behind(
                ledger.c.open_since, ledger.c.id, cursor, is_descending=False
            )
        rows = self._rows([is_overdue], limit=limit, order=_OLDEST_FIRST)
        return [_entry(row, row.open_since) for row in rows]

    def count_overdue(self, after: timedelta) -> int:
        """How many messages are overdue."""
        before = time.time() - after.total_seconds()
        with self._inbox.database.begin(writes=False) as connection:
            return count_overdue(connection, self._inbox.source, before)

    def _find(
        self,
        *is_theirs: ColumnElement[bool],
        limit: int,
    ) -> list[Entry]:
        return [_entry(row, row.changed_at) for row in self._rows(is_theirs, limit=limit)]

    def _rows(
        self,
        *of_each: Sequence[ColumnElement[bool]],
        limit: int,
        order: Sequence[ColumnElement[Any]] = _NEWEST_FIRST,
    ) -> list[Row[Any]]:
        """Of each of several questions at most so many rows, in one transaction."""
        own = select(ledger).where(ledger.c.source == self._inbox.source)
        own = own.order_by(*order).limit(limit)
        with self._inbox.database.begin(writes=False) as connection:
            return [row for each in of_each for row in connection.execute(own.where(*each))]


def record(
    connection: Connection,
    envelope: Envelope,
    report: DeliveryReport,
    messages: Mapping[str, MessageReport],
) -> None:
    """Note what a callback says of messages, in the transaction that accepts it.

    :param messages: by what makes two reports the same.
    """
    at = envelope.received_at.timestamp()
    origin = _origin(envelope.source, envelope.url_variables)
    bulk_id = indexed(report.bulk_id)
    rows: dict[str, dict[str, Any]] = {}
    status: Status | None = None
    for key_of_report, message in messages.items():
        if message.status is not status:  # which many share
            status = message.status
            state, said = status.state, json.dumps([status.code, status.name, status.description])
        to = message.to and as_reported(message.to)
        key = digest(*origin, message.message_id, to)
        done = message.done_date.timestamp() if message.done_date else None
        rank = _rank(state, done) + key_of_report
        other = rows.get(key)
        if other is None or rank > other["rank"]:
            sent = message.send_date.timestamp() if message.send_date else None
            credit = None if message.credit is None else str(message.credit)
            rows[key] = {
                "source": envelope.source,
                "key": key,
                "message_id": indexed(message.message_id),
                "to_number": indexed(to),
                "bulk_id": bulk_id,
                "state": state,
                "rank": rank,
                "status": said,
                "report": json.dumps([message.sender, credit, sent, done]),
                "reported_at": at,
                "open_since": None if rank >= _FINAL else at,
                "changed_at": at,
                "reports": 0,
            }
        rows[key]["reports"] = (other["reports"] if other else 0) + 1
    if rows:
        _upsert(connection, rows)


def count_overdue(connection: Connection, source: str, before: float) -> int:
    """How many messages have had no final state since a time."""
    is_overdue = (ledger.c.source == source, ledger.c.open_since <= before)
    return connection.scalar(select(func.count()).where(*is_overdue)) or 0


def known(connection: Connection, source: str, messages: Mapping[str, MessageReport]) -> set[str]:
    """Which reports, of any tenant, say what is here already: that have the same status.

    :param messages: by whatever tells them apart.
    """
    ids = {indexed(message.message_id) for message in messages.values()}
    theirs = select(ledger.c.key, ledger.c.message_id, ledger.c.to_number, ledger.c.status).where(
        ledger.c.source == source, ledger.c.message_id.in_(ids), ledger.c.status.is_not(None)
    )
    found: set[tuple[str | None, ...]] = set()
    for row in connection.execute(theirs) if ids else ():
        name = status_name(_status(row.status))
        # A number that is erased is still in the key.
        found |= {(row.key, name), (row.message_id, row.to_number, name)}
    return {
        one
        for one, message in messages.items()
        for to in [message.to and as_reported(message.to)]
        for name in [status_name(message.status)]
        if (digest(*_origin(source, None), message.message_id, to), name) in found
        or (indexed(message.message_id), indexed(to), name) in found
    }


def forget(
    connection: Connection, source: str, after: float, before: float, limit: int
) -> tuple[int, float]:
    """Erase the numbers of messages that are final and have not changed since a time.

    :param after: how far it came the last time.
    :param limit: of how many, at most.
    :return: of how many there were, and how far it came.
    """
    found = [
        row
        for state in _FINALS
        for row in connection.execute(
            select(ledger.c.id, ledger.c.changed_at)
            .where(ledger.c.source == source, ledger.c.state == state)
            # From there on, because all messages of a callback have changed at the same moment.
            .where(ledger.c.changed_at >= after, ledger.c.changed_at < before)
            .where(ledger.c.to_number.is_not(None))
            .order_by(ledger.c.changed_at)
            .limit(limit)
        )
    ]
    found = sorted(found, key=lambda row: row.changed_at)[:limit]
    _forget(connection, [row.id for row in found])
    return len(found), found[-1].changed_at if found else before


def erase(connection: Connection, source: str, number: str, limit: int) -> int:
    """Erase a number wherever it is, and return of how many messages."""
    theirs = select(ledger.c.id).where(ledger.c.source == source, ledger.c.to_number == number)
    return _forget(connection, list(connection.scalars(theirs.limit(limit))))


def count_number(connection: Connection, source: str, number: str) -> int:
    """Of how many messages a number is there."""
    theirs = (ledger.c.source == source, ledger.c.to_number == number)
    return connection.scalar(select(func.count()).where(*theirs)) or 0


def _forget(connection: Connection, ids: list[int]) -> int:
    # The key, which is a hash, still knows the message.
    theirs = update(ledger).where(among(connection, ledger.c.id, ids))
    connection.execute(theirs.values(to_number=None))
    return len(ids)


def _upsert(connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """One row for each message, the same in whatever order reports and expectations come.

    :param rows: by their keys. A column that none of them has says nothing.
    """
    # In one order, so that two callbacks with the same messages do not wait for each other.
    upsert(connection, ledger, [rows[key] for key in sorted(rows)], _changes)


def _changes(new: Any) -> dict[str, ColumnElement[Any]]:
    """What becomes of a row, where ``new`` is what else is said of its message."""
    old = ledger.c
    is_later = new.rank > old.rank
    final: ColumnElement[str] = literal_column(f"'{_FINAL}'")
    is_final = (new.rank >= final) | (old.rank >= final)
    return {
        "bulk_id": _larger_text(old.bulk_id, new.bulk_id),
        "reference": func.coalesce(new.reference, old.reference),
        "expected_at": _smaller(old.expected_at, new.expected_at),
        "reported_at": _larger(old.reported_at, new.reported_at),
        "changed_at": _larger(old.changed_at, new.changed_at),
        "reports": old.reports + new.reports,
        "open_since": case((is_final, null()), else_=_smaller(old.open_since, new.open_since)),
        "state": case((is_later, new.state), else_=old.state),
        "status": case((is_later, new.status), else_=old.status),
        "report": case((is_later, new.report), else_=old.report),
        # Last, because MariaDB sees what stands before it as changed already.
        "rank": case((is_later, new.rank), else_=old.rank),
    }


def _smaller(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((old.is_(None) | (new < old), new), else_=old)


def _larger(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((old.is_(None) | (new > old), new), else_=old)


def _larger_text(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    """The larger of two texts, which to MariaDB are the same where one has but blanks more."""
    has_more = (new == old) & (func.length(new) > func.length(old))
    return case((old.is_(None) | (new > old) | has_more, new), else_=old)


def _rank(state: DeliveryState, done: float | None) -> str:
    """What tells the later of two reports, as text. The time at which it came does not.

    A final state comes after one that is not; of two final ones the later done date counts, of two
    others the state that ANTS has later.
    """
    at, order = f"{max(0.0, done or 0.0):018.6f}", _ORDER[state]
    return f"{_FINAL}{at}{order}" if state in _FINALS else f"0{order}{at}"


def _origin(source: str, url_variables: Mapping[str, str] | None) -> tuple[str, ...]:
    return source, *map(str, sorted((url_variables or {}).items()))


def _identifier(name: str, value: str) -> str:
    """A host's as a report has it.

    :raises ValueError: it is too long.
    """
    if len(value) > CHARACTERS:
        raise ValueError(f"{name} must have at most {CHARACTERS} characters.")
    return storable(value)


def _entry(row: Row[Any], at: float) -> Entry:
    status = sender = credit = send_date = done_date = None
    if row.report is not None:
        status = _status(row.status)
        sender, credit, send_date, done_date = json.loads(row.report)
    return Entry(
        message_id=row.message_id,
        to=row.to_number,
        bulk_id=row.bulk_id,
        reference=row.reference,
        state=row.state and DeliveryState(row.state),
        status=status,
        sender=sender,
        credit=None if credit is None else Decimal(credit),
        send_date=_moment(send_date),
        done_date=_moment(done_date),
        expected_at=_moment(row.expected_at),
        reported_at=_moment(row.reported_at),
        reports=row.reports,
        cursor=pages.cursor(at, row.id),
    )


def _status(stored: str) -> Status:
    code, name, description = json.loads(stored)
    return Status(code=code, name=name, description=description)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
