"""From a claim to its outcomes: attempts one by one, marked in groups, under a claim kept alive."""

from __future__ import annotations

import os
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
from typing import TYPE_CHECKING
from typing import NamedTuple

from ..dispatch import Turns
from ..errors import InboxUnavailable
from ..log import DELIVERY
from ..log import INBOX
from ..log import about
from ..models import DeliveryReport
from ..models import Envelope
from ..models import MessageReport
from ..observation import message_attempted
from ..observation import observe
from ..signals import Discard
from ..signals import RetryLater
from ..signals import message_dead
from . import messages
from . import troubles
from .masking import describe
from .masking import trace
from .messages import Claimed
from .messages import Failure
from .messages import Outcome
from .tables import State
from .threads import OneThread

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .inbox import BoundInbox
    from .session import HostDatabase
    from .session import Turn

#: How many new messages are claimed together, at most.
BATCH = 500
#: Seconds after which what a dead process held is another's, and after which a live one renews it.
CLAIM = 30.0
RENEWED = 10.0
#: Seconds from the first outcome of a group to its mark, at most.
_GROUP = 0.05
# Seconds after which a database that failed is tried again, and for which the keeper stays awake.
_AGAIN = 0.5
_LINGERS = 5.0

# Of a circuit breaker: after how many failures in a row it opens, and for how many seconds.
_FAILURES = 5
RESTS = 30.0

_KINDS_OF_ERRORS = 1000
_FAILURES_KEPT = 10  # of a message

#: What a callback says, and its messages by their keys.
Loaded = tuple[DeliveryReport, Mapping[str, MessageReport]]


class Claim(NamedTuple):
    """Messages that are one thread's to dispatch."""

    token: str
    """What tells it from others."""
    rows: Sequence[Claimed]
    lost: Sequence[Claimed]
    """Those that have been given up instead, because claims of them were lost too often."""
    callback: tuple[int, Envelope] | None
    """That of the first one, by its id, where it has been read with them."""


class Breaker:
    """Lets a subscriber rest that failed again and again, so that the others go on at their pace.

    One for each inbox in each process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self._open_until: dict[str, float] = {}

    def rests(self, name: str) -> float:
        """For how many seconds a subscriber is to be let rest; 0 where it is to be called.

        When its rest is over one message is tried, and the others wait for what becomes of it.
        """
        if name not in self._open_until:
            return 0.0
        with self._lock:
            now = time.monotonic()
            until = self._open_until.get(name, now)
            if until > now:
                return until - now
            self._open_until[name] = now + RESTS
            return 0.0

    def note(self, name: str, *, failed: bool) -> None:
        """Note what became of a call."""
        if not failed and name not in self._failures:
            return
        with self._lock:
            if not failed:
                self._failures.pop(name, None)
                self._open_until.pop(name, None)
                return
            self._failures[name] = self._failures.get(name, 0) + 1
            if self._failures[name] >= _FAILURES:
                self._open_until[name] = time.monotonic() + RESTS


@dataclass(slots=True)
class Attempt:
    """One that is under way."""

    row: Claimed
    token: str
    """Of the claim."""
    message: MessageReport | None
    """``None`` where the stored callback no longer has it."""
    report: DeliveryReport
    had_by: tuple[str, ...]
    """The subscribers that need not be called again, by now."""
    started: float
    renewed: float
    """When the claim of its message was, the last time."""
    subscriber: str = ""
    """The one whose turn it is."""


class Batch:
    """What one claim holds, until each of its messages has an outcome or is given back."""

    def __init__(self, inbox: BoundInbox, token: str, rows: Sequence[Claimed]) -> None:
        self.inbox = inbox
        self._token = token
        self._left = {row.id for row in rows}
        self._thread = threading.get_ident()
        self._current: Attempt | None = None
        self._outcomes: list[Outcome] = []
        self._first = 0.0  # when the first of these came
        self._renewed = time.monotonic()
        self._renews_at = self._renewed + RENEWED
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._is_closing = False
        self.late: set[int] = set()
        """The messages whose claim had ended before their outcome was marked."""
        self.is_blocked = False
        """Whether a subscriber took longer for a message than the lease."""

    def begin(
        self, row: Claimed, message: MessageReport | None, report: DeliveryReport
    ) -> Attempt | None:
        """Begin an attempt; ``None`` where the batch has been given up."""
        with self._lock:
            if self.is_blocked:
                return None
            self._left.discard(row.id)
            now = time.monotonic()
            self._current = Attempt(
                row, self._token, message, report, row.had_by, now, self._renewed
            )
            return self._current

    def end(self, outcome: Outcome | None) -> None:
        """Take what became of it: to be marked at once if it failed, else with its group.

        :param outcome: ``None`` where the claim had ended, and the message is another's.
        :raises InboxUnavailable: the database failed. It will be tried again.
        """
        now = time.monotonic()
        with self._lock:
            if self.is_blocked:
                return
            self._current = None
            if outcome is None or outcome.is_marked:
                return
            if not self._outcomes:
                self._first = now
            self._outcomes.append(outcome)
        if outcome.error is not None or now - self._first >= _GROUP:
            self.flush()

    def flush(self) -> None:
        """Mark what has an outcome.

        :raises InboxUnavailable: the database failed. It will be tried again.
        """
        with self._writing:
            with self._lock:
                outcomes, self._outcomes = self._outcomes, []
            if not outcomes:
                return

            def write(connection: Connection) -> list[Outcome]:
                traces = [one for outcome in outcomes for one in outcome.traces]
                troubles.note(connection, self.inbox.source, traces)
                return messages.mark(connection, self._token, outcomes, time.time())

            try:
                late = self.inbox.database.run(write, durable=False)
            except BaseException:  # also what ends a task of Celery's, or a greenlet
                with self._lock:
                    self._outcomes = outcomes + self._outcomes
                raise
        for one in late:
            self.late.add(one.message.id)
            _warn_of_lost(self.inbox, one.message)

    def close(self) -> None:
        """Mark what has an outcome, and give the rest back.

        :raises InboxUnavailable: the database failed. The keeper tries again until it works.
        """
        self._is_closing = True
        self.flush()
        with self._lock:
            left = [*self._left, *([self._current.row.id] if self._current else [])]
            self._left, self._current = set(), None
        if left:
            try:
                self.inbox.database.run(
                    lambda connection: messages.release(connection, self._token, left, time.time()),
                    durable=False,
                )
            except BaseException:
                with self._lock:
                    self._left = set(left)
                raise
        _keeper.remove(self)

    def keep(self) -> None:
        """What the keeper does again and again.

        :raises InboxUnavailable: the database failed.
        """
        now = time.monotonic()
        if self._is_closing:
            if now - self._first >= _AGAIN:
                self._first = now
                self.close()
            return
        current = self._current
        if current and now - current.started > self.inbox.options.lease:
            self._give_up(current)
            return
        if self._outcomes and now - self._first >= _GROUP:
            self.flush()
        if now >= self._renews_at:
            self._renew(now)

    def _renew(self, now: float) -> None:
        with self._lock:
            ids = [*self._left, *(one.message.id for one in self._outcomes)]
            current = self._current
            # In a host's database not before it has to be: a transaction that has begun with a
            # snapshot (REPEATABLE READ) could not note any more that the message was had.
            patience = CLAIM - RENEWED if self.inbox.host else 0.0
            if current and now - current.renewed < patience:
                current = None
            if current:
                ids.append(current.row.id)
        self._renews_at = now + _AGAIN  # unless it works
        until = time.time() + CLAIM
        self.inbox.database.run(
            lambda connection: messages.renew(connection, self._token, ids, until), durable=False
        )
        self._renewed, self._renews_at = now, now + RENEWED
        if current:
            current.renewed = now

    def _give_up(self, attempt: Attempt) -> None:
        """A subscriber does not return: its message has failed, and the others are given back."""
        with self._lock:
            if self._current is not attempt:
                return
            self.is_blocked, self._current = True, None
        lease = self.inbox.options.lease
        row, message, report = attempt.row, attempt.message, attempt.report
        error = TimeoutError(f"it took longer than the lease of {lease:g} s")
        name = attempt.subscriber
        had_by = _noted(self.inbox, attempt.had_by)
        outcome = failed(self.inbox, row, message, report, {name: error}, had_by)
        with self._lock:
            self._outcomes.append(outcome)
        self.inbox.blocked.add(self._thread)
        # In a thread of its own, because whoever hears of it may not return either.
        try:
            self.close()
        finally:
            if row.id not in self.late:
                tell_of_attempt(self.inbox, outcome, report)
                arguments = self.inbox, outcome, message, report
                threading.Thread(target=tell_of_dead, args=arguments, daemon=True).start()


class _Keeper(OneThread):
    """Keeps what the batches of a process hold."""

    def reset(self) -> None:
        super().reset()
        self._batches: set[Batch] = set()
        self._sleeps = False

    def add(self, batch: Batch) -> None:
        with self._needed():
            self._batches.add(batch)
            if self._sleeps:
                self._changed.notify()

    def remove(self, batch: Batch) -> None:
        with self._changed:
            self._batches.discard(batch)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(_GROUP / 2)
            with self._changed:
                batches = list(self._batches)
                if not batches and time.monotonic() - idle_since > _LINGERS:
                    self._sleeps = True
                    self._changed.wait()
                    self._sleeps = False
                    batches = list(self._batches)
            for batch in batches:
                idle_since = time.monotonic()
                try:
                    batch.keep()
                except InboxUnavailable:
                    pass  # logged, and tried again
                except Exception:
                    source = batch.inbox.source
                    INBOX.exception(
                        "%s: what is claimed could not be kept", source, extra=about(source)
                    )
            del batches


_keeper = _Keeper("ants-dr-keeper")
if hasattr(os, "register_at_fork"):  # which Windows has not
    os.register_at_fork(after_in_child=_keeper.reset)


def dispatch(
    inbox: BoundInbox,
    token: str,
    rows: Sequence[Claimed],
    load: Callable[[int], Loaded],
    stop: Callable[[], bool],
    before: Callable[[], None],
    close: Callable[[Batch], None] = Batch.close,
) -> None:
    """Dispatch claimed messages one by one, and mark what becomes of them.

    :param load: reads a stored callback.
    :param before: what is to be done first, under the claim.
    :param close: marks what is left to mark, at the end.
    :param stop: asked before each message; those that were not begun are given back.
    :raises InboxUnavailable: the database failed. What has an outcome is marked, and what has not
        begun is given back, as soon as it works again.
    """
    if not rows:
        before()
        return
    turns = Turns(inbox.app)
    batch = Batch(inbox, token, rows)

    def end(
        row: Claimed, outcome: Outcome | None, message: MessageReport | None, report: DeliveryReport
    ) -> None:
        try:
            batch.end(outcome)
        finally:  # where the database fails, the keeper marks it, who tells nobody
            if outcome and not batch.is_blocked and row.id not in batch.late:
                tell_of_attempt(inbox, outcome, report)
                tell_of_dead(inbox, outcome, message, report)

    try:
        if not inbox.database.is_in_memory:  # which is nobody else's
            _keeper.add(batch)
        before()
        for callback_id, group in groupby(rows, key=lambda row: row.callback_id):
            together = list(group)
            report, by_key = load(callback_id)
            claimed = tuple(by_key[row.key] for row in together if row.key in by_key)
            report = replace(report, messages=claimed)
            for row in together:
                message = by_key.get(row.key)
                if stop() or not (current := batch.begin(row, message, report)):
                    return
                try:
                    outcome = attempt(inbox, turns, current)
                except BaseException:  # KeyboardInterrupt, GeneratorExit
                    end(row, unfinished(inbox, row), message, report)
                    raise
                end(row, outcome, message, report)
    finally:
        close(batch)


def attempt(inbox: BoundInbox, turns: Turns, current: Attempt) -> Outcome | None:
    """Give each subscriber that has not had a message its turn.

    Nothing is written, but for the notes in a host's own transactions.

    :return: ``None`` where the claim had ended, so that a host's transaction was rolled back.
    """
    row, message, report = current.row, current.message, current.report
    if message is None:
        error = LookupError("the configuration in force does not find it in its callback")
        return failed(inbox, row, message, report, {"": error}, _noted(inbox, row.had_by))
    errors: dict[str, Exception] = {}
    waits: list[tuple[float, str]] = []
    arguments = {"message": message, "report": report}
    is_marked = undoes_note = False
    turns.failures.clear()
    try:
        with inbox.app.app_context(), turns:
            listeners = turns.of_message(message)
            if row.had_by:
                listeners = [one for one in listeners if one.name not in row.had_by]
            for listener in listeners:
                name = listener.name
                if rest := inbox.breaker.rests(name):
                    waits.append((rest, name))
                    continue
                is_last = listener is listeners[-1] and not errors and not waits
                current.subscriber = name
                turn = _turn(inbox.host, current, name, is_last=is_last) if inbox.host else None
                raised = turns.call(listener, arguments, turn.transaction if turn else None)
                if turn and turn.is_lost:
                    _warn_of_lost(inbox, row)
                    return None
                if turn and turn.is_whole:
                    raised = None  # what was raised since is none of its own
                if isinstance(raised, RetryLater):
                    waits.append((raised.seconds, name))
                elif raised is None or isinstance(raised, Discard):
                    current.had_by += (name,)
                    is_marked = is_last and turn is not None and turn.is_noted
                else:
                    errors[name] = raised
                undoes_note |= bool(raised and turn and turn.is_noted)
                inbox.breaker.note(name, failed=name in errors)
    except Exception as error:  # of the host's teardown functions
        errors[""] = error
    for _, other in turns.failures:  # of teardown functions after a failure
        if other not in errors.values() and not isinstance(other, RetryLater | Discard):
            errors[""] = other
    had_by = current.had_by if undoes_note else _noted(inbox, current.had_by)
    if is_marked and errors:  # of teardown functions, after the last one has had it
        for name, failure in errors.items():
            DELIVERY.error(
                "%s: after message %d was done\n%s",
                inbox.source,
                row.id,
                trace(failure),
                extra=about(
                    inbox.source, message=row.id, subscriber=name, attempt=row.attempts + 1
                ),
            )
    elif errors:
        outcome = failed(inbox, row, message, report, errors, had_by)
        return outcome._replace(undoes_note=undoes_note)
    if waits:
        seconds, name = min(waits)
        # To the tenth of a second, so that those that wait for the same are marked together.
        due_at = round(time.time() + seconds, 1)
        return Outcome(
            row,
            State.WAITING,
            row.attempts,
            due_at,
            had_by,
            failed_by=name,
            undoes_note=undoes_note,
        )
    return Outcome(row, State.DONE, row.attempts + 1, is_marked=is_marked)


def tell_of_attempt(inbox: BoundInbox, outcome: Outcome, report: DeliveryReport) -> None:
    """Tell of it whoever counts."""
    if not message_attempted.receivers:
        return
    name = {State.DONE: "done", State.DEAD: "dead"}.get(outcome.state)
    waited = None
    if not outcome.message.attempts and report.received_at:
        waited = time.time() - report.received_at.timestamp()
    observe(
        message_attempted,
        inbox.app,
        source=inbox.source,
        outcome=name or ("retry" if outcome.error else "later"),
        waited=waited,
    )


def _turn(host: HostDatabase, current: Attempt, name: str, *, is_last: bool) -> Turn:
    """A subscriber's turn in the host's own transaction."""

    def note(connection: Connection) -> bool:
        now, had_by = time.time(), (*current.had_by, name)
        return messages.note(
            connection,
            current.token,
            current.row,
            had_by,
            is_last=is_last,
            now=now,
            until=now + CLAIM,
        )

    return host.turn(note)


def _noted(inbox: BoundInbox, had_by: tuple[str, ...]) -> tuple[str, ...] | None:
    """Who has had a message, but where the notes in the host's own transactions say so.

    What a subscriber has committed by the time that an outcome is marked, only they know.
    """
    return had_by if inbox.host is None else None


def _warn_of_lost(inbox: BoundInbox, row: Claimed) -> None:
    DELIVERY.warning(
        "%s: the claim of message %d had ended before its outcome was marked; it may have been"
        " taken for left by a dead process, and dispatched again",
        inbox.source,
        row.id,
        extra=about(inbox.source, message=row.id, attempt=row.attempts + 1),
    )


def failed(
    inbox: BoundInbox,
    row: Claimed,
    message: MessageReport | None,
    report: DeliveryReport,
    errors: Mapping[str, Exception],
    had_by: tuple[str, ...] | None,
) -> Outcome:
    """The outcome of an attempt in which subscribers raised, by their names."""
    options = inbox.options
    attempts = row.attempts + 1
    name = next(iter(errors))
    text = describe(errors.values(), message, report)
    keys = {name: troubles.key_of(name, error) for name, error in errors.items()}
    traces = _first_traces(inbox, errors, keys)
    now = time.time()
    new = [
        Failure(now, attempts, name, describe([error], message, report), keys[name])
        for name, error in errors.items()
    ]
    outcome = Outcome(
        row,
        State.DEAD,
        attempts,
        had_by=had_by,
        failed_by=name,
        error=text,
        error_key=keys[name],
        failures=(*row.failures, *new)[-_FAILURES_KEPT:],
        traces=traces,
    )
    next_one = "it is dead"
    if attempts < options.max_attempts:
        # Exponential backoff with full jitter.
        longest = min(options.max_backoff, options.backoff * 2.0 ** min(attempts - 1, 50))
        delay = random.uniform(0, longest)  # noqa: S311
        outcome = outcome._replace(state=State.WAITING, due_at=now + delay)
        next_one = f"the next one in {delay:.0f} s"
    bulk, to = report.bulk_id, message.to if message else None
    DELIVERY.error(
        "%s: message %d (bulk %s, to ***%s) failed at %s, attempt %d of %d, %s: %s%s",
        inbox.source,
        row.id,
        ascii(bulk[:200]) if bulk else "-",
        ascii((to or "")[-4:])[1:-1],
        name or "the end of its context",
        attempts,
        options.max_attempts,
        next_one,
        text,
        "".join(f"\n{where}" for _, where in traces),
        extra=about(inbox.source, message=row.id, subscriber=name, attempt=attempts),
    )
    return outcome


def unfinished(inbox: BoundInbox, row: Claimed) -> Outcome:
    """The outcome of an attempt that ended its thread: it counts, because it may do so again."""
    attempts = row.attempts + 1
    is_dead = attempts >= inbox.options.max_attempts
    state = State.DEAD if is_dead else State.WAITING
    had_by = _noted(inbox, row.had_by)
    return Outcome(row, state, attempts, time.time(), had_by, None, messages.LOST)


def tell_of_dead(
    inbox: BoundInbox,
    outcome: Outcome,
    message: MessageReport | None,
    report: DeliveryReport,
) -> None:
    """Send :data:`~flask_ants_dr.message_dead`, where an outcome says so."""
    if outcome.state is not State.DEAD:
        return
    turns = Turns(inbox.app, inbox.transaction)
    with suppress(Exception), inbox.app.app_context(), turns:
        turns.send(
            message_dead,
            message=message,
            report=report if message else None,
            error=outcome.error,
            attempts=outcome.attempts,
            source=inbox.source,
            id=outcome.message.id,
        )
        log_raised(inbox, turns.failures, message=outcome.message.id, attempt=outcome.attempts)


def log_raised(
    inbox: BoundInbox,
    failures: Iterable[tuple[str, Exception]],
    *,
    message: int | None = None,
    attempt: int | None = None,
) -> None:
    """Log what subscribers raised whose turn it was but once."""
    for name, error in failures:
        DELIVERY.error(
            "%s: a subscriber raised\n%s",
            inbox.source,
            trace(error),
            extra=about(inbox.source, message=message, subscriber=name, attempt=attempt),
        )


def _first_traces(
    inbox: BoundInbox, errors: Mapping[str, Exception], keys: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Where errors were raised, the first time for errors of their kind, by their keys."""
    first = [name for name in errors if keys[name] not in inbox.kinds_of_errors]
    for name in first:
        if len(inbox.kinds_of_errors) < _KINDS_OF_ERRORS:
            inbox.kinds_of_errors.add(keys[name])
    return tuple((keys[name], trace(errors[name])) for name in first)
