"""The inbox: what a callback brings is committed, then dispatched until it is done or dead."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Flask
from sqlalchemy import Connection

from ..dispatch import dispatch_envelope
from ..errors import CallbackError
from ..errors import InboxUnavailable
from ..models import DeliveryReport
from ..models import Envelope
from ..models import InvalidDetail
from ..receive import read
from ..receive import receive
from ..registration import Registration
from ..registration import registrations
from . import callbacks
from . import delivery
from . import messages
from . import quarantine
from .callbacks import by_key
from .callbacks import key_of_body
from .database import Database
from .delivery import Breaker
from .delivery import Loaded
from .masking import trace
from .messages import Claimed
from .messages import DeadMessage
from .quarantine import Entry
from .quarantine import Quarantined
from .tables import State

_logger = logging.getLogger(__name__)

_DAY = 86_400

# More than anybody waits or tries, and less than a database takes for a number of milliseconds.
_LARGEST = 1_000_000

# Messages are retried and deleted, and looked for in abandoned claims, by so many and so often.
_PIECE = 1000
_RECOVERY = 5.0
_HOUR = 3600

_PROBE = 100_000  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """Makes callbacks durable: ``DeliveryReportBlueprint(inbox=Inbox())``.

    :param eager: whether messages are dispatched in the request, after the commit. Otherwise, and
        for what fails, ``flask ants-dr work`` or Celery does it.
    :param eager_seconds: for how long, at most; a message that has begun by then is finished, and
        the rest is a worker's.
    :param enqueue: called after the commit with the source and the ids of new messages where
        ``eager`` is ``False``: :func:`flask_ants_dr.inbox.celery.enqueue`.
    :param max_attempts: how often a message is dispatched before it is set aside as dead. The
        default takes some three days, on average.
    :param lease: how long subscribers may take for one message, in seconds. Beyond it the attempt
        has failed, and a worker whose thread is blocked so ends with exit code 75, for its
        supervisor to start it again. (A process that dies is noticed within 30 seconds, whatever
        the lease is.)
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
    eager_seconds: float = 5.0
    enqueue: Callable[[str, Sequence[int]], None] | None = None
    max_attempts: int = 150
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
        for name in ("max_attempts", "eager_seconds", "lease", "timeout", "quarantine_days"):
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
        self.breaker = Breaker()
        self.blocked: set[int] = set()
        """The threads in which a subscriber took longer than the lease."""
        self.kinds_of_errors: set[object] = set()
        self._latest = threading.local()
        self._next_recovery = 0.0

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
        message_by_key = by_key(envelope, report)
        entries = quarantine.entries(envelope, report, invalid)
        is_replay = callback_id is not None
        claim = token if self.options.eager else None
        due_at = now + delivery.CLAIM if claim else now
        with self.database.begin() as connection:
            if callback_id is None:
                callback_id = callbacks.insert(connection, envelope, now)
            else:
                callbacks.lock(connection, callback_id)
            new = messages.insert(
                connection, callback_id, self.source, message_by_key, claim=claim, due_at=due_at
            )
            if is_replay:
                quarantine.remove(connection, callback_id, {one.position for one in entries})
            kept = self._keep(connection, callback_id, entries, now)
            if not new and not kept:
                callbacks.delete_orphans(connection, [callback_id])
        if new or kept:
            # What is invalid has been told of when it came.
            untold = [] if is_replay else invalid
            self._start(new, token, (report, message_by_key), untold)
        return len(new)

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
        :raises InboxUnavailable: the database failed. What was dispatched is marked, and what was
            claimed is given back, as soon as it works again.
        """
        now, token = time.time(), uuid4().hex
        claim: dict[str, Any] = {
            "token": token,
            "now": now,
            "until": now + delivery.CLAIM,
            "ids": ids,
        }
        lost: list[Claimed] = []
        with self.database.begin() as connection:
            rows = messages.claim_new(connection, self.source, limit=delivery.BATCH, **claim)
            # One that failed before, and may again, holds up no more than these.
            rows += messages.claim_retry(connection, self.source, **claim)
            if not rows or time.monotonic() >= self._next_recovery:
                self._next_recovery = time.monotonic() + _RECOVERY
                again, lost = messages.claim_abandoned(
                    connection, self.source, max_attempts=self.options.max_attempts, **claim
                )
                rows += again
            envelope: Envelope | None = None
            if rows and not self._remembered(rows[0].callback_id):
                # In the same transaction, because most claims are of one callback.
                envelope = callbacks.load(connection, rows[0].callback_id)

        def before() -> None:
            if envelope:
                self._remember(rows[0].callback_id, envelope)
            for row in lost:
                self._give_up(row)

        delivery.dispatch(self, token, rows, self._load, stop or _never, before)
        return len(rows)

    def probe(self) -> None:
        """Write a callback of 100 kB, as a request would, and take it back.

        :raises InboxUnavailable: that cannot be done: the disk is full, say, or the database is
            read only, or its tables are another release's.
        """
        body = os.urandom(_PROBE)  # which PostgreSQL cannot compress into a page that it has
        probe = Envelope(source=self.source, content_type="", url_variables={}, query={}, body=body)
        with self.database.begin() as connection:
            if self.database.is_sqlite:
                # It writes nothing before the commit, but for what its cache does not hold.
                connection.exec_driver_sql("PRAGMA cache_size = 1")
            written = connection.begin_nested()
            callbacks.insert(connection, probe, time.time())
            written.rollback()
            if self.database.is_sqlite:
                connection.exec_driver_sql("PRAGMA cache_size = -2000")  # as it comes

    def status(self) -> dict[str, Any]:
        """How it stands with the messages that are not done, and with the quarantine.

        It takes no longer the more is done. ``retrying`` is a list of dicts, one for each
        subscriber that failed; the others are numbers.

        :raises InboxUnavailable: the database failed.
        """
        now = time.time()
        with self.database.begin(writes=False) as connection:
            counts = messages.counts(connection, self.source)
            retrying = messages.retrying(connection, self.source, now)
            oldest = messages.oldest_unfinished(connection, self.source)
            quarantined, quarantined_bytes = quarantine.size(connection, self.source)
            return {
                "pending": counts[State.WAITING] + counts[State.CLAIMED],
                "new": messages.count_new(connection, self.source, now),
                "claimed": counts[State.CLAIMED],
                "retrying": [asdict(one) for one in retrying],
                "dead": counts[State.DEAD],
                "oldest_pending_seconds": None if oldest is None else round(now - oldest, 1),
                "done_last_minute": messages.done_since(connection, self.source, now - 60),
                "quarantined": quarantined,
                "quarantined_bytes": quarantined_bytes,
            }

    def dead(self, limit: int = 100) -> list[DeadMessage]:
        """The messages that were set aside as dead, the latest first.

        :param limit: how many, at most.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return messages.dead(connection, self.source, limit)

    def retry(self, ids: Sequence[int] | None = None) -> int:
        """Have dead messages tried again, by a worker, and return how many.

        :param ids: which ones; all of them by default.
        :raises InboxUnavailable: the database failed.
        """
        return self._in_pieces(partial(messages.retry, ids=ids, now=time.time()))

    def redeliver(self, ids: Sequence[int] | None = None, *, since: datetime | None = None) -> int:
        """Have done messages dispatched again, to all subscribers, by a worker; return how many.

        :param ids: which ones.
        :param since: those that were done after this time, which is aware.
        :raises ValueError: neither is given.
        :raises InboxUnavailable: the database failed.
        """
        if ids is None and since is None:
            raise ValueError("Give ids, or since, or both.")
        after = since.timestamp() if since else 0.0
        return self._in_pieces(partial(messages.redeliver, ids=ids, since=after, now=time.time()))

    def purge(self, older_than: float, *, dead: bool = False) -> int:
        """Delete messages that are done, with the callbacks that they were in; return how many.

        :param older_than: that have been so for longer, in seconds.
        :param dead: those that are dead instead.
        :raises InboxUnavailable: the database failed.
        """
        state, before = State.DEAD if dead else State.DONE, time.time() - older_than
        total = self._in_pieces(partial(messages.purge, state=state, before=before))
        with self.database.begin() as connection:
            callbacks.sweep_orphans(connection, self.source, time.time() - _HOUR)
        return total

    def purge_quarantine(self, older_than: float) -> int:
        """Delete what has been in quarantine for longer, in seconds, and return how much.

        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin() as connection:
            return quarantine.purge(connection, self.source, time.time() - older_than)

    def show(self, id: int) -> tuple[Quarantined, Envelope]:
        """One entry of the quarantine, and the callback that it is of.

        :raises LookupError: there is none.
        :raises InboxUnavailable: the database failed.
        """
        for entry in self.quarantined():
            if entry.id == id:
                with self.database.begin(writes=False) as connection:
                    return entry, callbacks.load(connection, entry.callback_id)
        raise LookupError(f"There is no entry {id} in quarantine.")

    def quarantined(self, limit: int | None = None) -> list[Quarantined]:
        """What could not be decoded or validated, the oldest first.

        :param limit: how many, at most; all by default.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return quarantine.list_all(connection, self.source, limit)

    def due(self, limit: int, *, alone: bool = False) -> list[int]:
        """The ids of messages that wait for a worker.

        :param limit: how many, at most.
        :param alone: those that have been tried or claimed before, instead of the new ones: each is
            to be taken alone, because it may end its worker.
        :raises InboxUnavailable: the database failed.
        """
        now = time.time()
        with self.database.begin(writes=False) as connection:
            return messages.due_ids(connection, self.source, now, limit, alone=alone)

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
        rows: Sequence[Claimed],
        token: str,
        loaded: Loaded,
        invalid: Sequence[InvalidDetail],
    ) -> None:
        """After the commit: send the callback's own signals, and dispatch the new messages or have
        them dispatched.

        Nothing that fails here loses one: a worker takes it up.
        """

        def tell() -> None:
            self._log(dispatch_envelope(self.app, loaded[0], invalid))

        if self.options.eager:
            end = time.monotonic() + self.options.eager_seconds
            with suppress(InboxUnavailable):
                delivery.dispatch(
                    self, token, rows, lambda _: loaded, lambda: time.monotonic() > end, tell
                )
            return
        tell()
        if self.options.enqueue and rows:
            try:
                self.options.enqueue(self.source, [row.id for row in rows])
            except Exception as error:
                _logger.warning(
                    "%s: the broker failed (%s); %d messages wait for a worker or a sweep",
                    self.source,
                    type(error).__name__,
                    len(rows),
                )

    def _load(self, callback_id: int) -> Loaded:
        """A stored callback, read again; a thread remembers its latest one."""
        if loaded := self._remembered(callback_id):
            return loaded
        with self.database.begin(writes=False) as connection:
            envelope = callbacks.load(connection, callback_id)
        return self._remember(callback_id, envelope)

    def _remembered(self, callback_id: int) -> Loaded | None:
        latest = getattr(self._latest, "value", None)
        return latest[1] if latest and latest[0] == callback_id else None

    def _remember(self, callback_id: int, envelope: Envelope) -> Loaded:
        try:
            report = read(self._registration, envelope).report
        except Exception as error:  # a host's schema can raise anything
            _logger.error("%s: a stored callback is refused\n%s", self.source, trace(error))
            report = DeliveryReport(messages=())
        found = by_key(envelope, report)
        if envelope.query:
            # What was stored before the query was part of the key.
            found = by_key(replace(envelope, query={}), report) | found
        self._latest.value = (callback_id, (report, found))
        return report, found

    def _give_up(self, row: Claimed) -> None:
        """Tell of a message that was dead before it could be tried again."""
        report, message_by_key = self._load(row.callback_id)
        outcome = messages.Outcome(row, State.DEAD, row.attempts, error=messages.LOST)
        _logger.error("%s: message %d is dead: %s", self.source, row.id, messages.LOST)
        delivery.tell_of_dead(self, outcome, message_by_key.get(row.key), report)

    def _in_pieces(self, action: Callable[..., int]) -> int:
        """Do something to so many messages that one transaction would take too long."""
        total, count = 0, _PIECE
        while count == _PIECE:
            with self.database.begin() as connection:
                count = action(connection, self.source, limit=_PIECE)
            total += count
        return total

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
