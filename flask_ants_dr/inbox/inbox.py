"""The inbox: what a callback brings is committed, then dispatched until it is done or dead."""

from __future__ import annotations

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
from ..receive import read
from ..receive import receive
from ..registration import Registration
from ..registration import registrations
from . import callbacks
from . import messages
from . import quarantine
from .callbacks import by_key
from .callbacks import key_of_body
from .database import Database
from .masking import describe
from .masking import trace
from .quarantine import Entry
from .quarantine import Quarantined
from .tables import DEAD
from .tables import DONE

_logger = logging.getLogger(__name__)

BATCH = 100
"""How many messages are claimed together, at most."""

_DAY = 86_400

# More than anybody waits or tries, and less than a database takes for a number of milliseconds.
_LARGEST = 1_000_000

# A lease is renewed when this much of it has passed, so a message has nearly all of it.
_RENEWED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """Makes callbacks durable: ``DeliveryReportBlueprint(inbox=Inbox())``.

    :param eager: whether messages are dispatched in the request, after the commit. Otherwise, and
        for what fails, ``flask ants-dr work`` or Celery does it.
    :param enqueue: called after the commit with the source and the ids of new messages where
        ``eager`` is ``False``: :func:`flask_ants_dr.inbox.celery.enqueue`.
    :param max_attempts: how often a message is dispatched before it is set aside as dead. The
        default takes some five hours, on average.
    :param lease: seconds after which a claim that was not finished is taken up by another worker.
        A good deal longer than any subscriber takes for one message.
    :param backoff: seconds before the second attempt, at most. They double with each attempt, up
        to ``max_backoff``, and the real delay is drawn evenly from zero to that (full jitter). With
        0 there is none.
    :param max_backoff: what no delay is longer than, in seconds; 0 for no delays.
    :param timeout: how long a callback waits for the database's lock or a connection, in seconds.
        Then it is answered with 503.
    :param quarantine_days: how long what could not be taken is kept; looked at whenever something
        new comes in.
    :param quarantine_bytes: how much of it is kept; the oldest goes first. With 0 nothing is.
    :raises ValueError: a number is none, is negative, or is 0 where this says nothing of 0, or over
        1,000,000 (but for ``quarantine_bytes``); or ``enqueue`` is given where ``eager`` is
        ``True``. The message names the parameter.
    """

    eager: bool = True
    enqueue: Callable[[str, Sequence[int]], None] | None = None
    max_attempts: int = 20
    lease: float = 300.0
    backoff: float = 5.0
    max_backoff: float = 3600.0
    timeout: float = 5.0
    quarantine_days: float = 30.0
    quarantine_bytes: int = 100 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_attempts", "quarantine_bytes"):
            # Not isinstance(), for which True is a number.
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number.")
        if self.quarantine_bytes < 0:
            raise ValueError("quarantine_bytes must be 0 or more.")
        for name in ("max_attempts", "lease", "timeout", "quarantine_days"):
            if not (_is_number(getattr(self, name)) and 0 < getattr(self, name) <= _LARGEST):
                raise ValueError(f"{name} must be a number above 0, of at most {_LARGEST:,}.")
        for name in ("backoff", "max_backoff"):
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) <= _LARGEST):
                raise ValueError(f"{name} must be a number from 0 to {_LARGEST:,}.")
        if self.eager and self.enqueue:
            raise ValueError("enqueue takes effect where eager is False: pass both.")

    def bind(self, app: Flask, source: str, key: str) -> BoundInbox:
        """The inbox of one blueprint in one application.

        :param source: the name that the blueprint is registered under.
        :param key: the configuration key of the database's URL.
        :raises ValueError: the URL is none that an inbox can use, or its driver is missing; the
            message names the key and the cure.
        """
        path = Path(app.instance_path, "ants_dr.sqlite3")
        url = app.config.get(key) or f"sqlite:///{path}"
        databases: dict[tuple[str, float], Database] = app.extensions.setdefault(
            "ants_dr_databases", {}
        )
        try:
            database = Database(url, self.timeout)
        except ValueError as error:
            raise ValueError(f"{key} {error}") from None
        database = databases.setdefault((url, self.timeout), database)
        return BoundInbox(app, source, self, database)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a quarantined callback that was put through again."""

    taken: int
    """How many new messages it had, which were delivered."""
    refused: int
    """How many of its messages were refused again, and are in quarantine."""


class BoundInbox:
    """The inbox of one blueprint in one application: what an operator's page works with.

    :func:`bound_inboxes` finds them.
    """

    def __init__(self, app: Flask, source: str, options: Inbox, database: Database) -> None:
        self.app = app
        self.source = source
        """The name that the blueprint is registered under."""
        self.options = options
        self.database = database
        self._latest = threading.local()

    def accept(
        self,
        envelope: Envelope,
        report: DeliveryReport,
        invalid: Sequence[InvalidDetail],
        callback_id: int | None = None,
    ) -> int:
        """Commit a callback, then dispatch it or have it dispatched.

        One that brings nothing new changes nothing and sends no signal.

        :param callback_id: where it is stored already, in quarantine.
        :return: how many of its messages are new.
        :raises InboxUnavailable: it could not be committed; nothing of it is stored.
        """
        now, token = time.time(), uuid4().hex
        by_keys = by_key(envelope, report)
        entries = quarantine.entries(envelope, report, invalid)
        is_replay = callback_id is not None
        with self.database.begin() as connection:
            before: dict[str, int] = {}
            if callback_id is None:
                callback_id = callbacks.insert(connection, envelope, now)
            else:
                callbacks.lock(connection, callback_id)
                before = messages.of_callback(connection, callback_id)
            stored = self._insert(connection, callback_id, by_keys, token, now)
            ids = {key: id for key, id in stored.items() if key not in before}
            if is_replay:
                quarantine.remove(connection, callback_id, {one.position for one in entries})
            kept = self._keep(connection, callback_id, entries, now)
            if not ids and not kept:
                callbacks.delete_orphans(connection, [callback_id])
        if ids or kept:
            # What is invalid has been told of when it came.
            self._log(dispatch_envelope(self.app, report, [] if is_replay else invalid))
            self._start(callback_id, ids, token, now, report, by_keys)
        return len(ids)

    def quarantine(self, envelope: Envelope, error: Exception) -> None:
        """Keep a body that could not be taken.

        :param error: why; a :class:`~flask_ants_dr.CallbackError`, or what a host's schema raised.
        :raises InboxUnavailable: it could not be kept.
        """
        now = time.time()
        problem: dict[str, Any] = {"detail": type(error).__name__}
        if isinstance(error, CallbackError):
            problem = {"detail": error.detail, "errors": error.errors}
        entry = Entry(key=key_of_body(envelope), position=None, error=problem)
        with self.database.begin() as connection:
            callback_id = callbacks.insert(connection, envelope, now)
            if not self._keep(connection, callback_id, [entry], now):
                callbacks.remove(connection, callback_id)

    def take(
        self, ids: Sequence[int] | None = None, *, stop: Callable[[], bool] | None = None
    ) -> int:
        """Claim messages that are due, dispatch them, and return how many there were.

        :param ids: only these.
        :param stop: asked before each message; those that were not begun are given back.
        :raises InboxUnavailable: the database failed; what was claimed is due after its lease.
        """
        now, token = time.time(), uuid4().hex
        lease: dict[str, Any] = {"token": token, "now": now, "until": now + self.options.lease}
        with self.database.begin() as connection:
            claimed = messages.claim_unfinished(
                connection, self.source, **lease, ids=ids, max_attempts=self.options.max_attempts
            ) or messages.claim(connection, self.source, **lease, ids=ids, limit=BATCH)
        self._dispatch(claimed, token, now, self._load, stop or _never)
        return len(claimed)

    def status(self) -> dict[str, Any]:
        """How many messages are in each state, and how it stands with them.

        :raises InboxUnavailable: the database failed.
        """
        now = time.time()
        with self.database.begin(writes=False) as connection:
            oldest = messages.oldest_pending(connection, self.source)
            quarantined, quarantined_bytes = quarantine.size(connection, self.source)
            return messages.counts(connection, self.source) | {
                "oldest_pending_seconds": None if oldest is None else round(now - oldest, 1),
                "done_last_minute": messages.done_since(connection, self.source, now - 60),
                "quarantined": quarantined,
                "quarantined_bytes": quarantined_bytes,
            }

    def dead(self, limit: int = 100) -> list[messages.DeadMessage]:
        """The messages that were set aside as dead, the latest first.

        :param limit: how many, at most.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return messages.dead(connection, self.source, limit)

    def retry(self, ids: Sequence[int] | None = None) -> int:
        """Make dead messages pending again, for a worker to dispatch, and return how many.

        :param ids: which ones; all of them by default.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin() as connection:
            return messages.retry(connection, self.source, ids, time.time())

    def quarantined(self, limit: int | None = None) -> list[Quarantined]:
        """What could not be decoded or validated, the oldest first.

        :param limit: how many, at most; all by default.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return quarantine.list_all(connection, self.source, limit)

    def due(self, limit: int, *, unfinished: bool = False) -> list[int]:
        """The ids of messages that wait for a worker, or were left unfinished by one."""
        now = time.time()
        with self.database.begin(writes=False) as connection:
            return messages.due_ids(connection, self.source, now, limit, unfinished=unfinished)

    def replay(self, callback_id: int) -> Replayed:
        """Put a quarantined callback through again.

        :return: how many of its messages were taken, and how many refused again.
        :raises CallbackError: the whole of it is refused again, and stays in quarantine. A host's
            schema can raise anything else.
        :raises LookupError: there is no such callback, or it is another blueprint's.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            envelope = callbacks.load(connection, callback_id)
        if envelope.source != self.source:
            raise LookupError(f"Callback {callback_id} is another blueprint's.")
        received = receive(self.app, self._registration, envelope, callback_id=callback_id)
        return Replayed(taken=received.new or 0, refused=len(received.invalid))

    @property
    def _registration(self) -> Registration:
        return registrations(self.app)[self.source]

    def _insert(
        self, connection: Connection, callback_id: int, keys: Iterable[str], token: str, now: float
    ) -> dict[str, int]:
        """Store messages: with eager dispatch they are this request's claim already."""
        claim: dict[str, Any] = {"claim": None, "due_at": now, "attempts": 0}
        if self.options.eager:
            claim |= {"claim": token, "due_at": now + self.options.lease}
        messages.insert(connection, callback_id, self.source, keys, **claim)
        return messages.of_callback(connection, callback_id)

    def _keep(
        self,
        connection: Connection,
        callback_id: int,
        entries: Iterable[Entry],
        now: float,
    ) -> int:
        """Put into quarantine what is not there, and return how much was new."""
        kept = quarantine.insert(connection, callback_id, self.source, entries, now)
        if kept:
            oldest = now - self.options.quarantine_days * _DAY
            quarantine.bound(connection, self.source, oldest, self.options.quarantine_bytes)
        return kept

    def _start(
        self,
        callback_id: int,
        ids: Mapping[str, int],
        token: str,
        claimed_at: float,
        report: DeliveryReport,
        by_keys: Mapping[str, MessageReport],
    ) -> None:
        """After the commit: dispatch the new messages, or have them dispatched.

        Nothing that fails here loses one: a worker takes it up.
        """
        if self.options.eager:
            rows = [messages.Claimed(id, callback_id, key, 1) for key, id in ids.items()]
            with suppress(InboxUnavailable):
                self._dispatch(rows, token, claimed_at, lambda _: (report, by_keys), _never)
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
            with self.database.begin(writes=False) as connection:
                envelope = callbacks.load(connection, callback_id)
            try:
                report = read(self._registration, envelope).report
            except Exception as error:  # a host's schema can raise anything
                _logger.error("%s: a stored callback is refused\n%s", self.source, trace(error))
                report = DeliveryReport(messages=())
            latest = self._latest.value = (callback_id, report, by_key(envelope, report))
        return latest[1], latest[2]

    def _dispatch(
        self,
        rows: Sequence[messages.Claimed],
        token: str,
        claimed_at: float,
        load: Callable[[int], tuple[DeliveryReport, Mapping[str, MessageReport]]],
        stop: Callable[[], bool],
    ) -> None:
        """Dispatch claimed messages one by one, each marked before the next one begins."""
        waiting = [row.id for row in rows]
        for callback_id, group in groupby(rows, key=lambda row: row.callback_id):
            together = list(group)
            report, by_keys = load(callback_id)
            claimed = tuple(by_keys[row.key] for row in together if row.key in by_keys)
            report = replace(report, messages=claimed)
            for row in together:
                if stop():
                    with self.database.begin() as connection:
                        messages.release(connection, waiting, token, time.time())
                    return
                if time.time() > claimed_at + self.options.lease * _RENEWED:
                    claimed_at = time.time()
                    with self.database.begin() as connection:
                        until = claimed_at + self.options.lease
                        ours = messages.renew(connection, waiting, token, until)
                    waiting = [id for id in waiting if id in ours]
                if row.id in waiting:
                    waiting.remove(row.id)
                    self._attempt(row, token, by_keys.get(row.key), report)

    def _attempt(
        self,
        row: messages.Claimed,
        token: str,
        message: MessageReport | None,
        report: DeliveryReport,
    ) -> None:
        """Dispatch one message and mark what came of it."""
        if message is None:
            failures: list[Exception] = [
                LookupError("the configuration in force does not find it in its callback")
            ]
        else:
            try:
                with self.app.app_context():
                    failures = dispatch_message(self.app, message, report)
            except Exception as error:  # of the host's teardown functions
                failures = [error]
        now = time.time()
        values: dict[str, Any] = {"attempts": row.attempt}
        if not failures:
            values |= {"state": DONE, "finished_at": now, "error": None}
        else:
            text = describe(failures, message, report)
            values["error"] = text
            if row.attempt >= self.options.max_attempts:
                values |= {"state": DEAD, "finished_at": now}
            else:
                values["due_at"] = now + self._delay(row.attempt)
            _logger.error(
                "%s: message %d failed, attempt %d of %d: %s\n%s",
                self.source,
                row.id,
                row.attempt,
                self.options.max_attempts,
                text,
                "\n".join(map(trace, failures)),
            )
        with self.database.begin(durable=False) as connection:
            if not messages.finish(connection, row.id, token, **values):
                _logger.warning(
                    "%s: message %d took longer than its lease, and was dispatched again",
                    self.source,
                    row.id,
                )

    def _delay(self, attempt: int) -> float:
        """Exponential backoff with full jitter, in seconds."""
        longest = self.options.backoff * 2.0 ** min(attempt - 1, 50)
        return random.uniform(0, min(self.options.max_backoff, longest))  # noqa: S311

    def _log(self, failures: Iterable[Exception]) -> None:
        """What subscribers raised after the commit, when the callback is taken whatever they do."""
        for error in failures:
            _logger.error("%s: a subscriber raised\n%s", self.source, trace(error))


def bound_inboxes(app: Flask) -> list[BoundInbox]:
    """The inboxes of an application's blueprints, in the order of their registration."""
    inboxes = [known.inbox for known in registrations(app).values()]
    return [inbox for inbox in inboxes if isinstance(inbox, BoundInbox)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _never() -> bool:
    return False
