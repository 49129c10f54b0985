"""What is stored of one message: its reports, what became of each here, and what failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy import func
from sqlalchemy import select

from ..decoding.text import storable
from ..models import Envelope
from ..models import MessageReport
from ..receive import read
from . import callbacks
from . import messages
from . import pages
from . import troubles
from .messages import Chosen
from .messages import Stored
from .phones import as_asked
from .tables import State
from .tables import callbacks as callbacks_table
from .tables import is_claimed
from .tables import is_dead
from .tables import is_done
from .tables import is_new
from .tables import is_retry
from .tables import ledger as ledger_table
from .tables import messages as messages_table
from .tables import quarantine as quarantine_table

if TYPE_CHECKING:
    from .inbox import BoundInbox

_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that failed."""

    at: datetime
    """In UTC."""
    attempt: int
    """Which one it was, from 1 on."""
    subscriber: str
    error: str
    """What it raised, with the values of the message masked."""
    trace: str | None
    """Where it was raised: lines of code, which hold no values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report of a message that is stored, and what became of it here."""

    id: int
    callback_id: int
    message: MessageReport | None = field(repr=False)
    """``None`` where it is erased, or the schema in force no longer reads it."""
    received_at: datetime
    """When its callback came, in UTC, as the other times are."""
    bulk_id: str | None
    """Of its callback; its first 200 characters."""
    state: State
    attempts: int
    due_at: datetime | None
    """When the next attempt is, where it waits for one."""
    finished_at: datetime | None
    had_by: tuple[str, ...]
    """The subscribers that returned, while not all of them have."""
    failed_by: str | None
    """Where it is done: it was discarded, or was dead and has been erased, after this subscriber
    failed, or its process died, for which it is empty. Otherwise ``None``."""
    failures: tuple[Failure, ...]
    """Its last attempts that failed, ten at most."""
    cursor: str = field(default="", compare=False, repr=False)
    """Where it is in the list that it came from."""


def of_message(inbox: BoundInbox, message_id: str, to: str | None) -> list[Report]:
    """See :meth:`BoundInbox.history`."""
    key = callbacks.message_key(inbox.source, storable(message_id), to and as_asked(to))
    with inbox.database.begin(writes=False) as connection:
        stored = messages.of_message(connection, key, _LIMIT)
        return _reports(inbox, connection, stored)


def of_bulk(inbox: BoundInbox, bulk_id: str, limit: int, cursor: str | None) -> list[Report]:
    """See :meth:`BoundInbox.of_bulk`."""
    after = pages.read(cursor)[1] if cursor is not None else 0
    with inbox.database.begin(writes=False) as connection:
        stored = messages.of_bulk(connection, inbox.source, bulk_id, limit, after)
        return _reports(inbox, connection, stored)


def failed(
    inbox: BoundInbox, limit: int, chosen: Chosen, state: State, cursor: str | None
) -> list[Report]:
    """See :meth:`BoundInbox.failed`."""
    with inbox.database.begin(writes=False) as connection:
        stored = messages.failed(connection, inbox.source, limit, chosen, state, cursor)
        return _reports(inbox, connection, stored)


def version(connection: Connection, source: str) -> str:
    """What changes whenever something has come, was dispatched, failed or was set aside.

    Each part of it is at the end of an index.
    """
    highest = [
        select(func.max(column)).where(*where).scalar_subquery()
        for column, *where in (
            (callbacks_table.c.id,),
            (quarantine_table.c.id,),
            (ledger_table.c.id,),
            *(
                (column, messages_table.c.source == source, kind)
                for kind, column in (
                    (is_new, messages_table.c.due_at),
                    (is_retry, messages_table.c.due_at),
                    (is_claimed, messages_table.c.due_at),
                    (is_done, messages_table.c.finished_at),
                    (is_dead, messages_table.c.finished_at),
                )
            ),
        )
    ]
    return "/".join(map(str, connection.execute(select(*highest)).one()))


def _reports(inbox: BoundInbox, connection: Connection, stored: Sequence[Stored]) -> list[Report]:
    by_callback: dict[int, list[Stored]] = defaultdict(list)
    for one in stored:
        by_callback[one.callback_id].append(one)
    rows = callbacks.rows(connection, sorted(by_callback))
    envelopes = {id: callbacks.envelope_of(row) for id, row in rows.items()}
    said: dict[int, MessageReport] = {}
    for callback_id, envelope in envelopes.items():
        said |= _messages(inbox, envelope, by_callback[callback_id])
    keys = {failure.error_key or "" for one in stored for failure in one.failures}
    where = troubles.traces(connection, inbox.source, keys)
    return [
        Report(
            id=one.id,
            callback_id=one.callback_id,
            message=said.get(one.id),
            received_at=envelopes[one.callback_id].received_at,
            bulk_id=rows[one.callback_id].bulk_id,
            state=one.state,
            attempts=one.attempts,
            due_at=_moment(one.due_at) if one.state is State.WAITING else None,
            finished_at=_moment(one.finished_at) if one.finished_at else None,
            had_by=one.had_by,
            failed_by=one.failed_by if one.state is State.DONE else None,
            failures=tuple(
                Failure(
                    at=_moment(failure.at),
                    attempt=failure.attempt,
                    subscriber=failure.subscriber,
                    error=failure.error,
                    trace=where.get(failure.error_key or ""),
                )
                for failure in one.failures
            ),
            cursor=one.cursor,
        )
        for one in stored
        if one.callback_id in envelopes
    ]


def _messages(
    inbox: BoundInbox, envelope: Envelope, stored: Sequence[Stored]
) -> dict[int, MessageReport]:
    """What a callback says of those of its messages, by their ids; nothing where it is erased."""
    if not envelope.body:
        return {}
    try:
        report = read(inbox.registration, envelope).report
    except Exception:  # a host's schema can raise anything
        return {}
    # The keys of all messages would take longer than to read them.
    places = [one.position for one in stored if one.position < len(report.messages)]
    there = replace(report, messages=tuple(report.messages[place] for place in places))
    by_key = callbacks.by_stored_key(envelope, there)
    if not all(one.key in by_key for one in stored):
        # Behind a message that is in its callback twice, all have another place.
        by_key = callbacks.by_stored_key(envelope, report)
    return {one.id: by_key[one.key] for one in stored if one.key in by_key}


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
