"""The inbox: what a callback brings is committed, then dispatched until it is done or dead."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import cast
from uuid import uuid4

from flask import Flask
from sqlalchemy import Connection

from ..dispatch import Transaction
from ..dispatch import dispatch_envelope
from ..errors import CallbackError
from ..errors import InboxUnavailable
from ..errors import MalformedBody
from ..log import CALLBACK
from ..log import DELIVERY
from ..log import INBOX
from ..log import about
from ..models import DeliveryReport
from ..models import Envelope
from ..models import InvalidDetail
from ..observation import messages_accepted
from ..observation import observe
from ..receive import read
from ..receive import receive
from ..registration import Registration
from ..registration import registrations
from . import background
from . import callbacks
from . import delivery
from . import figures
from . import history
from . import ledger
from . import messages
from . import quarantine
from . import reconcile
from . import retention
from . import troubles
from . import workers
from .background import Reconciling
from .callbacks import by_key
from .callbacks import by_stored_key
from .callbacks import key_of_body
from .database import Database
from .delivery import Batch
from .delivery import Breaker
from .delivery import Claim
from .delivery import Loaded
from .erasure import ERASED
from .erasure import Number
from .figures import Figures
from .history import Report
from .ledger import Ledger
from .masking import trace
from .messages import Chosen
from .messages import Claimed
from .messages import DeadMessage
from .migrations import check_version
from .pipeline import Pipeline
from .quarantine import Entry
from .quarantine import Quarantined
from .reconcile import GRACE
from .reconcile import Reconciled
from .retention import DAY
from .retention import Erased
from .retention import Retained
from .tables import State
from .troubles import Trouble
from .workers import Worker

if TYPE_CHECKING:
    from .session import HostDatabase
    from .session import HostSession

# More than anybody waits or tries, and less than a database takes for a number of milliseconds.
_LARGEST = 1_000_000

_NO_CALLBACK = "There is no callback {}."

# Messages are retried and deleted, and looked for in abandoned claims, by so many and so often.
_PIECE = 1000
_RECOVERY = 5.0
# Seconds after which one that is to be tried again is looked for, where there are many new ones
# and there was none before.
_RETRY = 0.25
_HOUR = 3600

_PROBE = 100_000  # bytes
_OVERDUE = 15 * 60  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """Makes callbacks durable: ``DeliveryReportBlueprint(inbox=Inbox())``.

    :param eager: whether messages are dispatched in the request, after the commit. Otherwise, and
        for what fails, ``flask ants-dr work`` or Celery does it.
    :param eager_seconds: for how long, at most; a message that has begun by then is finished, and
        the rest is a worker's.
    :param enqueue: called after the commit with the source and the ids of new messages where
        ``eager`` is ``False``: :func:`flask_ants_dr.inbox.celery.enqueue`.
    :param session: the session of the host's own database, in which the inbox's tables are, too: a
        scoped session such as ``db.session`` of Flask-SQLAlchemy, or a function that returns the
        present :class:`~sqlalchemy.orm.Session`. Then what each subscriber writes in it is
        committed together with the note that it has had the message, and rolled back if it raises:
        once, whatever ends a process in between. The session's engine is used for everything.
    :param ledger: whether to keep what became of each message, for :class:`BoundInbox.ledger
        <flask_ants_dr.inbox.Ledger>`.
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
    :param keep_days: how long a message is kept when it is done, and known when it is reported
        again; ``None`` for ever. Workers and Celery's sweep delete it. Dead messages stay until
        they are retried or purged.
    :param keep_bodies_days: how long the bodies are kept, with their texts and phone numbers, when
        all of their messages are done; ``None`` for as long as those, which none outlives. A
        message whose body is erased is still known, and cannot be redelivered.
    :param quarantine_days: how long what could not be taken is kept; looked at whenever something
        new comes in, and by the workers.
    :param quarantine_bytes: how much of it is kept; the oldest goes first. With 0 nothing is.
    :raises ValueError: a number is none, is negative, or is 0 where this says nothing of 0, or over
        1,000,000 (but for ``quarantine_bytes``); or ``enqueue`` is given where ``eager`` is
        ``True``. The message names the parameter.
    """

    eager: bool = True
    eager_seconds: float = 5.0
    enqueue: Callable[[str, Sequence[int]], None] | None = None
    session: HostSession | None = field(default=None, repr=False)
    ledger: bool = False
    max_attempts: int = 150
    lease: float = 300.0
    backoff: float = 5.0
    max_backoff: float = 3600.0
    timeout: float = 5.0
    keep_days: float | None = 30.0
    keep_bodies_days: float | None = 7.0
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
        for name in ("keep_days", "keep_bodies_days"):
            days = getattr(self, name)
            if days is not None and not (_is_number(days) and 0 < days <= _LARGEST):
                raise ValueError(
                    f"{name} must be a number above 0, of at most {_LARGEST:,}, or None for ever."
                )
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
        url = app.config.get(key)
        databases: dict[object, Database] = app.extensions.setdefault("ants_dr_databases", {})
        if self.session is not None:
            from .session import HostDatabase
            from .session import SessionNotReady

            database: Database = HostDatabase(app, self.session, self.timeout, url, key)
            of: object = self.session
            with suppress(SessionNotReady):  # db.init_app(app) may come later
                database.open()
        else:
            of = url = url or f"sqlite:///{Path(app.instance_path, 'ants_dr.sqlite3')}"
            try:
                database = Database(url, self.timeout)
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None
        return BoundInbox(app, source, self, databases.setdefault((of, self.timeout), database))


@dataclass(frozen=True, slots=True)
class Redelivered:
    """What became of done messages that are to be dispatched again."""

    pending: int
    """How many of them are pending again."""
    erased: int
    """How many cannot be, because what they say is erased."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a quarantined callback that was put through again."""

    taken: int
    """How many new messages it had, which were delivered."""
    refused: int
    """How many of its messages were refused again, and are in quarantine."""


class _Remembered(NamedTuple):
    """The callback that a thread has read last."""

    id: int
    received_at: datetime
    loaded: Loaded


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
        self.host = cast("HostDatabase | None", database if options.session is not None else None)
        """Where the inbox is in the host's own database."""
        self.figures = Figures(self)
        """What is counted as it comes."""
        self.breaker = Breaker()
        self.blocked: set[int] = set()
        """The threads in which a subscriber took longer than the lease."""
        self.kinds_of_errors: set[str] = set()
        self._of_thread = threading.local()
        self._next_recovery = 0.0
        self._next_retry = 0.0

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
        status_key = callbacks.status_keys(self.source)
        status_keys = {key: status_key(message) for key, message in message_by_key.items()}
        is_replay = callback_id is not None
        kept_aside = _not_erased(invalid) if is_replay else invalid
        entries = quarantine.entries(envelope, report, kept_aside)
        claim = token if self.options.eager else None
        due_at = now + delivery.CLAIM if claim else now

        def store(connection: Connection) -> tuple[list[Claimed], int]:
            keys, bad = status_keys, entries
            if callback_id is None:
                id = callbacks.insert(connection, envelope, report.bulk_id)
            else:
                id = callback_id
                if not callbacks.lock(connection, [id]):
                    raise LookupError(_NO_CALLBACK.format(id))
                callbacks.note_bulk(connection, id, report.bulk_id)
                positions = quarantine.positions(connection, id)
                if None not in positions:
                    # The others were taken when it came, also where nothing is left of them.
                    again = by_key(envelope, _at_positions(report, invalid, positions))
                    keys = {key: status_keys[key] for key in again}
                    bad = [one for one in entries if one.position in positions]
            new = messages.insert(connection, id, self.source, keys, claim=claim, due_at=due_at)
            if is_replay:
                quarantine.remove(connection, id, {one.position for one in bad})
            if self.options.ledger:
                reported = {row.key: message_by_key[row.key] for row in new}
                ledger.record(connection, envelope, report, reported)
            kept = self._keep(connection, id, bad, now)
            if not new and not kept:
                callbacks.delete_orphans(connection, [id])
            return new, kept

        new, kept = self.database.run(store)
        if new or kept:
            # What is invalid has been told of when it came.
            untold = [] if is_replay else invalid
            observe(
                messages_accepted,
                self.app,
                report=report,
                messages=[message_by_key[row.key] for row in new],
                invalid=len(untold),
            )
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

        def store(connection: Connection) -> None:
            callback_id = callbacks.insert(connection, envelope)
            if not self._keep(connection, callback_id, [entry], now):
                callbacks.remove(connection, callback_id)

        self.database.run(store)

    def take(
        self, ids: Sequence[int] | None = None, *, stop: Callable[[], bool] | None = None
    ) -> int:
        """Claim messages that are due, dispatch them, and return how many there were.

        :param ids: only these.
        :param stop: asked before each message; those that were not begun are given back.
        :raises InboxUnavailable: the database failed. What was dispatched is marked, and what was
            claimed is given back, as soon as it works again.
        """
        claim = self._claim(ids)
        self._dispatch(claim, stop or _never)
        return len(claim.rows)

    def pipeline(self) -> Pipeline:
        """What takes one batch after the other, for one thread of a worker."""
        return Pipeline(self._claim, self._dispatch)

    @property
    def transaction(self) -> Transaction | None:
        """Makes what a subscriber's turn is in, where the host has given its session."""
        return self.host.transaction if self.host else None

    @property
    def ledger(self) -> Ledger:
        """What became of each message, and what was expected.

        :raises RuntimeError: it is not kept.
        """
        if not self.options.ledger:
            raise RuntimeError(
                f"The inbox of the blueprint {self.source} keeps no ledger: make it with"
                " Inbox(ledger=True)."
            )
        return Ledger(self)

    def write(self, work: Callable[[Connection], None]) -> None:
        """Write in the host's own transaction where the host has given its session, else at once.

        :raises InboxUnavailable: the database failed.
        """
        if self.host:
            work(self.host.connection())
        else:
            self.database.run(work)

    def probe(self) -> None:
        """Write a callback of 100 kB, as a request would, and take it back.

        :raises InboxUnavailable: that cannot be done: the disk is full, say, or the database is
            read only, or its tables are another release's.
        """
        probe = Envelope(
            source=self.source,
            content_type="",
            url_variables={},
            query={},
            received_at=datetime.now(UTC),
            body=os.urandom(_PROBE),  # which PostgreSQL cannot compress into a page that it has
        )
        with (
            self.database.begin() as connection,
            self.database.dialect.written_through(connection),
        ):
            written = connection.begin_nested()
            callbacks.insert(connection, probe)
            written.rollback()

    def ping(self) -> None:
        """See whether the database answers, and has the tables of this release.

        :raises InboxUnavailable: it does not.
        """
        with self.database.begin(writes=False) as connection:
            check_version(connection)

    def status(self) -> dict[str, Any]:
        """How it stands with the messages that are not done, with callbacks and with workers.

        It takes no longer the more is done. ``retrying`` is a list of dicts, one for each
        subscriber that failed, and ``workers`` one for each process that is alive; times
        (``last_callback_at``, ``reconciled_at``) are as ISO 8601 has them, in UTC, or ``None``; the
        others are numbers. ``refused`` is how many callbacks were refused since the last one was
        taken, ``refused_by_answer`` a dict of how many by the status of the answer, and ``overdue``
        how many messages have had no final state for 15 minutes: ``None`` without a ledger.

        :raises InboxUnavailable: the database failed.
        """
        now = time.time()
        self.figures.settle()
        with self.database.begin(writes=False) as connection:
            last_callback_at, refused = figures.last_callback(connection, self.source)
            reconciled_at, _ = reconcile.last(connection, self.source)
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
                "last_callback_at": _iso(last_callback_at),
                "refused": sum(refused.values()),
                "refused_by_answer": refused,
                "workers": [
                    asdict(one) | {"since": _iso(one.since), "seen_at": _iso(one.seen_at)}
                    for one in workers.alive(connection, self.source)
                ],
                "overdue": (
                    ledger.count_overdue(connection, self.source, now - _OVERDUE)
                    if self.options.ledger
                    else None
                ),
                "reconciled_at": _iso(
                    datetime.fromtimestamp(reconciled_at, UTC) if reconciled_at else None
                ),
            }

    def workers(self) -> list[Worker]:
        """The processes that dispatch what waits, and are alive; the oldest first.

        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return workers.alive(connection, self.source)

    def version(self) -> str:
        """What changes whenever something has come, was dispatched, failed or was set aside.

        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return history.version(connection, self.source)

    def history(self, message_id: str, to: str | None) -> list[Report]:
        """The reports of a message that are stored, in the order in which they came.

        :param to: the phone number in any usual notation, or ``None`` where the reports have none.
        :return: the first 100.
        :raises InboxUnavailable: the database failed.
        """
        return history.of_message(self, message_id, to)

    def of_bulk(self, bulk_id: str, *, limit: int = 100, cursor: str | None = None) -> list[Report]:
        """The reports of a bulk that are stored, in the order in which they came.

        :param bulk_id: of which the first 200 characters count.
        :param limit: how many, at most.
        :param cursor: only those behind the one that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        return history.of_bulk(self, bulk_id, limit, cursor)

    def troubles(
        self,
        limit: int = 100,
        *,
        state: State | None = None,
        failed_by: str | None = None,
        error_key: str | None = None,
    ) -> list[Trouble]:
        """The messages that are dead or wait for another attempt, by subscriber and kind of error,
        the largest groups first.

        :param limit: how many groups, at most.
        :param state: only ``State.DEAD`` or ``State.WAITING``.
        :param failed_by: only those that this subscriber failed on.
        :param error_key: only those of this kind of error.
        :raises InboxUnavailable: the database failed.
        """
        chosen = Chosen(failed_by=failed_by, error_key=error_key)
        with self.database.begin(writes=False) as connection:
            return troubles.found(connection, self.source, limit, chosen, state)

    def dead(
        self,
        limit: int = 100,
        *,
        failed_by: str | None = None,
        error_key: str | None = None,
        cursor: str | None = None,
    ) -> list[DeadMessage]:
        """The messages that were set aside as dead, the latest first.

        :param limit: how many, at most.
        :param failed_by: only those that this subscriber failed on.
        :param error_key: only those of this kind of error.
        :param cursor: only those behind the one that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            chosen = Chosen(failed_by=failed_by, error_key=error_key)
            return messages.dead(connection, self.source, limit, chosen, cursor)

    def failed(
        self,
        limit: int = 100,
        *,
        state: State = State.DEAD,
        failed_by: str | None = None,
        error_key: str | None = None,
        cursor: str | None = None,
    ) -> list[Report]:
        """The reports that are dead, the latest first, or that wait for another attempt, in the
        order in which they came: with their messages, their attempts and what failed.

        :param limit: how many, at most.
        :param state: ``State.DEAD``, or ``State.WAITING`` for those that wait for another attempt.
        :param failed_by: only those that this subscriber failed on.
        :param error_key: only those of this kind of error, of :meth:`troubles`.
        :param cursor: only those behind the one that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        chosen = Chosen(failed_by=failed_by, error_key=error_key)
        return history.failed(self, limit, chosen, state, cursor)

    def retry(
        self,
        ids: Sequence[int] | None = None,
        *,
        failed_by: str | None = None,
        error_key: str | None = None,
        state: State = State.DEAD,
    ) -> int:
        """Have messages that failed tried again, by a worker, and return how many.

        :param ids: which ones; all of them by default.
        :param failed_by: only those that this subscriber failed on.
        :param error_key: only those of this kind of error, of :meth:`troubles`.
        :param state: ``State.DEAD``, or ``State.WAITING`` for those that wait for another attempt.
        :raises InboxUnavailable: the database failed.
        """
        chosen, now = Chosen(ids, failed_by, error_key), time.time()
        if state is State.DEAD:
            return self.in_pieces(partial(messages.retry, chosen=chosen, now=now))
        # What a worker tries meanwhile waits again, and would be counted and hastened without end.
        with self.database.begin(writes=False) as connection:
            waiting = messages.count_hastened(connection, self.source, chosen, now)
        return self.in_pieces(partial(messages.hasten, chosen=chosen, now=now), at_most=waiting)

    def discard(
        self,
        ids: Sequence[int] | None = None,
        *,
        failed_by: str | None = None,
        error_key: str | None = None,
        state: State = State.DEAD,
    ) -> int:
        """Be done with messages that failed, without another attempt, and return how many.

        They are done as others are, so that a repetition is known, and can be redelivered. Which
        ones, the parameters say as those of :meth:`retry` do.

        :raises InboxUnavailable: the database failed.
        """
        chosen = Chosen(ids, failed_by, error_key)
        return self.in_pieces(
            partial(messages.discard, chosen=chosen, now=time.time(), state=state)
        )

    def redeliver(
        self,
        ids: Sequence[int] | None = None,
        *,
        bulk_id: str | None = None,
        since: datetime | None = None,
    ) -> Redelivered:
        """Have done messages dispatched again, to all subscribers, by a worker.

        Those whose body is erased cannot be: they are counted, and stay done.

        :param ids: which ones.
        :param bulk_id: those of this bulk; its first 200 characters count. (What was stored by a
            release that did not note it is not found.)
        :param since: those that were done after this time, which is aware.
        :return: how many are pending again, and how many cannot be.
        :raises ValueError: none of them is given.
        :raises InboxUnavailable: the database failed.
        """
        if ids is None and bulk_id is None and since is None:
            raise ValueError("Give ids, bulk_id or since, or several of them.")
        after = since.timestamp() if since else 0.0
        chosen: dict[str, Any] = {"ids": ids, "bulk_id": bulk_id, "since": after}
        redeliver = partial(messages.redeliver, source=self.source, now=time.time(), **chosen)
        pending, count = 0, _PIECE
        while count == _PIECE:
            count, again = self.database.run(partial(redeliver, limit=_PIECE))
            pending += again
        with self.database.begin(writes=False) as connection:
            erased = messages.count_erased(connection, self.source, **chosen)
        return Redelivered(pending=pending, erased=erased)

    def purge(self, older_than: float | None = None, *, dead: bool = False) -> int:
        """Delete messages that are done, with the callbacks that they were in; return how many.

        :param older_than: that have been so for longer, in seconds. By default, what
            :meth:`retain` says.
        :param dead: those that are dead instead.
        :raises ValueError: ``dead`` without ``older_than``: dead messages are kept for ever.
        :raises InboxUnavailable: the database failed.
        """
        if older_than is None:
            if dead:
                raise ValueError("Give older_than: dead messages are kept until then.")
            return self.retain().deleted
        state, before = State.DEAD if dead else State.DONE, time.time() - older_than
        total = self.in_pieces(partial(messages.purge, state=state, before=before))
        an_hour_ago = time.time() - _HOUR
        self.database.run(partial(callbacks.sweep_orphans, source=self.source, before=an_hour_ago))
        return total

    def retain(self, *, if_due: bool = False, stop: Callable[[], bool] | None = None) -> Retained:
        """Delete and erase what has been kept for as long as :class:`Inbox` says.

        It does so in small pieces with pauses between them, so that no callback waits for it.

        :param if_due: only if no process has done so for an hour, as workers and Celery's sweep do.
        :param stop: asked before each piece; the rest is for the next time.
        :raises InboxUnavailable: the database failed.
        """
        if if_due and not retention.is_due(self):
            return Retained()
        return retention.apply(self, stop or _never)

    def erase(
        self,
        number: str,
        *,
        dry_run: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Erased:
        """Erase what is stored of one phone number: texts, numbers and all else of its messages.

        In each stored body, the details whose ``to`` it is are emptied, and no other is moved. The
        keys of the messages, which are hashes, still know a repetition. Dead messages are done
        then. What is pending is left: call again when it is dispatched.

        :param number: in any usual notation; one without a country code is Thai.
        :param dry_run: change nothing, and say what would be.
        :param progress: called with the part that has been looked at, up to 1.
        :raises ValueError: it is no phone number.
        :raises InboxUnavailable: the database failed.
        """
        return retention.erase(self, Number(number), dry_run=dry_run, progress=progress or _ignore)

    def purge_quarantine(self, older_than: float) -> int:
        """Delete what has been in quarantine for longer, in seconds, and return how much.

        :raises InboxUnavailable: the database failed.
        """
        before = time.time() - older_than
        return self.database.run(partial(quarantine.purge, source=self.source, before=before))

    def reconcile(
        self,
        since: timedelta | None = None,
        *,
        overdue: timedelta | None = None,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        every: timedelta | None = None,
        stop: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Reconciled:
        """Ask ANTS's Message Logs, and hand on what no callback has brought.

        It is handed on as a callback is: to subscribers, ledger and quarantine. What is there with
        the same message, ``to`` and status is known, whatever its URL and its date.

        :param since: ask for what was sent within this time, of at most 48 hours, which is how far
            Message Logs go. By default, since the oldest message that was still under way the last
            time.
        :param overdue: ask for each message instead that the ledger has as overdue for so long; or
            since the first of them, where they are many. With ``since``, for both.
        :param grace: leave what was done within this time: its callback may be on its way.
        :param dry_run: hand on nothing, and say what would be.
        :param every: only if no process has done so for so long.
        :param stop: asked before each request, and while it waits; the rest is for the next time.
        :param progress: called with the part that has been asked for, up to 1.
        :return: what was found.
        :raises MessageLogsError: they cannot be asked, or not be read; or their credentials are not
            configured, or ``httpx`` is not installed (extra ``simulator``).
        :raises RuntimeError: ``overdue`` is given, and there is no ledger.
        :raises InboxUnavailable: the database failed.
        """
        if every is not None and not reconcile.due(self, every):
            return Reconciled()
        return reconcile.apply(
            self,
            since=since,
            overdue=overdue,
            grace=grace,
            dry_run=dry_run,
            stop=stop or _never,
            progress=progress or _ignore,
        )

    def start_reconcile(
        self, since: timedelta | None = None, *, overdue: timedelta | None = None
    ) -> bool:
        """Begin to :meth:`reconcile` in a thread, and say whether it did: not where one runs
        that was begun so, in whichever process.

        :raises InboxUnavailable: the database failed.
        """
        return background.start(self, since, overdue)

    def reconciling(self) -> Reconciling | None:
        """How far the last one is that :meth:`start_reconcile` has begun.

        :raises InboxUnavailable: the database failed.
        """
        return background.latest(self)

    def reconciliation(self) -> dict[str, float | None]:
        """When it was done last, and what it had to mend.

        ``at`` is in seconds since 1970, or ``None``. ``mended`` is of how many messages the final
        state came by no callback, in 48 hours.

        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            at, mended = reconcile.last(connection, self.source)
        return {"at": at, "mended": mended}

    def show(self, id: int) -> tuple[Quarantined, Envelope]:
        """One entry of the quarantine, and the callback that it is of.

        :raises LookupError: there is none.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            found = quarantine.find(connection, self.source, id)
        if found is None:
            raise LookupError(f"There is no entry {id} in quarantine.")
        return found

    def quarantined(
        self,
        limit: int | None = None,
        *,
        newest: bool = False,
        whole: bool | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
    ) -> list[Quarantined]:
        """What could not be decoded or validated, the oldest first.

        :param limit: how many, at most; all by default.
        :param newest: the newest first.
        :param whole: only whole callbacks, or only details of those whose others were taken.
        :param since: only what came after this time, which is aware.
        :param cursor: only those behind the one that has it.
        :raises ValueError: ``cursor`` is none.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            return quarantine.list_all(
                connection,
                self.source,
                limit,
                newest=newest,
                whole=whole,
                since=since,
                cursor=cursor,
            )

    def drop(self, ids: Sequence[int]) -> int:
        """Delete entries of the quarantine, and return how many.

        :raises InboxUnavailable: the database failed.
        """
        return self.database.run(partial(quarantine.drop, source=self.source, ids=ids))

    def kept(self) -> dict[str, float | None]:
        """How many days what is kept; ``None`` for ever.

        ``overdue`` is for how many days a done message is here that was to be deleted: nobody does
        so where that is much more than an hour.

        :raises InboxUnavailable: the database failed.
        """
        options, now = self.options, time.time()
        with self.database.begin(writes=False) as connection:
            oldest = messages.oldest_done(connection, self.source)
        has_end = oldest is not None and options.keep_days is not None
        age = (now - (oldest or now)) / DAY
        return {
            "messages": options.keep_days,
            "bodies": retention.days_of_bodies(options),
            "quarantine": options.quarantine_days,
            "overdue": max(0.0, age - (options.keep_days or 0)) if has_end else 0.0,
        }

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
        """Put a quarantined callback through again; of one that was taken in part, only the details
        that are in quarantine, by their places.

        :return: how many of its messages were taken, and how many refused again.
        :raises CallbackError: the whole of it is refused again, and stays in quarantine. A host's
            schema can raise anything else.
        :raises LookupError: there is no such callback, or it is another blueprint's.
        :raises InboxUnavailable: the database failed.
        """
        with self.database.begin(writes=False) as connection:
            # Among these, because no row need be able to have such an id.
            envelope = callbacks.loaded(connection, [callback_id]).get(callback_id)
        if envelope is None:
            raise LookupError(_NO_CALLBACK.format(callback_id))
        if envelope.source != self.source:
            raise LookupError(f"Callback {callback_id} is another blueprint's.")
        if not envelope.body:
            raise MalformedBody("The body has been erased.")
        received = receive(self.app, self.registration, envelope, callback_id=callback_id)
        with self.database.begin(writes=False) as connection:
            refused = quarantine.positions(connection, callback_id)
        return Replayed(taken=received.new or 0, refused=len(refused))

    @property
    def registration(self) -> Registration:
        """What the blueprint is configured as."""
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
            oldest = now - self.options.quarantine_days * DAY
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
            # The callback is taken whatever they do.
            failures = dispatch_envelope(self.app, loaded[0], invalid, self.transaction)
            delivery.log_raised(self, failures)

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
                INBOX.warning(
                    "%s: the broker failed (%s); %d messages wait for a worker or a sweep",
                    self.source,
                    type(error).__name__,
                    len(rows),
                    extra=about(self.source),
                )

    def _claim(self, ids: Sequence[int] | None = None) -> Claim:
        """Claim messages that are due.

        :param ids: only these.
        """
        now, token = time.time(), uuid4().hex
        arguments: dict[str, Any] = {
            "token": token,
            "now": now,
            "until": now + delivery.CLAIM,
            "ids": ids,
        }
        at = time.monotonic()
        if recovers := at >= self._next_recovery:
            self._next_recovery = at + _RECOVERY

        def claim(connection: Connection) -> Claim:
            lost: list[Claimed] = []
            rows = messages.claim_new(connection, self.source, limit=delivery.BATCH, **arguments)
            if len(rows) < delivery.BATCH or at >= self._next_retry:
                # One that failed before, and may again, holds up no more than these.
                retry = messages.claim_retry(connection, self.source, **arguments)
                rows += retry
                self._next_retry = 0.0 if retry else at + _RETRY
            if not rows or recovers:
                again, lost = messages.claim_abandoned(
                    connection, self.source, max_attempts=self.options.max_attempts, **arguments
                )
                rows += again
            # In the same transaction, because most claims are of one callback.
            return Claim(token, rows, lost, self._first_callback(connection, rows + lost))

        # Of what a power failure takes back, it takes back the marks, too.
        return self.database.run(claim, durable=False)

    def _dispatch(
        self,
        claim: Claim,
        stop: Callable[[], bool],
        before: Callable[[], None] = lambda: None,
        close: Callable[[Batch], None] = Batch.close,
    ) -> None:
        """Dispatch what was claimed.

        :param before: what is to be done before the first one is begun.
        :param close: marks what is left to mark, at the end.
        """

        def prepare() -> None:
            if claim.callback:
                self._remember(*claim.callback)
            for row in claim.lost:
                self._give_up(row)
            before()

        if self.database.is_sqlite:  # which has one writer
            close = Batch.close
        delivery.dispatch(self, claim.token, claim.rows, self._load, stop, prepare, close)

    def _load(self, callback_id: int) -> Loaded:
        """A stored callback, read again; a thread remembers its latest one."""
        latest = self._latest()
        if latest and latest.id == callback_id:
            return latest.loaded
        with self.database.begin(writes=False) as connection:
            envelope = callbacks.find(connection, callback_id)
        if envelope is None:
            CALLBACK.error(
                "%s: callback %d is gone, and messages of it are here",
                self.source,
                callback_id,
                extra=about(self.source),
            )
            return DeliveryReport(messages=()), {}
        return self._remember(callback_id, envelope)

    def _latest(self) -> _Remembered | None:
        return getattr(self._of_thread, "latest", None)

    def _first_callback(
        self, connection: Connection, claimed: Sequence[Claimed]
    ) -> tuple[int, Envelope] | None:
        """The callback of the first one, by its id; ``None`` where the thread remembers it.

        Another that it remembers is forgotten: if it was deleted since, its id can be this one's.
        """
        if not claimed:
            return None
        id, latest = claimed[0].callback_id, self._latest()
        if (
            latest
            and latest.id == id
            and latest.received_at == callbacks.received_at(connection, id)
        ):
            return None
        self._of_thread.latest = None
        envelope = callbacks.find(connection, id)
        return (id, envelope) if envelope else None

    def _remember(self, callback_id: int, envelope: Envelope) -> Loaded:
        try:
            report = read(self.registration, envelope).report
        except Exception as error:  # a host's schema can raise anything
            CALLBACK.error(
                "%s: a stored callback is refused\n%s",
                self.source,
                trace(error),
                extra=about(self.source),
            )
            report = DeliveryReport(messages=())
        loaded = report, by_stored_key(envelope, report)
        self._of_thread.latest = _Remembered(callback_id, envelope.received_at, loaded)
        return loaded

    def _give_up(self, row: Claimed) -> None:
        """Tell of a message that was dead before it could be tried again."""
        report, message_by_key = self._load(row.callback_id)
        outcome = messages.Outcome(row, State.DEAD, row.attempts, error=messages.LOST)
        DELIVERY.error(
            "%s: message %d is dead: %s",
            self.source,
            row.id,
            messages.LOST,
            extra=about(self.source, message=row.id, attempt=row.attempts),
        )
        delivery.tell_of_attempt(self, outcome, report)
        delivery.tell_of_dead(self, outcome, message_by_key.get(row.key), report)

    def in_pieces(self, action: Callable[..., int], *, at_most: float = inf) -> int:
        """Do something to so many messages that one transaction would take too long."""
        total, count = 0, _PIECE
        while count == _PIECE and total < at_most:
            count = self.database.run(partial(action, source=self.source, limit=_PIECE))
            total += count
        return total


def bound_inboxes(app: Flask) -> list[BoundInbox]:
    """The inboxes of an application's blueprints, in the order of their registration."""
    inboxes = [known.inbox for known in registrations(app).values()]
    return [inbox for inbox in inboxes if isinstance(inbox, BoundInbox)]


def _at_positions(
    report: DeliveryReport, invalid: Sequence[InvalidDetail], positions: set[int | None]
) -> DeliveryReport:
    """The messages of a report that stand at some positions among its details."""
    refused = {one.index for one in invalid}
    every = range(len(report.messages) + len(refused))
    places = [index for index in every if index not in refused]
    if len(places) > len(report.messages):
        return report  # a host's schema makes another number of messages: nobody knows their places
    placed = zip(report.messages, places, strict=True)
    return replace(report, messages=tuple(one for one, place in placed if place in positions))


def _not_erased(invalid: Sequence[InvalidDetail]) -> list[InvalidDetail]:
    return [one for one in invalid if one.payload != ERASED]


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _never() -> bool:
    return False


def _ignore(part: float) -> None:
    pass
