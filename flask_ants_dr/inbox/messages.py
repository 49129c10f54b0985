"""The life of a message: every statement that changes one."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from typing import Any
from typing import NamedTuple

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Row
from sqlalchemy import Select
from sqlalchemy import Update
from sqlalchemy import and_
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import func
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import update

from ..decoding.text import storable
from . import callbacks as stored_callbacks
from . import pages
from .dialects import among
from .dialects import change
from .dialects import dialect_of
from .dialects import insert_new
from .dialects import remove
from .tables import KEY_CHARACTERS
from .tables import State
from .tables import callbacks
from .tables import is_claimed
from .tables import is_dead
from .tables import is_done
from .tables import is_in
from .tables import is_new
from .tables import is_retry
from .tables import messages

#: The error of a message that its workers did not survive.
LOST = "its last worker did not finish it"


class Failure(NamedTuple):
    """An attempt that failed."""

    at: float
    """Seconds since 1970."""
    attempt: int
    """Which one it was, from 1 on."""
    subscriber: str
    error: str
    """What it raised, with the values of the message masked."""
    error_key: str | None
    """What is the same for errors of one kind."""


class Claimed(NamedTuple):
    """A message that is this claim's to dispatch."""

    id: int
    callback_id: int
    key: str
    attempts: int = 0
    """How often it has been tried before."""
    had_by: tuple[str, ...] = ()
    """The subscribers that are not to be called again."""
    failures: tuple[Failure, ...] = ()
    """Its last attempts that failed."""


class Outcome(NamedTuple):
    """What became of an attempt. Nothing of it is written until it is marked."""

    message: Claimed
    """First: those that are the same in all that follows are marked together."""
    state: State
    attempts: int
    """How often it has been tried by now."""
    due_at: float = 0.0
    """When the next attempt is, where it waits for one."""
    had_by: tuple[str, ...] | None = ()
    """``None`` where the notes in the host's own transactions say so."""
    failed_by: str | None = None
    error: str | None = None
    error_key: str | None = None
    failures: tuple[Failure, ...] | None = None
    """The last ones, where it failed."""
    traces: tuple[tuple[str, str], ...] = ()
    """Where errors were raised, by their keys, the first time for errors of their kind."""
    is_marked: bool = False
    """Whether it stands in the database already, by the host's own transaction."""
    undoes_note: bool = False
    """Whether its last subscriber may have committed the note that it is done, and then raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that was set aside after its last attempt."""

    id: int
    callback_id: int
    source: str
    attempts: int
    since: datetime
    """In UTC."""
    failed_by: str | None
    """The subscriber that failed last."""
    error: str
    """What it raised, with the values of the message masked."""
    error_key: str
    """What is the same for errors of one kind; empty where its process did not survive it."""
    cursor: str = field(default="", compare=False)
    """Where it is in the list."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands in the database, and how far it came."""

    id: int
    callback_id: int
    key: str
    position: int
    state: State
    attempts: int
    due_at: float
    finished_at: float | None
    had_by: tuple[str, ...]
    failed_by: str | None
    failures: tuple[Failure, ...]
    cursor: str
    """Where it is in the list that it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Messages that wait for another attempt because a subscriber failed."""

    failed_by: str
    count: int
    next_attempt: str
    """The earliest, as ISO 8601 has it, in UTC."""
    error: str
    """What it raised for one of them."""


def insert(
    connection: Connection,
    callback_id: int,
    source: str,
    status_keys: Mapping[str, str],
    *,
    claim: str | None,
    due_at: float,
) -> list[Claimed]:
    """Store those messages of a callback that are new, and return them in its order.

    :param status_keys: theirs, by their keys.
    :param claim: the claim that they are under, or ``None`` where they wait for one.
    """
    state = State.WAITING if claim is None else State.CLAIMED
    rows = [
        (status_key, key, position)
        for position, (key, status_key) in enumerate(status_keys.items())
    ]
    new = insert_new(
        connection,
        messages,
        # In one order, so that two callbacks with the same messages do not wait for each other; and
        # in that of the index.
        {key: (position, status_key) for status_key, key, position in sorted(rows)},
        {
            "callback_id": callback_id,
            "source": source,
            "state": state,
            "attempts": 0,
            "due_at": due_at,
            "claim": claim,
        },
    )
    return [Claimed(new[key], callback_id, key) for key in status_keys if key in new]


def claim_new(
    connection: Connection,
    source: str,
    *,
    token: str,
    now: float,
    until: float,
    limit: int,
    ids: Sequence[int] | None = None,
) -> list[Claimed]:
    """Claim messages that have not been tried, the longest due ones first.

    Any number of workers can do so at once: they skip each other's rows, or on SQLite wait for each
    other.

    :param token: what tells this claim from others.
    :param until: the end of the claim, unless it is renewed.
    :param ids: claim only these.
    """
    due = _due(connection, source, now, ids) & is_new
    return _claim(connection, due, limit, token, until, ids)


def claim_retry(
    connection: Connection,
    source: str,
    *,
    token: str,
    now: float,
    until: float,
    ids: Sequence[int] | None = None,
) -> list[Claimed]:
    """Claim one message that is due for another attempt."""
    due = _due(connection, source, now, ids) & is_retry
    if ids is None and not dialect_of(connection).has_partial_indexes:
        # The index has them by attempts. Those of one number come sorted; to sort them all, all
        # would be locked.
        next_one = func.min(messages.c.due_at)
        by_attempts = select(messages.c.attempts).where(messages.c.source == source, is_retry)
        by_attempts = by_attempts.group_by(messages.c.attempts).having(next_one <= now)
        due &= messages.c.attempts == connection.scalar(by_attempts.order_by(next_one).limit(1))
    return _claim(connection, due, 1, token, until, ids)


def claim_abandoned(
    connection: Connection,
    source: str,
    *,
    token: str,
    now: float,
    until: float,
    max_attempts: int,
    ids: Sequence[int] | None = None,
) -> tuple[list[Claimed], list[Claimed]]:
    """Claim one message whose claim ended without an outcome, and give up those tried too often.

    Which message of a claim took its worker with it is not known. So they are tried again one by
    one, and each time counts.

    :return: what is claimed, and what is dead.
    """
    due = _due(connection, source, now, ids) & is_claimed
    # The first claim that was lost may have been one of many messages.
    is_exhausted = messages.c.attempts >= max(1, max_attempts - 1)
    values = {
        "state": State.DEAD,
        "claim": None,
        "finished_at": now,
        "error": LOST,
        "error_key": None,
    }
    chosen = _locked(select(messages.c.id).where(due, is_exhausted), ids)
    lost = _claimed(change(connection, messages, chosen, values, *_CLAIMED))
    again = _claim(connection, due & ~is_exhausted, 1, token, until, ids, messages.c.attempts + 1)
    return again, lost


def mark(
    connection: Connection, token: str, outcomes: Sequence[Outcome], now: float
) -> list[Outcome]:
    """Write what became of attempts.

    :return: those that came too late: the claim had ended, and the message is another's by now.
    """
    alike: dict[tuple[Any, ...], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        alike[one[1:]].append(one)  # all but which message
    late: list[Outcome] = []
    for group in alike.values():
        first, ids = group[0], [one.message.id for one in group]
        values: dict[str, Any] = {
            "state": first.state,
            "claim": None,
            "attempts": first.attempts,
        }
        if first.had_by is not None:
            values["had_by"] = json.dumps(first.had_by) if first.had_by else None
        is_finished = first.state in {State.DONE, State.DEAD}
        values |= {"finished_at": now} if is_finished else {"due_at": first.due_at}
        if is_finished or first.error is not None:  # else what failed before still stands
            values |= {
                "failed_by": first.failed_by,
                "error": first.error,
                "error_key": first.error_key,
            }
        elif first.failed_by:
            values |= {"failed_by": first.failed_by}
        if first.failures is not None:
            values["failures"] = json.dumps(first.failures)
        ours = messages.c.claim == token
        if not first.undoes_note:
            ours &= is_claimed
        statement = update(messages).where(among(connection, messages.c.id, ids), ours)
        if connection.execute(statement, values).rowcount != len(ids):
            left = select(messages.c.id).where(
                among(connection, messages.c.id, ids), messages.c.state == first.state
            )
            marked = set(connection.scalars(left))
            late += [one for one in group if one.message.id not in marked]
    return late


# Made once, because a worker with a host's session writes it for each message.
_NOTE = update(messages).where(
    messages.c.id == bindparam("this"), messages.c.claim == bindparam("ours")
)


def note(
    connection: Connection,
    token: str,
    message: Claimed,
    had_by: tuple[str, ...],
    *,
    is_last: bool,
    now: float,
    until: float,
) -> bool:
    """Note, in a host's transaction, that subscribers have had a message.

    The claim stays with the row, so that what a subscriber raises after its commit can still be
    marked.

    :param is_last: whether no other subscriber is to have it: then it is done.
    :param until: the end of the claim from here on.
    :return: whether the claim still held.
    """
    values: dict[str, Any] = (
        {
            "state": State.DONE,
            "attempts": message.attempts + 1,
            "had_by": None,
            "failed_by": None,
            "error": None,
            "error_key": None,
            "finished_at": now,
        }
        if is_last
        else {"had_by": json.dumps(had_by), "due_at": until}
    )
    return connection.execute(_NOTE, {"this": message.id, "ours": token, **values}).rowcount == 1


def renew(connection: Connection, token: str, ids: Sequence[int], until: float) -> None:
    """Move the end of the claim of messages."""
    connection.execute(_claimed_by(connection, token, ids).values(due_at=until))


def release(connection: Connection, token: str, ids: Sequence[int], now: float) -> None:
    """Give back messages that were claimed and not begun."""
    values = {"state": State.WAITING, "claim": None, "due_at": now}
    connection.execute(_claimed_by(connection, token, ids).values(values))


def _claimed_by(connection: Connection, token: str, ids: Sequence[int]) -> Update:
    """A change of those messages that this claim still holds."""
    ours = among(connection, messages.c.id, ids) & (messages.c.claim == token) & is_claimed
    return update(messages).where(ours)


def due_ids(
    connection: Connection, source: str, now: float, limit: int, *, alone: bool
) -> list[int]:
    """The messages that are due.

    :param alone: those that are to be claimed one by one, because they have been tried or claimed
        before, instead of the new ones.
    """
    kinds = (is_retry, is_claimed) if alone else (is_new,)
    ids: list[int] = []
    for kind in kinds:
        chosen = select(messages.c.id).where(_due(connection, source, now), kind)
        ids += connection.scalars(chosen.order_by(*_ORDER).limit(limit))
    return ids[:limit]


def dead(
    connection: Connection,
    source: str,
    limit: int,
    chosen: Chosen,
    cursor: str | None = None,
) -> list[DeadMessage]:
    """The dead messages, the latest first.

    :param cursor: only those behind this one.
    """
    theirs = select(messages).where(messages.c.source == source, is_dead, *is_of(chosen))
    if cursor is not None:
        theirs = theirs.where(pages.behind(messages.c.finished_at, messages.c.id, cursor))
    latest_first = messages.c.finished_at.desc(), messages.c.id.desc()
    return [
        DeadMessage(
            id=row.id,
            callback_id=row.callback_id,
            source=source,
            attempts=row.attempts,
            since=datetime.fromtimestamp(row.finished_at, UTC),
            failed_by=row.failed_by,
            error=row.error,
            error_key=row.error_key or "",
            cursor=pages.cursor(row.finished_at, row.id),
        )
        for row in connection.execute(theirs.order_by(*latest_first).limit(limit))
    ]


def of_message(connection: Connection, message_key: str, limit: int) -> list[Stored]:
    """All that is stored of one message: each of its reports, in the order in which they came.

    :param message_key: what their status keys begin with.
    """
    width = KEY_CHARACTERS - len(message_key)
    first, last = (message_key + digit * width for digit in "0f")
    # Not BETWEEN, in which PostgreSQL takes no collation of a parameter.
    is_theirs = (messages.c.status_key >= first) & (messages.c.status_key <= last)
    return _stored(connection, is_theirs, limit)


def of_bulk(
    connection: Connection, source: str, bulk_id: str, limit: int, after: int
) -> list[Stored]:
    """The messages of a bulk, in the order of their ids, from the one after ``after`` on."""
    theirs = select(callbacks.c.id).where(*stored_callbacks.is_of_bulk(connection, source, bulk_id))
    is_theirs = messages.c.callback_id.in_(theirs) & (messages.c.id > after)
    return _stored(connection, is_theirs, limit)


def failed(
    connection: Connection,
    source: str,
    limit: int,
    chosen: Chosen,
    state: State,
    cursor: str | None = None,
) -> list[Stored]:
    """The dead messages, the latest first, or those that wait for another attempt, in the order of
    their ids: each attempt moves the time of the next one.

    :param state: ``State.DEAD`` or ``State.WAITING``.
    :param cursor: only those behind this one.
    """
    theirs = and_(messages.c.source == source, *is_of(chosen))
    if state is State.DEAD:
        at = messages.c.finished_at
        if cursor is not None:
            theirs &= pages.behind(at, messages.c.id, cursor)
        return _stored(connection, theirs & is_dead, limit, latest_by=at)
    if cursor is not None:
        theirs &= messages.c.id > pages.read(cursor)[1]
    return _stored(connection, theirs & _waits(time.time()), limit)


def _stored(
    connection: Connection,
    is_theirs: ColumnElement[bool],
    limit: int,
    *,
    latest_by: ColumnElement[Any] | None = None,
) -> list[Stored]:
    """Messages in the order of their ids, or the latest first by a time."""
    at = latest_by
    order: list[ColumnElement[Any]] = [messages.c.id]
    if at is not None:
        order = [at.desc(), messages.c.id.desc()]
    chosen = select(messages).where(is_theirs).order_by(*order).limit(limit)
    return [
        Stored(
            id=row.id,
            callback_id=row.callback_id,
            key=row.key,
            position=row.position,
            state=State(row.state),
            attempts=row.attempts,
            due_at=row.due_at,
            finished_at=row.finished_at,
            had_by=tuple(json.loads(row.had_by)) if row.had_by else (),
            failed_by=row.failed_by,
            failures=_failures(row.failures),
            cursor=pages.cursor(0.0 if at is None else row._mapping[at], row.id),
        )
        for row in connection.execute(chosen)
    ]


class Chosen(NamedTuple):
    """Which of the messages that failed."""

    ids: Sequence[int] | None = None
    """Only these."""
    failed_by: str | None = None
    """Only those that this subscriber failed on; empty for none."""
    error_key: str | None = None
    """Only those of this kind of error; empty for none."""


def retry(connection: Connection, source: str, chosen: Chosen, now: float, limit: int) -> int:
    """Have messages that were dead by now tried again, at most ``limit`` of them, and return how
    many.

    Subscribers that had them are not called again.
    """
    dead = is_dead & (messages.c.finished_at <= now)
    return _change(connection, source, dead, chosen, limit, _from_the_beginning(now))


def hasten(connection: Connection, source: str, chosen: Chosen, now: float, limit: int) -> int:
    """Have messages that wait for another attempt tried now, at most ``limit`` of them."""
    return _change(connection, source, _waits_longer(now), chosen, limit, {"due_at": now})


def count_hastened(connection: Connection, source: str, chosen: Chosen, now: float) -> int:
    """How many messages :func:`hasten` would have tried now."""
    theirs = _of(connection, source, _waits_longer(now), chosen)
    return connection.scalar(select(func.count()).select_from(theirs.subquery())) or 0


def _waits_longer(now: float) -> ColumnElement[bool]:
    return _waits(now) & (messages.c.due_at > now)


def discard(
    connection: Connection, source: str, chosen: Chosen, now: float, limit: int, state: State
) -> int:
    """Be done with messages that failed, without another attempt; at most ``limit`` of them.

    What failed stays with them: so they are told from those that all subscribers have had.

    :param state: those that are dead, or that wait.
    """
    failed = is_dead if state is State.DEAD else _waits(now)
    values = {
        "state": State.DONE,
        "finished_at": now,
        "failed_by": func.coalesce(messages.c.failed_by, ""),  # its process may have died
    }
    return _change(connection, source, failed, chosen, limit, values)


def _waits(now: float) -> ColumnElement[bool]:
    """Whether a message waits because a subscriber failed, asked for it, or is let rest."""
    return is_retry | is_let_rest(now)


def is_let_rest(now: float) -> ColumnElement[bool]:
    """Whether its subscriber asked for it later, or is let rest, before any attempt counted."""
    return is_new & (messages.c.due_at > now)


def is_of(chosen: Chosen) -> list[ColumnElement[bool]]:
    said = ((messages.c.failed_by, chosen.failed_by), (messages.c.error_key, chosen.error_key))
    return [
        func.coalesce(column, "") == storable(value) for column, value in said if value is not None
    ]


def redeliver(
    connection: Connection,
    source: str,
    ids: Sequence[int] | None,
    bulk_id: str | None,
    since: float,
    now: float,
    limit: int,
) -> tuple[int, int]:
    """Have messages that were done after a time, and by now, dispatched again to all.

    Those whose body is erased are passed over.

    :return: how many were chosen, ``limit`` where there are more, and how many of them it is done
        to: not to what is erased meanwhile.
    """
    values = {
        **_from_the_beginning(now),
        "had_by": None,
        "failed_by": None,
        "error": None,
        "error_key": None,
    }
    chosen = _done(connection, source, ids, bulk_id, since).where(~_is_erased)
    # Later a worker may have done again what is chosen here.
    rows = connection.execute(chosen.where(messages.c.finished_at <= now).limit(limit)).all()
    # What is erased meanwhile is not to be read.
    stored_callbacks.lock(connection, [row.callback_id for row in rows])
    again = among(connection, messages.c.id, [row.id for row in rows]) & is_done
    kept = again & messages.c.callback_id.in_(
        select(callbacks.c.id).where(callbacks.c.erased_at.is_(None))
    )
    statement = update(messages).where(kept, messages.c.erased_at.is_(None))
    return len(rows), connection.execute(statement.values(values)).rowcount


def count_erased(
    connection: Connection,
    source: str,
    ids: Sequence[int] | None,
    bulk_id: str | None,
    since: float,
) -> int:
    """How many messages that were done after a time cannot be dispatched again."""
    erased = _done(connection, source, ids, bulk_id, since).where(_is_erased)
    return connection.scalar(select(func.count()).select_from(erased.subquery())) or 0


def among_status_keys(connection: Connection, keys: Collection[str]) -> set[str]:
    """Which of the status keys are there."""
    found = select(messages.c.status_key).where(messages.c.status_key.in_(keys))
    return {key for key in connection.scalars(found) if key is not None} if keys else set()


def without_status_key(
    connection: Connection, source: str, since: float, after: int, limit: int
) -> list[int]:
    """The callbacks that came since a time, and of which an older release has stored messages.

    :param after: those with a higher id, in whose order they are.
    """
    joined = callbacks.join(messages, messages.c.callback_id == callbacks.c.id)
    found = (
        select(callbacks.c.id)
        .select_from(joined)
        .where(callbacks.c.source == source, callbacks.c.id > after)
        .where(callbacks.c.received_at >= since, messages.c.status_key.is_(None))
        .distinct()
        .order_by(callbacks.c.id)
        .limit(limit)
    )
    return list(connection.scalars(found))


def note_status_keys(connection: Connection, status_keys: Mapping[str, str]) -> None:
    """Note the status keys of messages, by their keys, where an older release has stored them."""
    for key, status_key in sorted(status_keys.items()):
        this = update(messages).where(messages.c.status_key.is_(None), messages.c.key == key)
        connection.execute(this.values(status_key=status_key))


def of_callback(connection: Connection, callback_id: int) -> dict[str, tuple[int, State]]:
    """The ids and states of a callback's messages, by their keys."""
    columns = messages.c.key, messages.c.id, messages.c.state
    own = select(*columns).where(messages.c.callback_id == callback_id)
    return {key: (id, State(state)) for key, id, state in connection.execute(own)}


def lock_finished(connection: Connection, ids: Sequence[int]) -> bool:
    """Whether messages are still done or dead, and stay so until the end of the transaction."""
    finished = among(connection, messages.c.id, ids) & is_in(State.DONE, State.DEAD)
    locked = select(messages.c.id).where(finished).order_by(messages.c.id).with_for_update()
    return len(connection.execute(locked).all()) == len(ids)


def erase(connection: Connection, ids: Sequence[int], now: float) -> None:
    """Note that messages can no longer be read; a dead one needs nobody's attention then, and is
    told from those that all subscribers have had as one that was discarded is.

    Their keys stay, so that a repetition is known, for as long as those of other done ones.
    """
    was_given_up = case(
        (is_dead, func.coalesce(messages.c.failed_by, "")), else_=messages.c.failed_by
    )
    erased = update(messages).where(among(connection, messages.c.id, ids))
    connection.execute(
        # In this order: MariaDB and MySQL would see the state that is set.
        erased.ordered_values(
            (messages.c.failed_by, was_given_up),
            (messages.c.state, State.DONE),
            (messages.c.erased_at, now),
            (messages.c.error, None),
            (messages.c.error_key, None),
            (messages.c.failures, None),
        )
    )


def oldest_done(connection: Connection, source: str) -> float | None:
    """When the first of the messages was done that are there."""
    oldest = select(func.min(messages.c.finished_at)).where(messages.c.source == source, is_done)
    found: float | None = connection.scalar(oldest)
    return found


def purge(connection: Connection, source: str, state: State, before: float, limit: int) -> int:
    """Delete messages that were finished before a time, and return how many."""
    finished = (is_in(state), messages.c.finished_at < before)
    old = select(messages.c.id).where(messages.c.source == source, *finished).limit(limit)
    gone = remove(connection, messages, old.with_for_update(), messages.c.callback_id)
    callback_ids = [row[0] for row in gone]
    stored_callbacks.delete_orphans(connection, callback_ids)
    return len(callback_ids)


def counts(connection: Connection, source: str) -> dict[State, int]:
    """How many messages are in each of the states in which there are few.

    Each is in an index, so that it takes no longer the more is done.
    """
    waiting = _count(connection, source, is_new) + _count(connection, source, is_retry)
    claimed = _count(connection, source, is_claimed)
    dead = _count(connection, source, is_dead)
    return {State.WAITING: waiting, State.CLAIMED: claimed, State.DEAD: dead}


def count_new(connection: Connection, source: str, now: float) -> int:
    """How many messages wait for nothing but a worker's first attempt."""
    return _count(connection, source, is_new & (messages.c.due_at <= now))


def done_since(connection: Connection, source: str, since: float) -> int:
    """How many messages were done after a time."""
    return _count(connection, source, is_done & (messages.c.finished_at >= since))


def retrying(connection: Connection, source: str, now: float) -> list[Retrying]:
    """What waits for another attempt, by the subscriber that failed last, or is let rest."""
    failed_by = func.coalesce(messages.c.failed_by, "")
    by_subscriber: dict[str, Retrying] = {}
    for kind in (is_retry, is_let_rest(now)):
        rows = connection.execute(
            select(
                failed_by,
                func.count(),
                func.min(messages.c.due_at),
                func.max(messages.c.error),
            )
            .where(messages.c.source == source, kind)
            .group_by(failed_by)
        )
        for name, number, due_at, error in rows:
            other = by_subscriber.get(name)
            next_attempt = datetime.fromtimestamp(due_at, UTC).isoformat(timespec="seconds")
            by_subscriber[name] = Retrying(
                failed_by=name,
                count=number + (other.count if other else 0),
                next_attempt=min(next_attempt, other.next_attempt) if other else next_attempt,
                error=(other and other.error) or error or "",
            )
    return [by_subscriber[name] for name in sorted(by_subscriber)]


def oldest_unfinished(connection: Connection, source: str) -> float | None:
    """When the callback of the oldest message came that is not finished."""
    first = [
        connection.scalar(select(func.min(messages.c.callback_id)).where(own, kind))
        for own in [messages.c.source == source]
        for kind in (is_new, is_retry, is_claimed)
    ]
    # In the order in which they came.
    oldest = min((one for one in first if one is not None), default=None)
    received_at = select(callbacks.c.received_at).where(callbacks.c.id == oldest)
    return None if oldest is None else connection.scalar(received_at)


_ORDER = (messages.c.due_at, messages.c.callback_id, messages.c.position)
_CLAIMED = (
    messages.c.callback_id,
    messages.c.position,
    messages.c.id,
    messages.c.key,
    messages.c.attempts,
    messages.c.had_by,
    messages.c.failures,
)


# Where the callback is joined.
_is_erased = or_(messages.c.erased_at.is_not(None), callbacks.c.erased_at.is_not(None))


def _done(
    connection: Connection,
    source: str,
    ids: Sequence[int] | None,
    bulk_id: str | None,
    since: float,
) -> Select[int, int]:
    chosen = (
        select(messages.c.id, messages.c.callback_id)
        .join_from(messages, callbacks, messages.c.callback_id == callbacks.c.id)
        .where(messages.c.source == source, is_done, messages.c.finished_at >= since)
    )
    if ids is not None:
        chosen = chosen.where(among(connection, messages.c.id, ids))
    if bulk_id is not None:
        chosen = chosen.where(*stored_callbacks.is_of_bulk(connection, source, bulk_id))
    return chosen


def _count(connection: Connection, source: str, kind: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).where(messages.c.source == source, kind)) or 0


def _due(
    connection: Connection, source: str, now: float, ids: Sequence[int] | None = None
) -> ColumnElement[bool]:
    due = and_(messages.c.source == source, messages.c.due_at <= now)
    return due if ids is None else due & among(connection, messages.c.id, ids)


def _claim(
    connection: Connection,
    due: ColumnElement[bool],
    limit: int,
    token: str,
    until: float,
    ids: Sequence[int] | None,
    attempts: ColumnElement[int] = messages.c.attempts,
) -> list[Claimed]:
    chosen = _locked(select(messages.c.id).where(due).order_by(*_ORDER).limit(limit), ids)
    values = {"state": State.CLAIMED, "claim": token, "due_at": until, "attempts": attempts}
    return _claimed(change(connection, messages, chosen, values, *_CLAIMED))


def _locked(chosen: Select[int], ids: Sequence[int] | None) -> Select[int]:
    """Messages for a claim.

    Of any that are due, what another one looks at is left to it. Those that are named are not: it
    may look at them, and take others.
    """
    return chosen.with_for_update(skip_locked=ids is None)


def _claimed(rows: Iterable[Row[Any]]) -> list[Claimed]:
    """Rows of the columns ``_CLAIMED``, callback by callback and in its order."""
    return [
        Claimed(
            id,
            callback_id,
            key,
            attempts,
            tuple(json.loads(had_by)) if had_by else (),
            _failures(failures),
        )
        for callback_id, _, id, key, attempts, had_by, failures in sorted(map(tuple, rows))
    ]


def _failures(stored: str | None) -> tuple[Failure, ...]:
    return tuple(Failure(*one) for one in json.loads(stored)) if stored else ()


def _from_the_beginning(now: float) -> dict[str, Any]:
    """What becomes of a finished message that is to be tried again."""
    return {
        "state": State.WAITING,
        "claim": None,
        "attempts": 0,
        "due_at": now,
        "finished_at": None,
    }


def _change(
    connection: Connection,
    source: str,
    kind: ColumnElement[bool],
    chosen: Chosen,
    limit: int,
    values: dict[str, Any],
) -> int:
    theirs = _of(connection, source, kind, chosen).limit(limit).with_for_update()
    return len(change(connection, messages, theirs, values, messages.c.id))


def _of(
    connection: Connection, source: str, kind: ColumnElement[bool], chosen: Chosen
) -> Select[int]:
    theirs = select(messages.c.id).where(messages.c.source == source, kind, *is_of(chosen))
    if chosen.ids is not None:
        theirs = theirs.where(among(connection, messages.c.id, chosen.ids))
    return theirs
