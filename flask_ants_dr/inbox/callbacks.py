"""What came: a callback as it is stored, and what makes two reports the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b

from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import insert as insert_into
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import update

from ..models import DeliveryReport
from ..models import Envelope
from ..models import InvalidDetail
from ..models import MessageReport
from .dialects import among
from .dialects import dialect_of
from .tables import callbacks
from .tables import messages
from .tables import quarantine


def by_key(envelope: Envelope, report: DeliveryReport) -> dict[str, MessageReport]:
    """The messages by what makes two reports the same.

    That is source, URL variables, query, bulk, message, ``to``, status and done date: two tenants
    have nothing in common, and neither have two orders.
    """
    origin = (*_origin(envelope), _told(report, "bulkId", report.bulk_id))
    return {
        _digest(
            *origin,
            message.message_id,
            _told(message, "to", message.to),
            message.status.name,
            _told(
                message,
                "doneDate",
                message.done_date.timestamp() if message.done_date else None,
            ),
        ): message
        for message in report.messages
    }


def key_of_body(envelope: Envelope) -> str:
    """What makes two bodies the same that could not be taken."""
    body = blake2b(envelope.body).hexdigest()
    return _digest(*_origin(envelope), envelope.content_type, body)


def key_of_detail(envelope: Envelope, report: DeliveryReport, detail: InvalidDetail) -> str:
    """What makes two details the same that could not be taken."""
    payload = json.dumps(detail.payload, default=str, sort_keys=True)
    return _digest(*_origin(envelope), report.bulk_id, payload)


def insert(connection: Connection, envelope: Envelope, now: float) -> int:
    """Store a callback and return its id."""
    longest = dialect_of(connection).longest_value
    statement = insert_into(callbacks).values(
        source=envelope.source,
        # A database takes no NUL in a text.
        content_type=envelope.content_type.replace("\0", ""),
        url_variables=json.dumps(dict(envelope.url_variables)),
        query=json.dumps(dict(envelope.query)),
        body=envelope.body[:longest],
        received_at=now,
    )
    (callback_id,) = connection.execute(statement).inserted_primary_key or (0,)
    for start in range(longest, len(envelope.body), longest):
        longer = func.concat(callbacks.c.body, envelope.body[start : start + longest])
        this = callbacks.c.id == callback_id
        connection.execute(update(callbacks).where(this).values(body=longer))
    return int(callback_id)


def remove(connection: Connection, callback_id: int) -> None:
    """Delete a callback that brought nothing new."""
    connection.execute(delete(callbacks).where(callbacks.c.id == callback_id))


def lock(connection: Connection, callback_id: int) -> None:
    """Wait for whoever else works on a callback's messages."""
    connection.execute(
        select(callbacks.c.id).where(callbacks.c.id == callback_id).with_for_update()
    )


def load(connection: Connection, callback_id: int) -> Envelope:
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


def delete_orphans(connection: Connection, callback_ids: Iterable[int]) -> None:
    """Delete those callbacks of which neither a message nor a quarantined detail is left."""
    ids = among(connection, callbacks.c.id, list(set(callback_ids)))
    connection.execute(delete(callbacks).where(ids, ~_in_use()))


def sweep_orphans(connection: Connection, source: str, before: float) -> None:
    """Delete the callbacks that two purges at once have left."""
    old = (callbacks.c.source == source, callbacks.c.received_at < before)
    connection.execute(delete(callbacks).where(*old, ~_in_use()))


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


def _digest(*parts: str | float | None) -> str:
    # ascii() tells None from a text, and writes a tuple of both the same in every Python.
    return blake2b(ascii(parts).encode(), digest_size=16).hexdigest()
