"""The statements: each takes a connection in a transaction, and knows nothing of signals."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Select
from sqlalchemy import Table
from sqlalchemy import Update
from sqlalchemy import and_
from sqlalchemy import delete
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import insert
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite

from ..models import Envelope
from .tables import DEAD
from .tables import DONE
from .tables import PENDING
from .tables import callbacks
from .tables import is_claimed
from .tables import is_finished
from .tables import is_pending
from .tables import is_waiting
from .tables import messages
from .tables import quarantine

_logger = logging.getLogger(__name__)

_ENTRY_BYTES = 1024  # what a quarantined callback takes besides its body, roughly


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that is this claim's to dispatch until its lease ends."""

    id: int
    callback_id: int
    key: str
    attempt: int
    """Which one this is, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that was set aside after its last attempt."""

    id: int
    source: str
    attempts: int
    since: datetime
    """In UTC."""
    error: str
    """What its subscribers raised, with the values of the message masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A callback, or one of its details, that could not be decoded or validated."""

    id: int
    callback_id: int
    """What :meth:`~flask_ants_dr.inbox.BoundInbox.replay` takes."""
    source: str
    position: int | None
    """Among the details of the callback; ``None`` for the whole of it."""
    since: datetime
    """In UTC."""
    content_type: str
    bytes: int
    """The size of the callback's body."""
    error: Mapping[str, Any]
    """What the answer said, which repeats no value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What goes into quarantine."""

    key: str
    position: int | None
    """Among the details; ``None`` for the whole callback."""
    error: Mapping[str, Any]


def insert_callback(connection: Connection, envelope: Envelope, now: float) -> int:
    """Store a callback and return its id."""
    statement = insert(callbacks).values(
        source=envelope.source,
        # A database takes no NUL in a text.
        content_type=envelope.content_type.replace("\0", ""),
        url_variables=json.dumps(dict(envelope.url_variables)),
        query=json.dumps(dict(envelope.query)),
        body=envelope.body,
        received_at=now,
    )
    (callback_id,) = connection.execute(statement).inserted_primary_key or (0,)
    return int(callback_id)


def delete_callback(connection: Connection, callback_id: int) -> None:
    """Delete a callback that brought nothing new."""
    connection.execute(delete(callbacks).where(callbacks.c.id == callback_id))


def insert_messages(
    connection: Connection, callback_id: int, source: str, keys: Iterable[str], **values: Any
) -> None:
    """Store those messages of a callback that are new."""
    values |= {"callback_id": callback_id, "source": source, "state": PENDING}
    # In one order, so that two callbacks with the same messages do not wait for each other.
    in_order = sorted((key, position) for position, key in enumerate(keys))
    if in_order:
        rows = [{"key": key, "position": position} | values for key, position in in_order]
        _insert_new(connection, messages, rows)


def stored_messages(connection: Connection, callback_id: int) -> dict[str, int]:
    """The ids of a callback's messages by their keys: of a new callback, what it brought."""
    chosen = select(messages.c.key, messages.c.id).where(messages.c.callback_id == callback_id)
    return {row[0]: row[1] for row in connection.execute(chosen.order_by(messages.c.position))}


def insert_quarantine(
    connection: Connection, callback_id: int, source: str, entries: Iterable[Entry], now: float
) -> int:
    """Store what could not be taken, unless it is there already, and return how much was new."""
    rows = [
        {
            "callback_id": callback_id,
            "source": source,
            "key": entry.key,
            "position": entry.position,
            "error": json.dumps(entry.error, default=str),
            "quarantined_at": now,
        }
        # In one order, as above.
        for entry in sorted(entries, key=lambda entry: entry.key)
    ]
    if not rows:
        return 0
    count = select(func.count()).where(quarantine.c.callback_id == callback_id)
    before = connection.scalar(count) or 0
    _insert_new(connection, quarantine, rows)
    return (connection.scalar(count) or 0) - before


def bound_quarantine(connection: Connection, source: str, oldest: float, limit: int) -> None:
    """Delete what came before ``oldest``, and the oldest of what is over ``limit`` bytes."""
    purge_quarantine(connection, source, oldest)
    size = func.length(callbacks.c.body) + _ENTRY_BYTES
    quarantined = select(quarantine.c.callback_id).where(quarantine.c.source == source)
    kept = callbacks.c.id.in_(quarantined)
    excess = (connection.scalar(select(func.sum(size)).where(kept)) or 0) - limit
    if excess <= 0:
        return
    dropped = []
    for id, bytes_ in connection.execute(
        select(callbacks.c.id, size).where(kept).order_by(callbacks.c.id)
    ):
        dropped.append(id)
        excess -= bytes_
        if excess <= 0:
            break
    for ids in _chunks(dropped):
        connection.execute(delete(quarantine).where(quarantine.c.callback_id.in_(ids)))
    delete_orphans(connection, dropped)
    _logger.warning("%s: quarantine is full; %d of its oldest dropped", source, len(dropped))


def claim(
    connection: Connection,
    source: str,
    *,
    token: str,
    now: float,
    until: float,
    limit: int,
    ids: Sequence[int] | None = None,
) -> list[Claimed]:
    """Claim messages that are due, the longest due ones first.

    Any number of workers can do so at once: PostgreSQL's skip each other's rows, SQLite's wait for
    each other.

    :param token: what tells this claim from others.
    :param until: the end of the lease.
    :param ids: claim only these.
    """
    chosen = _in_order(_due(source, now, ids), is_waiting, limit)
    return _claim(connection, chosen, {"claim": token, "due_at": until}, begun=0)


def claim_unfinished(
    connection: Connection,
    source: str,
    *,
    token: str,
    now: float,
    until: float,
    max_attempts: int,
    ids: Sequence[int] | None = None,
) -> list[Claimed]:
    """Claim one message whose last claim was not finished by the end of its lease.

    Which message of a claim took its worker with it is not known. So they are tried again one by
    one, and one that was tried alone often enough is dead.
    """
    due = _due(source, now, ids)
    exhausted = update(messages).where(due, is_claimed, messages.c.attempts >= max_attempts)
    connection.execute(
        exhausted.values(
            state=DEAD, claim=None, finished_at=now, error="its last worker did not finish it"
        )
    )
    attempted = messages.c.attempts + 1
    values = {"claim": token, "due_at": until, "attempts": attempted}
    return _claim(connection, _in_order(due, is_claimed, 1), values, begun=1)


def _due(source: str, now: float, ids: Sequence[int] | None = None) -> ColumnElement[bool]:
    due = and_(messages.c.source == source, messages.c.due_at <= now)
    return due if ids is None else due & messages.c.id.in_(ids)


def _in_order(
    due: ColumnElement[bool], kind: ColumnElement[bool], limit: int
) -> Select[tuple[int]]:
    order = (messages.c.due_at, messages.c.callback_id, messages.c.position)
    return select(messages.c.id).where(due, kind).order_by(*order).limit(limit)


def _claim(
    connection: Connection, chosen: Select[tuple[int]], values: Mapping[str, Any], *, begun: int
) -> list[Claimed]:
    # A common table expression, because PostgreSQL may run a subquery with LIMIT more than once.
    rows = chosen.with_for_update(skip_locked=True).cte("due")
    claimed = connection.execute(
        update(messages)
        .where(messages.c.id.in_(select(rows.c.id)))
        .values(values)
        .returning(
            messages.c.id,
            messages.c.callback_id,
            messages.c.key,
            messages.c.attempts,
            messages.c.position,
        )
    )
    in_order = sorted(claimed, key=lambda row: (row.callback_id, row.position))
    return [Claimed(row.id, row.callback_id, row.key, row.attempts + 1 - begun) for row in in_order]


def finish(connection: Connection, id: int, token: str, **values: Any) -> bool:
    """End a claim; ``False`` where its lease had ended and the message is another's by now."""
    result = connection.execute(_of_claim([id], token).values(claim=None, **values))
    return bool(result.rowcount)


def renew(connection: Connection, ids: Sequence[int], token: str, until: float) -> set[int]:
    """Move the end of a lease, and return the messages that are still under it."""
    ours: set[int] = set()
    for some in _chunks(ids):
        renewed = _of_claim(some, token).values(due_at=until).returning(messages.c.id)
        ours.update(connection.scalars(renewed))
    return ours


def release(connection: Connection, ids: Sequence[int], token: str, now: float) -> None:
    """Give back messages that were claimed and not begun."""
    connection.execute(_of_claim(ids, token).values(claim=None, due_at=now))


def _of_claim(ids: Sequence[int], token: str) -> Update:
    """Whatever becomes of a message becomes of it only while the claim is still its own."""
    return update(messages).where(messages.c.id.in_(ids), messages.c.claim == token)


def due_ids(
    connection: Connection, source: str, now: float, limit: int, *, unfinished: bool
) -> list[int]:
    """The messages that wait for a claim, or those whose claim was not finished."""
    kind = is_claimed if unfinished else is_waiting
    return list(connection.scalars(_in_order(_due(source, now), kind, limit)))


def lock_callback(connection: Connection, callback_id: int) -> None:
    """Wait for whoever else works on a callback's messages."""
    connection.execute(
        select(callbacks.c.id).where(callbacks.c.id == callback_id).with_for_update()
    )


def envelope(connection: Connection, callback_id: int) -> Envelope:
    """A callback as it came.

    :raises LookupError: it is not there.
    """
    row = connection.execute(select(callbacks).where(callbacks.c.id == callback_id)).one_or_none()
    if row is None:
        raise LookupError(f"There is no callback {callback_id}.")
    return Envelope(
        source=row.source,
        content_type=row.content_type,
        url_variables=json.loads(row.url_variables),
        query=json.loads(row.query),
        body=bytes(row.body),
    )


def dead(connection: Connection, source: str, limit: int) -> list[DeadMessage]:
    """The dead messages, the latest first."""
    columns = (messages.c.id, messages.c.attempts, messages.c.error, messages.c.finished_at)
    chosen = select(*columns).where(messages.c.source == source, is_finished)
    chosen = chosen.where(messages.c.state == DEAD)
    rows = connection.execute(chosen.order_by(messages.c.finished_at.desc()).limit(limit))
    return [
        DeadMessage(
            id=row.id,
            source=source,
            attempts=row.attempts,
            since=datetime.fromtimestamp(row.finished_at, UTC),
            error=row.error,
        )
        for row in rows
    ]


def retry(connection: Connection, source: str, ids: Sequence[int] | None, now: float) -> int:
    """Make dead messages pending again, and return how many."""
    chosen = update(messages).where(messages.c.source == source, messages.c.state == DEAD)
    if ids is not None:
        chosen = chosen.where(messages.c.id.in_(ids))
    values = {"state": PENDING, "attempts": 0, "due_at": now, "finished_at": None}
    return connection.execute(chosen.values(values)).rowcount


def purge(connection: Connection, source: str, state: str, before: float, limit: int) -> int:
    """Delete messages that were finished before a time, and return how many."""
    finished = (messages.c.state == state, messages.c.finished_at < before)
    old = select(messages.c.id).where(messages.c.source == source, *finished).limit(limit)
    gone = delete(messages).where(messages.c.id.in_(old.scalar_subquery()))
    callback_ids = list(connection.scalars(gone.returning(messages.c.callback_id)))
    delete_orphans(connection, callback_ids)
    return len(callback_ids)


def delete_orphans(connection: Connection, callback_ids: Iterable[int]) -> None:
    """Delete those callbacks of which neither a message nor a quarantined detail is left."""
    for ids in _chunks(list(set(callback_ids))):
        connection.execute(delete(callbacks).where(callbacks.c.id.in_(ids), ~_in_use()))


def sweep_orphans(connection: Connection, source: str, before: float) -> None:
    """Delete the callbacks that two purges at once have left."""
    old = (callbacks.c.source == source, callbacks.c.received_at < before)
    connection.execute(delete(callbacks).where(*old, ~_in_use()))


def counts(connection: Connection, source: str) -> dict[str, int]:
    """How many messages are in each state."""
    by_state = (
        select(messages.c.state, func.count())
        .where(messages.c.source == source)
        .group_by(messages.c.state)
    )
    found: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_state)}
    return {state: found.get(state, 0) for state in (PENDING, DONE, DEAD)}


def oldest_pending(connection: Connection, source: str) -> float | None:
    """When the callback of the oldest pending message came."""
    pending = (messages.c.source == source, is_pending)
    joined = callbacks.join(messages, messages.c.callback_id == callbacks.c.id)
    oldest = select(func.min(callbacks.c.received_at)).select_from(joined).where(*pending)
    received_at: float | None = connection.scalar(oldest)
    return received_at


def done_since(connection: Connection, source: str, since: float) -> int:
    """How many messages were finished after a time."""
    finished = (messages.c.source == source, is_finished, messages.c.finished_at >= since)
    done = select(func.count()).where(*finished, messages.c.state == DONE)
    return connection.scalar(done) or 0


def quarantined(connection: Connection, source: str, limit: int | None = None) -> list[Quarantined]:
    """What is in quarantine, the oldest first."""
    rows = connection.execute(
        select(
            quarantine.c.id,
            quarantine.c.callback_id,
            quarantine.c.position,
            quarantine.c.error,
            quarantine.c.quarantined_at,
            callbacks.c.content_type,
            func.length(callbacks.c.body).label("bytes"),
        )
        .join_from(quarantine, callbacks, quarantine.c.callback_id == callbacks.c.id)
        .where(quarantine.c.source == source)
        .order_by(quarantine.c.id)
        .limit(limit)
    )
    return [
        Quarantined(
            id=row.id,
            callback_id=row.callback_id,
            source=source,
            position=row.position,
            since=datetime.fromtimestamp(row.quarantined_at, UTC),
            content_type=row.content_type,
            bytes=row.bytes,
            error=json.loads(row.error),
        )
        for row in rows
    ]


def quarantine_size(connection: Connection, source: str) -> tuple[int, int]:
    """How many entries are in quarantine, and the bytes of their callbacks."""
    entries = select(quarantine.c.callback_id).where(quarantine.c.source == source)
    bodies = select(func.sum(func.length(callbacks.c.body))).where(callbacks.c.id.in_(entries))
    count = connection.scalar(select(func.count()).select_from(entries.subquery()))
    return count or 0, connection.scalar(bodies) or 0


def delete_quarantine(connection: Connection, callback_id: int, still: set[int | None]) -> None:
    """Delete a callback's entries but for those at the positions ``still``."""
    gone = quarantine.c.position.is_(None) | quarantine.c.position.not_in(list(still - {None}))
    connection.execute(delete(quarantine).where(quarantine.c.callback_id == callback_id, gone))


def purge_quarantine(connection: Connection, source: str, before: float) -> int:
    """Delete what was quarantined before a time, and return how much."""
    old = (quarantine.c.source == source, quarantine.c.quarantined_at < before)
    gone = delete(quarantine).where(*old).returning(quarantine.c.callback_id)
    callback_ids = list(connection.scalars(gone))
    delete_orphans(connection, callback_ids)
    return len(callback_ids)


def _in_use() -> ColumnElement[bool]:
    tables = (messages, quarantine)
    return or_(*(exists().where(table.c.callback_id == callbacks.c.id) for table in tables))


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """A statement takes only so many parameters."""
    for start in range(0, len(ids), 1000):
        yield ids[start : start + 1000]


def _insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    insertion = dialect.insert(table).on_conflict_do_nothing(index_elements=["key"])
    compiled = insertion.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    # Straight to the driver: SQLAlchemy's look at each value, of which none needs converting, takes
    # as long as the database does.
    parameters: Any = rows
    if compiled.positiontup:
        parameters = list(map(itemgetter(*compiled.positiontup), rows))
    connection.exec_driver_sql(str(compiled), parameters)
