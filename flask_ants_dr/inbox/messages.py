"""The life of a message: every statement that changes one."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Select
from sqlalchemy import Update
from sqlalchemy import and_
from sqlalchemy import delete
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import update

from . import callbacks as stored_callbacks
from .database import chunks
from .database import insert_new
from .tables import DEAD
from .tables import DONE
from .tables import PENDING
from .tables import callbacks
from .tables import is_claimed
from .tables import is_finished
from .tables import is_pending
from .tables import is_waiting
from .tables import messages


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


def insert(
    connection: Connection, callback_id: int, source: str, keys: Iterable[str], **values: Any
) -> None:
    """Store those messages of a callback that are new."""
    values |= {"callback_id": callback_id, "source": source, "state": PENDING}
    # In one order, so that two callbacks with the same messages do not wait for each other.
    in_order = sorted((key, position) for position, key in enumerate(keys))
    if in_order:
        rows = [{"key": key, "position": position} | values for key, position in in_order]
        insert_new(connection, messages, rows)


def of_callback(connection: Connection, callback_id: int) -> dict[str, int]:
    """The ids of a callback's messages by their keys: of a new callback, what it brought."""
    chosen = select(messages.c.key, messages.c.id).where(messages.c.callback_id == callback_id)
    return {row[0]: row[1] for row in connection.execute(chosen.order_by(messages.c.position))}


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


def finish(connection: Connection, id: int, token: str, **values: Any) -> bool:
    """End a claim; ``False`` where its lease had ended and the message is another's by now."""
    result = connection.execute(_of_claim([id], token).values(claim=None, **values))
    return bool(result.rowcount)


def renew(connection: Connection, ids: Sequence[int], token: str, until: float) -> set[int]:
    """Move the end of a lease, and return the messages that are still under it."""
    ours: set[int] = set()
    for some in chunks(ids):
        renewed = _of_claim(some, token).values(due_at=until).returning(messages.c.id)
        ours.update(connection.scalars(renewed))
    return ours


def release(connection: Connection, ids: Sequence[int], token: str, now: float) -> None:
    """Give back messages that were claimed and not begun."""
    connection.execute(_of_claim(ids, token).values(claim=None, due_at=now))


def due_ids(
    connection: Connection, source: str, now: float, limit: int, *, unfinished: bool
) -> list[int]:
    """The messages that wait for a claim, or those whose claim was not finished."""
    kind = is_claimed if unfinished else is_waiting
    return list(connection.scalars(_in_order(_due(source, now), kind, limit)))


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
    stored_callbacks.delete_orphans(connection, callback_ids)
    return len(callback_ids)


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


def _of_claim(ids: Sequence[int], token: str) -> Update:
    """Whatever becomes of a message becomes of it only while the claim is still its own."""
    return update(messages).where(messages.c.id.in_(ids), messages.c.claim == token)
