"""The inbox: what a callback brings is committed, then dispatched until it is done or dead."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Flask
from sqlalchemy import Connection

from ..dispatch import dispatch_envelope
from ..dispatch import dispatch_message
from ..errors import CallbackError
from ..errors import InboxUnavailable
from ..models import DeliveryReport
from ..models import Envelope
from ..models import InvalidDetail
from ..models import MessageReport
from . import store
from .database import Database
from .masking import describe
from .masking import trace
from .tables import DEAD
from .tables import DONE

_logger = logging.getLogger(__name__)

#: Reads a stored callback again: decodes it, and validates it against the schema in force.
Read = Callable[[Envelope], tuple[DeliveryReport, list[InvalidDetail]]]

BATCH = 100
"""How many messages are claimed together, at most."""

_DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """Makes callbacks durable: ``DeliveryReportBlueprint(inbox=Inbox())``.

    :param eager: whether messages are dispatched in the request, after the commit. Otherwise, and
        for what fails, ``flask ants-dr work`` or Celery does it.
    :param enqueue: called after the commit with the source and the ids of new messages where
        ``eager`` is ``False``: :func:`flask_ants_dr.inbox.celery.enqueue`.
    :param max_attempts: how often a message is dispatched before it is set aside as dead.
    :param lease: seconds after which a claim that was not finished is taken up by another worker.
        Longer than any subscriber takes for one message.
    :param backoff: seconds before the second attempt, at most. They double with each attempt, up
        to ``max_backoff``, and the real delay is drawn evenly from zero to that (full jitter).
    :param max_backoff: seconds.
    :param timeout: how long a callback waits for the database's lock or a connection, in seconds.
    :param quarantine_days: how long what could not be taken is kept.
    :param quarantine_bytes: how much of it is kept; the oldest goes first.
    """

    eager: bool = True
    enqueue: Callable[[str, Sequence[int]], None] | None = None
    max_attempts: int = 10
    lease: float = 300.0
    backoff: float = 5.0
    max_backoff: float = 3600.0
    timeout: float = 5.0
    quarantine_days: float = 30.0
    quarantine_bytes: int = 100 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_attempts", "lease", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0.")
        if self.eager and self.enqueue:
            raise ValueError("enqueue takes effect where eager is False: pass both.")

    def bind(self, app: Flask, source: str, key: str, read: Read) -> BoundInbox:
        """The inbox of one blueprint in one application.

        :param source: the name that the blueprint is registered under.
        :param key: the configuration key of the database's URL.
        :raises ValueError: the URL is none; the message names the key.
        """
        path = Path(app.instance_path, "ants_dr.sqlite3")
        url = app.config.get(key) or f"sqlite:///{path}"
        databases: dict[str, Database] = app.extensions.setdefault("ants_dr_databases", {})
        try:
            database = databases.setdefault(url, Database(url, self.timeout))
        except Exception as error:
            raise ValueError(
                f"{key} must be an SQLAlchemy URL of SQLite in a file or of PostgreSQL, such as"
                f" postgresql+psycopg://host/database ({type(error).__name__})."
            ) from None
        return BoundInbox(app, source, self, database, read)


class BoundInbox:
    """The inbox of one blueprint in one application."""

    def __init__(
        self, app: Flask, source: str, options: Inbox, database: Database, read: Read
    ) -> None:
        self.app = app
        self.source = source
        self.options = options
        self.database = database
        self._read = read
        self._latest = threading.local()

    def accept(
        self, envelope: Envelope, report: DeliveryReport, invalid: Sequence[InvalidDetail]
    ) -> None:
        """Commit a callback, then dispatch it or have it dispatched.

        One that brings nothing new changes nothing and sends no signal.

        :raises InboxUnavailable: it could not be committed; nothing of it is stored.
        """
        now, token = time.time(), uuid4().hex
        messages = self._by_key(report)
        with self.database.begin() as connection:
            callback_id = store.insert_callback(connection, envelope, now)
            ids = self._insert(connection, callback_id, messages, token, now)
            kept = self._keep(connection, callback_id, self._entries(report, invalid), now)
            if not ids and not kept:
                store.delete_callback(connection, callback_id)
                return
        self._log(dispatch_envelope(self.app, report, invalid))
        self._start(callback_id, ids, token, report, messages)

    def quarantine(self, envelope: Envelope, error: CallbackError) -> None:
        """Keep a body that could not be taken.

        :raises InboxUnavailable: it could not be kept.
        """
        now = time.time()
        entry = store.Entry(
            key=_digest(self.source, blake2b(envelope.body).hexdigest()),
            position=None,
            error={"detail": error.detail, "errors": error.errors},
        )
        with self.database.begin() as connection:
            callback_id = store.insert_callback(connection, envelope, now)
            if not self._keep(connection, callback_id, [entry], now):
                store.delete_callback(connection, callback_id)

    def take(
        self, ids: Sequence[int] | None = None, *, stop: Callable[[], bool] | None = None
    ) -> int:
        """Claim messages that are due, dispatch them, and return how many there were.

        :param ids: only these.
        :param stop: asked before each message; those that were not begun are given back.
        :raises InboxUnavailable: the database failed; what was claimed is due after its lease.
        """
        now, token = time.time(), uuid4().hex
        with self.database.begin() as connection:
            claimed = store.claim(
                connection,
                self.source,
                token=token,
                now=now,
                until=now + self.options.lease,
                limit=BATCH,
                max_attempts=self.options.max_attempts,
                ids=ids,
            )
        self._dispatch(claimed, token, now, self._load, stop or _never)
        return len(claimed)

    def due(self, limit: int) -> list[int]:
        """The ids of messages that wait for a worker."""
        with self.database.begin(durable=False) as connection:
            return store.due_ids(connection, self.source, time.time(), limit)

    def replay(self, callback_id: int) -> int:
        """Put a quarantined callback through again, and return how many new messages it had.

        :raises CallbackError: it is refused again, and stays in quarantine.
        """
        now, token = time.time(), uuid4().hex
        with self.database.begin(durable=False) as connection:
            envelope = store.envelope(connection, callback_id)
        report, invalid = self._read(envelope)
        messages = self._by_key(report)
        entries = self._entries(report, invalid)
        with self.database.begin() as connection:
            ids = self._insert(connection, callback_id, messages, token, now)
            store.delete_quarantine(connection, callback_id, {one.position for one in entries})
            self._keep(connection, callback_id, entries, now)
            store.delete_orphans(connection, [callback_id])
        if ids:
            self._log(dispatch_envelope(self.app, report, []))
        self._start(callback_id, ids, token, report, messages)
        return len(ids)

    def _by_key(self, report: DeliveryReport) -> dict[str, MessageReport]:
        return {message_key(self.source, report.bulk_id, m): m for m in report.messages}

    def _insert(
        self,
        connection: Connection,
        callback_id: int,
        keys: Iterable[str],
        token: str,
        now: float,
    ) -> dict[str, int]:
        """Store new messages: with eager dispatch they are this request's claim already."""
        claim: dict[str, Any] = {"claim": None, "due_at": now, "attempts": 0}
        if self.options.eager:
            claim = {"claim": token, "due_at": now + self.options.lease, "attempts": 1}
        return store.insert_messages(connection, callback_id, self.source, list(keys), **claim)

    def _keep(
        self, connection: Connection, callback_id: int, entries: Iterable[store.Entry], now: float
    ) -> int:
        """Put into quarantine what is not there, and return how much was new."""
        kept = store.insert_quarantine(connection, callback_id, self.source, entries, now)
        if kept:
            oldest = now - self.options.quarantine_days * _DAY
            store.bound_quarantine(connection, self.source, oldest, self.options.quarantine_bytes)
        return kept

    def _entries(
        self, report: DeliveryReport, invalid: Iterable[InvalidDetail]
    ) -> list[store.Entry]:
        return [
            store.Entry(
                key=_digest(
                    self.source,
                    report.bulk_id,
                    json.dumps(one.payload, default=str, sort_keys=True),
                ),
                position=one.index,
                error={"errors": one.errors},
            )
            for one in invalid
        ]

    def _start(
        self,
        callback_id: int,
        ids: Mapping[str, int],
        token: str,
        report: DeliveryReport,
        messages: Mapping[str, MessageReport],
    ) -> None:
        """After the commit: dispatch the new messages, or have them dispatched.

        Nothing that fails here loses one: a worker takes it up.
        """
        if self.options.eager:
            rows = [store.Claimed(id, callback_id, key, 1) for key, id in ids.items()]
            with suppress(InboxUnavailable):
                self._dispatch(rows, token, time.time(), lambda _: (report, messages), _never)
        elif self.options.enqueue and ids:
            try:
                self.options.enqueue(self.source, list(ids.values()))
            except Exception as error:
                _logger.warning(
                    "%s: the broker failed (%s); %d messages wait for a worker or a sweep",
                    self.source,
                    type(error).__name__,
                    len(ids),
                )

    def _load(self, callback_id: int) -> tuple[DeliveryReport, Mapping[str, MessageReport]]:
        """A stored callback, read again; a thread remembers its latest one."""
        latest = getattr(self._latest, "value", None)
        if latest is None or latest[0] != callback_id:
            with self.database.begin(durable=False) as connection:
                envelope = store.envelope(connection, callback_id)
            try:
                report, _ = self._read(envelope)
            except CallbackError:
                report = DeliveryReport(messages=())
            latest = self._latest.value = (callback_id, report, self._by_key(report))
        return latest[1], latest[2]

    def _dispatch(
        self,
        rows: Sequence[store.Claimed],
        token: str,
        claimed_at: float,
        load: Callable[[int], tuple[DeliveryReport, Mapping[str, MessageReport]]],
        stop: Callable[[], bool],
    ) -> None:
        """Dispatch claimed messages one by one, each marked before the next one begins."""
        waiting = [row.id for row in rows]
        for callback_id, group in groupby(rows, key=lambda row: row.callback_id):
            together = list(group)
            report, messages = load(callback_id)
            claimed = tuple(messages[row.key] for row in together if row.key in messages)
            report = replace(report, messages=claimed)
            for row in together:
                if stop():
                    with self.database.begin() as connection:
                        store.release(connection, waiting, token, time.time())
                    return
                if time.time() > claimed_at + self.options.lease / 2:
                    claimed_at = time.time()
                    with self.database.begin() as connection:
                        until = claimed_at + self.options.lease
                        ours = store.renew(connection, waiting, token, until)
                    waiting = [id for id in waiting if id in ours]
                if row.id in waiting:
                    waiting.remove(row.id)
                    self._attempt(row, token, messages.get(row.key), report)

    def _attempt(
        self,
        row: store.Claimed,
        token: str,
        message: MessageReport | None,
        report: DeliveryReport,
    ) -> None:
        """Dispatch one message and mark what came of it."""
        if message is None:
            failures: list[Exception] = [LookupError("not valid under the schema in force")]
        else:
            with self.app.app_context():
                failures = dispatch_message(self.app, message, report)
        now = time.time()
        if not failures:
            values: dict[str, Any] = {"state": DONE, "finished_at": now, "error": None}
        else:
            error = describe(failures, message)
            values = {"error": error}
            if row.attempts >= self.options.max_attempts:
                values |= {"state": DEAD, "finished_at": now}
            else:
                values["due_at"] = now + self._delay(row.attempts)
            _logger.error(
                "%s: message %d failed, attempt %d of %d: %s\n%s",
                self.source,
                row.id,
                row.attempts,
                self.options.max_attempts,
                error,
                "\n".join(map(trace, failures)),
            )
        with self.database.begin(durable=False) as connection:
            store.finish(connection, row.id, token, **values)

    def _delay(self, attempts: int) -> float:
        """Exponential backoff with full jitter, in seconds."""
        longest = self.options.backoff * 2.0 ** min(attempts - 1, 50)
        return random.uniform(0, min(self.options.max_backoff, longest))  # noqa: S311

    def _log(self, failures: Iterable[Exception]) -> None:
        """What subscribers raised after the commit, when the callback is taken whatever they do."""
        for error in failures:
            _logger.error("%s: a subscriber raised\n%s", self.source, trace(error))


def bound_inboxes(app: Flask) -> list[BoundInbox]:
    """The inboxes of an application's blueprints."""
    states = app.extensions.get("ants_dr", {}).values()
    return [state.inbox for state in states if state.inbox]


def message_key(source: str, bulk_id: str | None, message: MessageReport) -> str:
    """What makes two reports the same: source, bulk, message, ``to``, status and done date."""
    done = message.done_date.timestamp() if message.done_date else None
    return _digest(source, bulk_id, message.message_id, message.to, message.status.name, done)


def _digest(*parts: str | float | None) -> str:
    # ascii() tells None from a text, and writes a tuple of both the same in every Python.
    return blake2b(ascii(parts).encode(), digest_size=16).hexdigest()


def _never() -> bool:
    return False
