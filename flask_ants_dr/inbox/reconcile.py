"""What ANTS's Message Logs know, and no callback has brought."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING
from typing import Any

from sqlalchemy import Connection

from ..errors import InboxUnavailable
from ..errors import MessageLogsError
from ..models import Envelope
from ..models import MessageReport
from ..receive import Received
from ..receive import read
from ..receive import receive
from . import callbacks
from . import ledger
from . import messages
from . import quarantine
from . import tasks

if TYPE_CHECKING:
    from .inbox import BoundInbox
    from .message_logs import MessageLogs

REACH = timedelta(hours=48)
"""How far back Message Logs go, by ANTS's documentation."""
GRACE = timedelta(minutes=5)

_TASK = "reconcile"

# Seconds.
_SHORTEST = 1
_OVERLAP = 300  # what two machines' clocks, and what Message Logs know later, may differ by

_TOGETHER = 500  # details, as ANTS recommends for a bulk
_SINGLY = 100
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a reconciliation found. The numbers are of reports, but for ``asked``."""

    asked: int = 0
    """How many requests Message Logs were asked with."""
    found: int = 0
    """How many reports they answered with."""
    new: int = 0
    """How many were handed on, or with ``dry_run`` would be."""
    known: int = 0
    """How many were there already."""
    refused: int = 0
    """How many could not be taken, and are in quarantine."""
    recent: int = 0
    """How many were left, because their callback may still come."""
    mended: int = 0
    """How many of the new ones are of a final state: callbacks that were lost."""


def due(inbox: BoundInbox, every: timedelta) -> bool:
    """Whether it is time, and no other process has taken the turn; this one has it then."""
    return tasks.is_turn(inbox.database, inbox.source, _TASK, every.total_seconds())


def is_configured(inbox: BoundInbox) -> bool:
    """Whether there are credentials for Message Logs."""
    return inbox.registration.settings.api_credentials is not None


def check_setup(inbox: BoundInbox) -> None:
    """:raises MessageLogsError: Message Logs cannot be asked as it is configured."""
    _connect(inbox, lambda: False).close()


def last(connection: Connection, source: str) -> tuple[float | None, int]:
    """When it was done last, in seconds since 1970, and what had to be mended in its last 48
    hours."""
    state = _state(connection, source)
    return state.get("at"), sum(count for _, count in state.get("mended", ()))


def apply(
    inbox: BoundInbox,
    *,
    since: timedelta | None,
    overdue: timedelta | None,
    grace: timedelta,
    dry_run: bool,
    stop: Callable[[], bool],
    progress: Callable[[float], None],
) -> Reconciled:
    """Ask Message Logs, and hand on what is not known.

    :raises MessageLogsError: they cannot be asked. What was handed on before stays.
    """
    now = time.time()
    with inbox.database.begin(writes=False) as connection:
        state = _state(connection, inbox.source)
    oldest = now - REACH.total_seconds()
    with closing(_connect(inbox, stop)) as logs:
        from .message_logs import Stopped

        run = _Run(inbox, logs, now - grace.total_seconds(), stop, dry_run=dry_run)
        if not (dry_run or state.get("is_filled")):
            _fill(inbox, oldest)
        until: float | None = None
        is_done = False
        try:
            start = None if since is None else now - since.total_seconds()
            if overdue is not None:
                start = _ask_for_overdue(run, overdue, oldest, start)
            elif start is None:
                start = state.get("until", oldest)
            if start is not None:
                _ask_for_window(run, max(start, oldest), now, progress)
                if start <= max(state.get("until", oldest), oldest):  # it has left out nothing
                    # What is open may change, however long ago it was sent.
                    until = min(run.open_since, now - _OVERLAP)
            is_done = True
        except Stopped:
            pass  # what is left is for the next time
        finally:
            if not dry_run:
                _note(inbox, run, now if is_done else None, until)
        progress(1.0)
        return run.result()


def _connect(inbox: BoundInbox, stop: Callable[[], bool]) -> MessageLogs:
    try:
        from .message_logs import MessageLogs
    except ImportError as error:
        raise MessageLogsError(f"{error}.") from None
    registration = inbox.registration
    settings, prefix = registration.settings, registration.config_prefix
    if settings.api_credentials is None:
        raise MessageLogsError(
            f"Message Logs need credentials: set {prefix}_API_USERNAME and {prefix}_API_PASSWORD"
            f" to those of your account with ANTS. ({prefix}_API_URL is for a local one.)"
        )
    return MessageLogs(settings.api_url, settings.api_credentials, prefix, stop)


def _state(connection: Connection, source: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(tasks.state(connection, source, _TASK) or "{}")
    return state


def _note(
    inbox: BoundInbox,
    run: _Run,
    done_at: float | None,
    until: float | None,
) -> None:
    now = time.time()
    oldest = now - REACH.total_seconds()
    with inbox.database.begin() as connection:
        state = _state(connection, inbox.source)  # another one may have noted something meanwhile
        mended = [one for one in state.get("mended", ()) if one[0] > oldest]
        state |= {
            "is_filled": True,
            "mended": [*mended, *([[now, run.mended]] if run.mended else [])],
            **({} if done_at is None else {"at": done_at}),
            **({} if until is None else {"until": until}),
        }
        tasks.note_state(connection, inbox.source, _TASK, json.dumps(state))


def _fill(inbox: BoundInbox, since: float) -> None:
    """Note what is the same however a status is reported, where an older release did not."""
    registration, after = inbox.registration, 0
    status_key = callbacks.status_keys(inbox.source)
    while True:
        with inbox.database.begin(writes=False) as connection:
            ids = messages.without_status_key(connection, inbox.source, since, after, _PAGE)
            envelopes = callbacks.loaded(connection, ids)
        if not ids:
            return
        after = ids[-1]
        keys: dict[str, str] = {}
        for envelope in envelopes.values():
            try:
                report = read(registration, envelope).report
            except Exception:  # noqa: S112  # a host's schema can raise anything
                continue
            for key, message in callbacks.by_stored_key(envelope, report).items():
                keys[key] = status_key(message)
        with inbox.database.begin() as connection:
            messages.note_status_keys(connection, keys)


def _ask_for_overdue(
    run: _Run,
    overdue: timedelta,
    oldest: float,
    start: float | None,
) -> float | None:
    """Ask for each overdue message, or return from when on to ask where they are many."""
    since = datetime.fromtimestamp(oldest, UTC)
    entries = run.inbox.ledger.overdue(overdue, since=since, limit=_SINGLY + 1)
    if len(entries) > _SINGLY:
        first = entries[0]
        times = (first.expected_at, first.send_date, first.reported_at)
        begin = min(one.timestamp() for one in times if one is not None) - _OVERLAP
        return begin if start is None else min(begin, start)
    for message_id in dict.fromkeys(one.message_id for one in entries):
        run.hand_on(run.logs.of_message(message_id).reports)
    return start


def _ask_for_window(
    run: _Run,
    start: float,
    now: float,
    progress: Callable[[float], None],
) -> None:
    begin, end = int(start), ceil(now) + _OVERLAP
    windows = [(begin, end)]
    while windows:
        first, last = windows.pop()
        answer = run.logs.between(first, last)
        is_shortest = last - first <= _SHORTEST
        if answer.is_full and not is_shortest:
            middle = (first + last) // 2
            windows += [(middle, last), (first, middle)]
            continue
        run.hand_on(answer.reports)
        if answer.is_full:
            raise MessageLogsError(
                "Message Logs answer with as much as they can for a single second: there may be"
                " more that they do not tell."
            )
        progress((last - begin) / (end - begin))


class _Run:
    """One reconciliation: what it has found so far.

    :param settled: what was done before, in seconds since 1970, no callback is on its way for.
    """

    def __init__(
        self,
        inbox: BoundInbox,
        logs: MessageLogs,
        settled: float,
        stop: Callable[[], bool],
        *,
        dry_run: bool,
    ) -> None:
        self.inbox = inbox
        self.logs = logs
        self.open_since = float("inf")
        """When the first message was sent that there will be more to say of."""
        self.mended = 0
        self._registration = inbox.registration
        self._settled = settled
        self.stop = stop
        self._dry_run = dry_run
        self._found = self._new = self._known = self._refused = self._recent = 0
        # With dry_run nothing is stored that a second window could find.
        self._would_be_new: set[str] = set()

    def result(self) -> Reconciled:
        return Reconciled(
            asked=self.logs.asked,
            found=self._found,
            new=self._new,
            known=self._known,
            refused=self._refused,
            recent=self._recent,
            mended=self.mended,
        )

    def hand_on(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Hand on what is not known of what Message Logs answered.

        :raises Stopped: the process is to end.
        """
        from .message_logs import Stopped
        from .message_logs import details_of

        for report in reports:
            details = details_of(report)
            for start in range(0, len(details), _TOGETHER):
                if self.stop():
                    raise Stopped
                self._take({**report, "details": details[start : start + _TOGETHER]})

    def _take(self, payload: dict[str, Any]) -> None:
        details = payload["details"]
        self._found += len(details)
        envelope = self._envelope(payload)
        try:
            received = read(self._registration, envelope)
        except Exception:  # a host's schema can raise anything
            self._receive(envelope, len(details), [])
            return
        invalid = {one.index for one in received.invalid}
        positions = [index for index in range(len(details)) if index not in invalid]
        reported = received.report.messages
        for message in reported:
            self._note_open(message)
        if len(positions) != len(reported):  # a host's schema has messages of its own
            self._receive(envelope, len(details), reported)
            return
        theirs = [*map(callbacks.status_keys(self.inbox.source), reported)]
        by_key = dict(zip(theirs, reported, strict=True))
        is_known, in_quarantine = self._look_up(envelope, received, by_key)
        new: dict[int, MessageReport] = {}
        for index, key, message in zip(positions, theirs, reported, strict=True):
            if key in is_known:
                self._known += 1
            elif self._is_recent(message):
                self._recent += 1
            else:
                new[index] = message
                is_known.add(key)  # also where it is there twice
                if self._dry_run:
                    self._would_be_new.add(key)
        refused = {
            one.index
            for one in received.invalid
            if callbacks.key_of_detail(envelope, received.report, one) not in in_quarantine
        }
        self._known += len(invalid) - len(refused)
        if chosen := sorted(new.keys() | refused):
            only = self._envelope({**payload, "details": [details[index] for index in chosen]})
            self._receive(only, len(chosen), list(new.values()))

    def _receive(self, envelope: Envelope, count: int, reported: Sequence[MessageReport]) -> None:
        """Hand on reports as the blueprint does.

        :param count: of the details, of which some may not be valid.
        :param reported: the valid ones.
        """
        inbox = self.inbox
        if not reported:
            with inbox.database.begin(writes=False) as connection:
                if quarantine.among_keys(connection, {callbacks.key_of_body(envelope)}):
                    self._known += count
                    return
        taken, refused = len(reported), count - len(reported)
        if not self._dry_run:
            try:
                received = receive(inbox.app, self._registration, envelope)
            except InboxUnavailable:
                raise
            except Exception:  # it is in quarantine, whatever a host's schema has raised
                taken, refused = 0, count
            else:
                taken, refused = received.new or 0, len(received.invalid)
        self._new += taken
        self._refused += refused
        self._known += max(0, count - taken - refused)
        self.mended += min(taken, sum(one.status.state.is_final for one in reported))

    def _envelope(self, payload: Mapping[str, Any]) -> Envelope:
        return Envelope(
            source=self.inbox.source,
            content_type="application/json",
            url_variables={},
            query={},
            received_at=datetime.now(UTC),
            body=json.dumps(payload, default=_number).encode(),
        )

    def _look_up(
        self, envelope: Envelope, received: Received, by_key: Mapping[str, MessageReport]
    ) -> tuple[set[str], set[str]]:
        """Which of the reports, and of the details that are not valid, are there."""
        source = self.inbox.source
        details = {
            callbacks.key_of_detail(envelope, received.report, one) for one in received.invalid
        }
        with self.inbox.database.begin(writes=False) as connection:
            known = messages.among_status_keys(connection, by_key)
            known |= ledger.known(
                connection, source, {key: by_key[key] for key in by_key.keys() - known}
            )
            return known | self._would_be_new, quarantine.among_keys(connection, details)

    def _note_open(self, message: MessageReport) -> None:
        is_open = not message.status.state.is_final or self._is_recent(message)
        if is_open and message.send_date is not None:
            self.open_since = min(self.open_since, message.send_date.timestamp())

    def _is_recent(self, message: MessageReport) -> bool:
        since = message.send_date
        if message.status.state.is_final:
            since = message.done_date or since
        return since is not None and since.timestamp() > self._settled


def _number(number: Decimal) -> float | str:
    """A number as JSON has it, or its digits where that would lose some."""
    short = float(number)
    return short if Decimal(repr(short)) == number else str(number)
