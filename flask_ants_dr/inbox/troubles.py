"""What subscribers failed on, by subscriber and kind of error."""

from __future__ import annotations

import time
from collections.abc import Collection
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import case
from sqlalchemy import delete
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import select

from .callbacks import digest
from .dialects import upsert
from .messages import Chosen
from .messages import is_let_rest
from .messages import is_of
from .tables import State
from .tables import errors
from .tables import is_dead
from .tables import is_retry
from .tables import messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Messages that are dead, or wait for another attempt, by the same error of a subscriber."""

    state: State
    """``State.DEAD`` or ``State.WAITING``."""
    failed_by: str
    """The subscriber, or empty where its process did not survive it."""
    error_key: str
    """What is the same for errors of one kind: of the same type, raised in the same line. Empty
    where nothing was raised: the process has died, or the subscriber is let rest."""
    error: str
    """What it raised for one of them, with the values of the message masked."""
    trace: str | None
    """Where it was raised: lines of code, which hold no values."""
    count: int
    since: datetime | None
    """When the first of them was dead, in UTC; where they wait, when the error was raised first, or
    ``None`` where nothing was raised."""
    latest: datetime | None
    """When the last of them was dead, in UTC; ``None`` where they wait."""
    next_attempt: datetime | None
    """The earliest, in UTC; ``None`` where they are dead."""


_AT = {State.DEAD: messages.c.finished_at, State.WAITING: messages.c.due_at}


def key_of(subscriber: str, error: BaseException) -> str:
    """What is the same for errors of one kind."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    frame = last and last.tb_frame
    place = (str(frame.f_globals.get("__name__")), frame.f_code.co_name) if frame else ()
    line = last.tb_lineno if last else None
    return digest(subscriber, type(error).__qualname__, *place, line)


def note(connection: Connection, source: str, traces: Iterable[tuple[str, str]]) -> None:
    """Keep where errors were raised, by their keys."""
    rows = [
        {"source": source, "key": key, "trace": trace, "first_at": time.time()}
        for key, trace in sorted(dict(traces).items())
    ]
    if rows:
        upsert(connection, errors, rows, _earliest)


def found(
    connection: Connection, source: str, limit: int, chosen: Chosen, state: State | None
) -> list[Trouble]:
    """Those that are there, the largest first.

    :param limit: how many, at most.
    :param state: only those of one, where it is given.
    """
    by_group: dict[tuple[State, str, str], Trouble] = {}
    for of, kind in (
        (State.DEAD, is_dead),
        (State.WAITING, is_retry),
        (State.WAITING, is_let_rest(time.time())),
    ):
        if state not in (None, of):
            continue
        for row in connection.execute(_grouped(source, kind, _AT[of], chosen)):
            one = _trouble(row, of)
            if same := by_group.get((one.state, one.failed_by, one.error_key)):
                one = replace(same, count=same.count + one.count)
            by_group[one.state, one.failed_by, one.error_key] = one
    troubles = sorted(by_group.values(), key=lambda one: (-one.count, one.state, one.failed_by))
    troubles = troubles[:limit]
    raised = _raised(connection, source, {one.error_key for one in troubles})
    return [
        replace(
            one, trace=first.trace, since=one.since or datetime.fromtimestamp(first.first_at, UTC)
        )
        if (first := raised.get(one.error_key))
        else one
        for one in troubles
    ]


def traces(connection: Connection, source: str, keys: Collection[str]) -> dict[str, str]:
    """Where errors were raised, by their keys."""
    return {key: row.trace for key, row in _raised(connection, source, keys).items()}


def _raised(connection: Connection, source: str, keys: Collection[str]) -> dict[str, Any]:
    """Where and when errors were raised first, by their keys."""
    chosen = select(errors).where(errors.c.source == source, errors.c.key.in_(keys))
    return {row.key: row for row in connection.execute(chosen)} if keys else {}


def forget(connection: Connection, source: str, before: float) -> None:
    """Delete where errors were raised first before a time, of which no message is left."""
    in_use = [
        exists().where(messages.c.source == source, kind, messages.c.error_key == errors.c.key)
        for kind in (is_dead, is_retry)
    ]
    old = (errors.c.source == source, errors.c.first_at < before, *(~one for one in in_use))
    connection.execute(delete(errors).where(*old))


def _grouped(source: str, kind: ColumnElement[bool], at: ColumnElement[Any], chosen: Chosen) -> Any:
    names = [
        func.coalesce(column, "").label(column.name)
        for column in (messages.c.failed_by, messages.c.error_key)
    ]
    return (
        select(
            *names,
            func.count().label("messages"),
            func.max(messages.c.error).label("error"),
            func.min(at).label("first"),
            func.max(at).label("last"),
        )
        .where(messages.c.source == source, kind, *is_of(chosen))
        .group_by(*names)
    )


def _trouble(row: Any, state: State) -> Trouble:
    first, last = (datetime.fromtimestamp(at, UTC) for at in (row.first, row.last))
    is_dead = state is State.DEAD
    return Trouble(
        state=state,
        failed_by=row.failed_by,
        error_key=row.error_key,
        error=row.error or "",
        trace=None,
        count=row.messages,
        since=first if is_dead else None,
        latest=last if is_dead else None,
        next_attempt=None if is_dead else first,
    )


def _earliest(new: Any) -> dict[str, ColumnElement[Any]]:
    old = errors.c.first_at
    return {"first_at": case((new.first_at < old, new.first_at), else_=old)}
