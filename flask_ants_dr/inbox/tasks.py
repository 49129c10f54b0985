"""What is done again and again by one of all the processes that could: whose turn it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import insert
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from .dialects import upsert
from .tables import tasks

if TYPE_CHECKING:
    from .database import Database


def is_turn(database: Database, source: str, name: str, every: float) -> bool:
    """Whether it is time, and no other process has taken the turn; this one has it then.

    :param every: seconds from one turn to the next.
    :raises InboxUnavailable: the database failed.
    """
    now = time.time()
    with database.begin(writes=False) as connection:  # mostly it is not, and nobody has to wait
        if due_at(connection, source, name) > now:
            return False
    with database.begin() as connection:
        return take_turn(connection, source, name, now=now, next_at=now + every)


def due_at(connection: Connection, source: str, name: str) -> float:
    """When the next turn is; 0 before the first."""
    found = select(tasks.c.due_at).where(tasks.c.source == source, tasks.c.name == name)
    return connection.scalar(found) or 0.0


def take_turn(
    connection: Connection, source: str, name: str, *, now: float, next_at: float
) -> bool:
    """Take the turn, if it is due and nobody has taken it.

    Whoever takes it and dies has had it all the same.

    :param next_at: when the next one is.
    """
    this = (tasks.c.source == source, tasks.c.name == name)
    due = update(tasks).where(*this, tasks.c.due_at <= now)
    if connection.execute(due.values(due_at=next_at)).rowcount:
        return True
    if connection.scalar(select(tasks.c.due_at).where(*this)) is not None:
        return False
    try:
        with connection.begin_nested():
            connection.execute(insert(tasks).values(source=source, name=name, due_at=next_at))
    except IntegrityError:  # somebody was faster
        return False
    return True


def state(connection: Connection, source: str, name: str) -> str | None:
    """How far it came the last time, in words of its own."""
    found: str | None = connection.scalar(
        select(tasks.c.state).where(tasks.c.source == source, tasks.c.name == name)
    )
    return found


def note_state(
    connection: Connection, source: str, name: str, state: str, *, due_at: float | None = None
) -> None:
    """Note how far it came.

    :param due_at: when the next turn is; by default, when it was to be.
    """
    row = {"source": source, "name": name, "due_at": due_at or 0.0, "state": state}
    upsert(connection, tasks, [row], _noted if due_at is None else _planned)


def _noted(new: Any) -> dict[str, Any]:
    return {"state": new.state}


def _planned(new: Any) -> dict[str, Any]:
    return {"state": new.state, "due_at": new.due_at}
