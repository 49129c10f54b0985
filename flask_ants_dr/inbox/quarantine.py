"""What could not be decoded or validated, until it is put through again or purged."""

from __future__ import annotations

import json
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Select
from sqlalchemy import delete
from sqlalchemy import func
from sqlalchemy import select

from ..log import INBOX
from ..log import about
from ..models import DeliveryReport
from ..models import Envelope
from ..models import InvalidDetail
from . import pages
from .callbacks import delete_orphans
from .callbacks import envelope_of
from .callbacks import key_of_detail
from .dialects import among
from .dialects import insert_rows
from .dialects import remove as remove_chosen
from .tables import callbacks
from .tables import quarantine

_ENTRY_BYTES = 1024  # what a quarantined callback takes besides its body, roughly


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
    cursor: str = field(default="", compare=False)
    """Where it is in the list."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What goes into quarantine."""

    key: str
    position: int | None
    """Among the details; ``None`` for the whole callback."""
    error: Mapping[str, Any]


def entries(
    envelope: Envelope, report: DeliveryReport, invalid: Iterable[InvalidDetail]
) -> list[Entry]:
    """The invalid details of a callback."""
    return [
        Entry(
            key=key_of_detail(envelope, report, one),
            position=one.index,
            error={"errors": one.errors},
        )
        for one in invalid
    ]


def insert(
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
        # In one order, so that two callbacks with the same details do not wait for each other.
        for entry in sorted(entries, key=lambda entry: entry.key)
    ]
    if not rows:
        return 0
    return len(insert_rows(connection, quarantine, rows))


def bound(connection: Connection, source: str, oldest: float, limit: int) -> None:
    """Delete what came before ``oldest``, and the oldest of what is over ``limit`` bytes."""
    purge(connection, source, oldest)
    size = func.length(callbacks.c.body) + _ENTRY_BYTES
    quarantined = select(quarantine.c.callback_id).where(quarantine.c.source == source)
    kept = callbacks.c.id.in_(quarantined)
    excess = int(connection.scalar(select(func.sum(size)).where(kept)) or 0) - limit
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
    ids = among(connection, quarantine.c.callback_id, dropped)
    connection.execute(delete(quarantine).where(ids))
    delete_orphans(connection, dropped)
    INBOX.warning(
        "%s: quarantine is full; %d of its oldest dropped",
        source,
        len(dropped),
        extra=about(source),
    )


def among_keys(connection: Connection, keys: Collection[str]) -> set[str]:
    """Which of the keys are there."""
    found = select(quarantine.c.key).where(quarantine.c.key.in_(keys))
    return set(connection.scalars(found)) if keys else set()


def list_all(
    connection: Connection,
    source: str,
    limit: int | None,
    *,
    newest: bool,
    whole: bool | None,
    since: datetime | None,
    cursor: str | None,
) -> list[Quarantined]:
    """What is in quarantine, in the order in which it came.

    :param newest: the newest first.
    :param whole: only whole callbacks, or only details.
    :param since: only what came after this time.
    :param cursor: only what is behind this one.
    """
    chosen = select(*_ENTRY, *_OF_CALLBACK).join_from(quarantine, callbacks, _ITS_CALLBACK)
    chosen = chosen.where(quarantine.c.source == source)
    if whole is not None:
        is_whole = quarantine.c.position.is_(None)
        chosen = chosen.where(is_whole if whole else ~is_whole)
    if since is not None:
        chosen = chosen.where(quarantine.c.quarantined_at >= since.timestamp())
    callback, place = quarantine.c.callback_id, func.coalesce(quarantine.c.position + 1, 0)
    if cursor is not None:
        chosen = chosen.where(pages.behind(callback, place, cursor, is_descending=newest))
    order = (callback.desc(), place.desc()) if newest else (callback, place)
    return [_quarantined(row) for row in connection.execute(chosen.order_by(*order).limit(limit))]


def drop(connection: Connection, source: str, ids: Sequence[int]) -> int:
    """Delete entries, and return how many."""
    own = select(quarantine.c.id).where(
        quarantine.c.source == source, among(connection, quarantine.c.id, ids)
    )
    return _drop(connection, own)


def find(connection: Connection, source: str, id: int) -> tuple[Quarantined, Envelope] | None:
    """One entry, and the callback that it is of."""
    this = quarantine.c.source == source, among(connection, quarantine.c.id, [id])
    both = select(*_ENTRY, *_OF_CALLBACK).join_from(quarantine, callbacks, _ITS_CALLBACK)
    both = both.add_columns(
        callbacks.c.url_variables, callbacks.c.query, callbacks.c.received_at, callbacks.c.body
    )
    row = connection.execute(both.where(*this)).one_or_none()
    return row and (_quarantined(row), envelope_of(row))


def positions(connection: Connection, callback_id: int) -> set[int | None]:
    """Where in a callback what is in quarantine stands; ``None`` for the whole of it."""
    of_callback = quarantine.c.callback_id == callback_id
    return set(connection.scalars(select(quarantine.c.position).where(of_callback)))


def size(connection: Connection, source: str) -> tuple[int, int]:
    """How many entries are in quarantine, and the bytes of their callbacks."""
    entries = select(quarantine.c.callback_id).where(quarantine.c.source == source)
    bodies = select(func.sum(func.length(callbacks.c.body))).where(callbacks.c.id.in_(entries))
    count = connection.scalar(select(func.count()).select_from(entries.subquery()))
    return count or 0, int(connection.scalar(bodies) or 0)  # MySQL's sum is a decimal


def remove(connection: Connection, callback_id: int, still: set[int | None]) -> None:
    """Delete a callback's entries but for those at the positions ``still``."""
    gone = quarantine.c.position.is_(None) | quarantine.c.position.not_in(list(still - {None}))
    connection.execute(delete(quarantine).where(quarantine.c.callback_id == callback_id, gone))


def purge(connection: Connection, source: str, before: float, limit: int | None = None) -> int:
    """Delete what was quarantined before a time, and return how much.

    :param limit: how much, at most.
    """
    of_source = quarantine.c.source == source
    old = select(quarantine.c.id).where(of_source, quarantine.c.quarantined_at < before)
    chosen = old.order_by(quarantine.c.quarantined_at).limit(limit)
    return _drop(connection, chosen)


def _drop(connection: Connection, chosen: Select[Any]) -> int:
    gone = remove_chosen(connection, quarantine, chosen.with_for_update(), quarantine.c.callback_id)
    if gone:
        delete_orphans(connection, [row[0] for row in gone])
    return len(gone)


_ENTRY = (
    quarantine.c.id,
    quarantine.c.callback_id,
    quarantine.c.source,
    quarantine.c.position,
    quarantine.c.error,
    quarantine.c.quarantined_at,
)
_OF_CALLBACK = callbacks.c.content_type, func.length(callbacks.c.body).label("bytes")
_ITS_CALLBACK = quarantine.c.callback_id == callbacks.c.id


def _quarantined(row: Any) -> Quarantined:
    return Quarantined(
        id=row.id,
        callback_id=row.callback_id,
        source=row.source,
        position=row.position,
        since=datetime.fromtimestamp(row.quarantined_at, UTC),
        content_type=row.content_type,
        bytes=row.bytes,
        error=json.loads(row.error),
        cursor=pages.cursor(row.callback_id, 0 if row.position is None else row.position + 1),
    )
