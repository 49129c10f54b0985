"""What came: a callback as it is stored, and what makes two reports the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from hashlib import blake2b
from typing import Any
from typing import NamedTuple

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Row
from sqlalchemy import delete
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import insert as insert_into
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import update

from ..decoding.text import storable
from ..models import DeliveryReport
from ..models import DeliveryState
from ..models import Envelope
from ..models import InvalidDetail
from ..models import MessageReport
from ..models import Status
from .dialects import among
from .dialects import dialect_of
from .phones import as_reported
from .tables import callbacks
from .tables import is_done
from .tables import messages
from .tables import quarantine

_HALF = 8  # bytes of a key that has two parts

#: Of identifiers, which indexes take no longer. ANTS's own are no longer than that.
CHARACTERS = 200


class Kept(NamedTuple):
    """A callback whose body is there."""

    id: int
    received_at: float


def by_key(envelope: Envelope, report: DeliveryReport) -> dict[str, MessageReport]:
    """The messages by what makes two reports the same.

    That is source, URL variables, query, bulk, message, ``to``, status and done date: two tenants
    have nothing in common, and neither have two orders.
    """
    key = digest_after(*_origin(envelope), _told(report, "bulkId", report.bulk_id))
    found = {}
    for message in report.messages:
        to: str | float | None = message.to
        done: str | float | None = message.done_date.timestamp() if message.done_date else None
        if message.problems:
            to, done = _told(message, "to", to), _told(message, "doneDate", done)
        found[key(message.message_id, to, message.status.name, done)] = message
    return found


def by_stored_key(envelope: Envelope, report: DeliveryReport) -> dict[str, MessageReport]:
    """The messages by the keys that they can be stored under."""
    found = by_key(envelope, report)
    if envelope.query:
        # What was stored before the query was part of the key.
        found = by_key(replace(envelope, query={}), report) | found
    return found


def status_keys(source: str) -> Callable[[MessageReport], str]:
    """What makes of a message what is the same however its status is reported: by whichever
    tenant's or order's URL, with or without its bulk, and whatever its date.

    It begins with the :func:`message_key`.
    """
    of_message = digest_after(source, size=_HALF)
    # Most have the one of the message before.
    last_status, of_status = None, ""

    def status_key(message: MessageReport) -> str:
        nonlocal last_status, of_status
        to: str | float | None = message.to and as_reported(message.to)
        if message.problems:
            to = _told(message, "to", to)
        if message.status is not last_status:
            last_status = message.status
            of_status = digest(status_name(last_status), size=_HALF)
        return of_message(message.message_id, to) + of_status

    return status_key


def status_name(status: Status) -> str:
    """What is the same however a status is written."""
    # Some write more into the name than can be seen.
    return status.name if status.state is DeliveryState.UNKNOWN else status.state.value


def message_key(source: str, message_id: str, to: str | float | None) -> str:
    """What is the same for all reports of a message."""
    return digest(source, message_id, to, size=_HALF)


def key_of_body(envelope: Envelope) -> str:
    """What makes two bodies the same that could not be taken."""
    body = blake2b(envelope.body).hexdigest()
    return digest(*_origin(envelope), envelope.content_type, body)


def key_of_detail(envelope: Envelope, report: DeliveryReport, detail: InvalidDetail) -> str:
    """What makes two details the same that could not be taken."""
    payload = json.dumps(detail.payload, default=str, sort_keys=True)
    return digest(*_origin(envelope), report.bulk_id, payload)


def insert(connection: Connection, envelope: Envelope, bulk_id: str | None = None) -> int:
    """Store a callback and return its id."""
    longest = dialect_of(connection).longest_value
    row = {
        "source": envelope.source,
        # A database takes no NUL in a text.
        "content_type": envelope.content_type.replace("\0", ""),
        "url_variables": json.dumps(dict(envelope.url_variables)),
        "query": json.dumps(dict(envelope.query)),
        "body": envelope.body[:longest],
        "received_at": envelope.received_at.timestamp(),
        "bulk_id": indexed(bulk_id),
    }
    (callback_id,) = connection.execute(insert_into(callbacks), row).inserted_primary_key or (0,)
    _append(connection, callback_id, envelope.body, longest)
    return int(callback_id)


def _append(connection: Connection, callback_id: int, body: bytes, longest: int) -> None:
    """Write of a body what no longer went into the first statement."""
    for start in range(longest, len(body), longest):
        longer = func.concat(callbacks.c.body, body[start : start + longest])
        this = callbacks.c.id == callback_id
        connection.execute(update(callbacks).where(this).values(body=longer))


def remove(connection: Connection, callback_id: int) -> None:
    """Delete a callback that brought nothing new."""
    connection.execute(delete(callbacks).where(callbacks.c.id == callback_id))


def lock(connection: Connection, callback_ids: Iterable[int]) -> Sequence[int]:
    """Wait for whoever else works on the messages of callbacks, and return those that are there."""
    chosen = among(connection, callbacks.c.id, sorted(set(callback_ids)))
    locked = select(callbacks.c.id).where(chosen).order_by(callbacks.c.id).with_for_update()
    return connection.scalars(locked).all()


def note_bulk(connection: Connection, callback_id: int, bulk_id: str | None) -> None:
    """Note the bulk of a callback that could not be read when it came."""
    this = update(callbacks).where(callbacks.c.id == callback_id)
    connection.execute(this.values(bulk_id=indexed(bulk_id)))


def indexed(identifier: str | None) -> str | None:
    """An identifier as rows are found by it."""
    return identifier and identifier[:CHARACTERS]


def is_of_bulk(
    connection: Connection, source: str, bulk_id: str
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether a callback is of a bulk."""
    is_same = dialect_of(connection).is_same
    looked_for = indexed(storable(bulk_id)) or ""
    return callbacks.c.source == source, is_same(callbacks.c.bulk_id, looked_for)


def find(connection: Connection, callback_id: int) -> Envelope | None:
    """A callback as it came, or ``None`` where it is not there."""
    row = connection.execute(select(callbacks).where(callbacks.c.id == callback_id)).one_or_none()
    return None if row is None else envelope_of(row)


def received_at(connection: Connection, callback_id: int) -> datetime | None:
    """When a callback came, in UTC; ``None`` where it is not there."""
    at = connection.scalar(select(callbacks.c.received_at).where(callbacks.c.id == callback_id))
    return None if at is None else datetime.fromtimestamp(at, UTC)


def envelope_of(row: Any) -> Envelope:
    """A callback as it came, of a row of its table."""
    return Envelope(
        source=row.source,
        content_type=row.content_type,
        url_variables=json.loads(row.url_variables),
        query=json.loads(row.query),
        received_at=datetime.fromtimestamp(row.received_at, UTC),
        body=bytes(row.body),
    )


def delete_orphans(connection: Connection, callback_ids: Iterable[int]) -> None:
    """Delete those callbacks of which neither a message nor a quarantined detail is left."""
    chosen = among(connection, callbacks.c.id, list(set(callback_ids))) & ~_in_use()
    # Whoever works on one may wait for messages that this transaction has deleted.
    free = select(callbacks.c.id).where(chosen).with_for_update(skip_locked=True)
    ids = list(connection.scalars(free))
    connection.execute(delete(callbacks).where(among(connection, callbacks.c.id, ids)))


def sweep_orphans(connection: Connection, source: str, before: float) -> None:
    """Delete the callbacks that two purges at once have left."""
    old = (callbacks.c.source == source, callbacks.c.received_at < before)
    connection.execute(delete(callbacks).where(*old, ~_in_use()))


def kept(connection: Connection, source: str, after: int, limit: int) -> list[Kept]:
    """Callbacks whose bodies are there, in the order of their ids, from the one after ``after``."""
    chosen = select(callbacks.c.id, callbacks.c.received_at).where(
        callbacks.c.source == source, callbacks.c.erased_at.is_(None), callbacks.c.id > after
    )
    return [Kept(*row) for row in connection.execute(chosen.order_by(callbacks.c.id).limit(limit))]


def sizes(connection: Connection, callback_ids: Sequence[int]) -> dict[int, int]:
    """The bytes of bodies, by the ids of their callbacks and in the order of these.

    MariaDB and MySQL read a body to tell its length, so few are to be asked for at once.
    """
    chosen = among(connection, callbacks.c.id, callback_ids)
    found = select(callbacks.c.id, func.length(callbacks.c.body)).where(chosen)
    return {row[0]: row[1] for row in connection.execute(found.order_by(callbacks.c.id))}


def last_id(connection: Connection, source: str) -> int:
    """The highest id of a callback whose body is there; 0 where there is none."""
    highest = select(func.max(callbacks.c.id))
    own = callbacks.c.source == source, callbacks.c.erased_at.is_(None)
    return connection.scalar(highest.where(*own)) or 0


def loaded(connection: Connection, callback_ids: Sequence[int]) -> dict[int, Envelope]:
    """Those callbacks that are there."""
    return {id: envelope_of(row) for id, row in rows(connection, callback_ids).items()}


def rows(connection: Connection, callback_ids: Sequence[int]) -> dict[int, Row[Any]]:
    """Those callbacks that are there, as they are stored."""
    chosen = select(callbacks).where(among(connection, callbacks.c.id, callback_ids))
    return {row.id: row for row in connection.execute(chosen)}


def erasable(connection: Connection, callback_ids: Sequence[int], before: float) -> list[int]:
    """Those callbacks all of whose messages were done before a time, with nothing in quarantine."""
    chosen = among(connection, callbacks.c.id, callback_ids) & _is_over(before)
    return list(connection.scalars(select(callbacks.c.id).where(chosen).order_by(callbacks.c.id)))


def erase(connection: Connection, callback_ids: Sequence[int], before: float, now: float) -> int:
    """Erase the bodies and URLs of those callbacks that are :func:`erasable`; return how many.

    Those of which nothing is left are deleted.
    """
    lock(connection, callback_ids)
    delete_orphans(connection, callback_ids)
    chosen = among(connection, callbacks.c.id, callback_ids) & _is_over(before)
    return connection.execute(update(callbacks).where(chosen).values(_erased(now))).rowcount


def rewrite(connection: Connection, callback_id: int, old: bytes, new: bytes, now: float) -> bool:
    """Exchange a body, or erase it where the new one is empty, unless it is no longer the old one.

    :return: whether it was. It is locked then.
    """
    this = callbacks.c.id == callback_id
    body = connection.scalar(select(callbacks.c.body).where(this).with_for_update())
    if body is None or bytes(body) != old:
        return False
    longest = dialect_of(connection).longest_value
    values = {"body": new[:longest]} if new else _erased(now)
    connection.execute(update(callbacks).where(this).values(values))
    _append(connection, callback_id, new, longest)
    return True


def _erased(now: float) -> dict[str, Any]:
    # The keys of the messages, which are hashes, still know a repetition.
    return {"body": b"", "url_variables": "{}", "query": "{}", "erased_at": now}


def _is_over(before: float) -> ColumnElement[bool]:
    own = messages.c.callback_id == callbacks.c.id
    unfinished = exists().where(own, ~(is_done & (messages.c.finished_at < before)))
    return ~unfinished & ~exists().where(quarantine.c.callback_id == callbacks.c.id)


def _in_use() -> ColumnElement[bool]:
    tables = (messages, quarantine)
    return or_(*(exists().where(table.c.callback_id == callbacks.c.id) for table in tables))


def _told(
    model: DeliveryReport | MessageReport, name: str, value: str | float | None
) -> str | float | None:
    """A member; where it is unreadable, what came, which tells two reports apart, too."""
    if name not in model.problems:
        return value
    return json.dumps(model.extra.get(name), default=str, sort_keys=True)


def _origin(envelope: Envelope) -> tuple[str, ...]:
    parts = [envelope.source]
    for mark, mapping in (("", envelope.url_variables), ("?", envelope.query)):
        if mapping:
            parts.append(mark + json.dumps(sorted(mapping.items())))
    return tuple(parts)


def digest(*parts: str | float | None, size: int = 16) -> str:
    """A hash of bounded length of what tells two things apart.

    :param size: of the hash, in bytes, of which each is two digits.
    """
    # ascii() tells None from a text, and writes a tuple of both the same in every Python.
    return blake2b(ascii(parts).encode(), digest_size=size).hexdigest()


def digest_after(*first: str | float | None, size: int = 16) -> Callable[..., str]:
    """What makes the :func:`digest` of these parts and of others, which are two or more."""
    so_far = ascii(first)[:-1].rstrip(",") + ", "  # a single one has a comma
    begun = blake2b(so_far.encode(), digest_size=size)

    def finish(*others: str | float | None) -> str:
        whole = begun.copy()
        whole.update(ascii(others)[1:].encode())
        return whole.hexdigest()

    return finish
