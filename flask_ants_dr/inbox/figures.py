"""What is counted as it comes, so that nobody has to count rows: callbacks by answer, messages by
sender, state and time.

Each process counts by itself, and adds what it has to the tables every 10 seconds at most. So one
that is killed takes the counts of its last 10 seconds with it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import TYPE_CHECKING
from typing import Any
from weakref import WeakSet

from flask import Flask
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import RowMapping
from sqlalchemy import Table
from sqlalchemy import case
from sqlalchemy import delete
from sqlalchemy import func
from sqlalchemy import select

from ..errors import InboxUnavailable
from ..models import DeliveryReport
from ..models import DeliveryState
from ..models import MessageReport
from ..observation import callback_answered
from ..observation import messages_accepted
from .dialects import upsert
from .tables import callback_counts
from .tables import message_counts
from .threads import OneThread

if TYPE_CHECKING:
    from .inbox import BoundInbox

EVERY = 10.0
"""Seconds from a count to its place in the tables, at most."""

TOOK = (1, 2, 5, 10, 30, 60, 300, 3600)
"""Seconds from send to done: the upper bounds that messages are counted under."""
LONGER = 0
UNTOLD = -1
_BOUNDS = (*TOOK, LONGER)

_MINUTE = 60
_HOUR = 3600
_MINUTES_ARE_KEPT = timedelta(hours=6)

_SENDER_CHARACTERS = 50
# The names of senders are theirs who send: so many in an hour, in each process.
_SENDERS = 100
_OTHER_SENDERS = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackCount:
    """How many callbacks had an answer."""

    start: datetime | None = None
    """The beginning of the span, in UTC, where they are counted by it."""
    status: int | None = None
    """Of the answer, where they are counted by it."""
    callbacks: int
    size: int
    """The bytes of all their bodies, as their ``Content-Length`` says."""
    seconds: float
    """Until the answer, of all together."""
    slowest: float
    """The most seconds that one took."""
    last_at: datetime
    """When the last one was answered, in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCount:
    """How many messages were reported. One that is reported with two states counts twice."""

    start: datetime | None = None
    """The beginning of the span, in UTC, where they are counted by it."""
    sender: str | None = None
    """Its first 50 characters, where they are counted by it. ``"*"`` for all beyond 100 an hour."""
    state: DeliveryState | None = None
    """Where they are counted by it."""
    took: int | None = None
    """The seconds from send to done, at most: one of
    :data:`~flask_ants_dr.inbox.figures.TOOK`; 0 if it took longer, and -1 where it is not final or
    not known."""
    messages: int


class Figures:
    """What was counted of one inbox: ``blueprint.inbox.figures``."""

    def __init__(self, inbox: BoundInbox) -> None:
        self._inbox = inbox
        self.reset()
        _all.add(self)
        callback_answered.connect(self._count_answer, sender=inbox.app)
        messages_accepted.connect(self._count_messages, sender=inbox.app)

    def reset(self) -> None:
        """Forget what is not written: after a fork it is the parent's."""
        self._lock = threading.Lock()
        self._callbacks: dict[tuple[int, int], list[Any]] = {}
        self._messages: Counter[tuple[int, str, str, int]] = Counter()
        self._senders: set[str] = set()
        self._hour = 0

    def width(self, since: datetime) -> int:
        """How many seconds the spans have in which there are counts since a time."""
        return _width(since)

    def callbacks(self, since: datetime, *, by: Sequence[str] = ("status",)) -> list[CallbackCount]:
        """How many callbacks were answered since a time.

        :param since: the beginning, aware; with the whole span that it is in.
        :param by: what they are counted by: ``"start"`` and ``"status"``.
        :raises InboxUnavailable: the database failed.
        """
        counts = callback_counts.c
        sums: list[ColumnElement[Any]] = [
            func.sum(counts.callbacks).label("callbacks"),
            func.sum(counts.bytes).label("bytes"),
            func.sum(counts.seconds).label("seconds"),
            func.max(counts.slowest).label("slowest"),
            func.max(counts.last_at).label("last_at"),
        ]
        return [
            CallbackCount(
                **_group(row),
                callbacks=int(row["callbacks"]),
                size=int(row["bytes"]),
                seconds=float(row["seconds"]),
                slowest=float(row["slowest"]),
                last_at=datetime.fromtimestamp(row["last_at"], UTC),
            )
            for row in self._read(callback_counts, since, by, sums)
        ]

    def messages(self, since: datetime, *, by: Sequence[str] = ("state",)) -> list[MessageCount]:
        """How many messages were reported since a time.

        :param since: the beginning, aware; with the whole span that it is in.
        :param by: what they are counted by: ``"start"``, ``"sender"``, ``"state"`` and ``"took"``.
        :raises InboxUnavailable: the database failed.
        """
        sums: list[ColumnElement[Any]] = [func.sum(message_counts.c.messages).label("messages")]
        return [
            MessageCount(**_group(row), messages=int(row["messages"]))
            for row in self._read(message_counts, since, by, sums)
        ]

    def flush(self) -> None:
        """Write what this process has counted, without waiting for its time.

        What cannot be written now is so later.
        """
        with self._lock:
            callbacks, self._callbacks = self._callbacks, {}
            messages, self._messages = self._messages, Counter()
        if not (callbacks or messages):
            return
        source = self._inbox.source
        counted: Counter[tuple[int, int, str, str, int]] = Counter()
        for (minute, sender, state, took), count in messages.items():
            for width in (_MINUTE, _HOUR):
                counted[(width, minute - minute % width, sender, state, took)] += count
        # In one order, so that two processes do not wait for each other.
        callback_rows = [
            dict(zip(callback_counts.c.keys(), (source, *key, *sums), strict=True))
            for key, sums in sorted(_wider(callbacks).items())
        ]
        message_rows = [
            dict(zip(message_counts.c.keys(), (source, *key, count), strict=True))
            for key, count in sorted(counted.items())
        ]

        def write(connection: Connection) -> None:
            if callback_rows:
                upsert(connection, callback_counts, callback_rows, _add_callbacks)
            if message_rows:
                upsert(connection, message_counts, message_rows, _add_messages)

        try:
            self._inbox.database.run(write, durable=False)
        except InboxUnavailable:
            with self._lock:
                for key, sums in callbacks.items():
                    self._add(key, sums)
                self._messages += messages
            self._plan()

    def _count_answer(
        self, app: Flask, *, source: str, status: int, size: int, seconds: float
    ) -> None:
        if source != self._inbox.source:
            return
        now = time.time()
        with self._lock:
            self._add((_minute(now), status), [1, size, seconds, seconds, now])
        self._plan()

    def _count_messages(
        self, app: Flask, *, report: DeliveryReport, messages: Sequence[MessageReport], invalid: int
    ) -> None:
        if report.source != self._inbox.source or not messages:
            return
        minute = _minute(time.time())
        with self._lock:
            if self._hour != minute // _HOUR:
                self._hour = minute // _HOUR
                self._senders.clear()
            status, state, is_final = None, "", False
            counted = []
            for message in messages:
                sender = (message.sender or "")[:_SENDER_CHARACTERS]
                if sender not in self._senders:
                    if len(self._senders) >= _SENDERS:
                        sender = _OTHER_SENDERS
                    self._senders.add(sender)
                if message.status is not status:  # most have the one of the message before
                    status = message.status
                    state, is_final = status.state.value, status.state.is_final
                took = _took(message) if is_final else UNTOLD
                counted.append((minute, sender, state, took))
            self._messages.update(counted)
        self._plan()

    def _add(self, key: tuple[int, int], sums: list[Any]) -> None:
        old = self._callbacks.get(key)
        self._callbacks[key] = _together(old, sums) if old else sums

    def _plan(self) -> None:
        if not self.is_written_when_read:
            _writer.add(self)

    @property
    def is_written_when_read(self) -> bool:
        """Whether no thread of its own writes what is counted."""
        # In a host's tests no thread is to write into databases that are gone; and one in memory
        # is in the midst of the host's own transaction.
        return self._inbox.app.testing or self._inbox.database.is_in_memory

    def _read(
        self,
        table: Table,
        since: datetime,
        by: Sequence[str],
        sums: Sequence[ColumnElement[Any]],
    ) -> Sequence[RowMapping]:
        self.settle()
        width = _width(since)
        columns = [table.c[name] for name in by]
        chosen = select(*columns, *sums).where(
            table.c.source == self._inbox.source,
            table.c.width == width,
            table.c.start >= since.timestamp() // width * width,
        )
        grouped = chosen.group_by(*columns).order_by(*columns) if columns else chosen
        with self._inbox.database.begin(writes=False) as connection:
            rows = connection.execute(grouped).mappings().all()
        return [row for row in rows if None not in row.values()]  # of nothing the sum is NULL

    def settle(self) -> None:
        """Write what no thread writes, before it is read."""
        if self.is_written_when_read:
            self.flush()


def last_callback(connection: Connection, source: str) -> tuple[datetime | None, dict[int, int]]:
    """When the last callback was answered with 200, in UTC, and how many were refused since, by
    the status of the answer.
    """
    counts = callback_counts.c
    own = counts.source == source
    taken = select(func.max(counts.last_at)).where(
        own, counts.width == _HOUR, counts.status == _TAKEN
    )
    found = connection.scalar(taken)
    last = found or 0.0
    width = _width(datetime.fromtimestamp(last, UTC))
    refused = select(counts.status, func.sum(counts.callbacks)).where(
        own,
        counts.width == width,
        counts.start >= last // width * width,
        counts.status != _TAKEN,
        counts.last_at > last,
    )
    rows = connection.execute(refused.group_by(counts.status)).all()
    by_status = {status: int(count) for status, count in rows}
    return (datetime.fromtimestamp(found, UTC) if found else None), by_status


def forget(connection: Connection, source: str, before: float, now: float) -> None:
    """Delete the counts of spans that began before a time, and of minutes after six hours."""
    minutes = now - _MINUTES_ARE_KEPT.total_seconds()
    for table in (callback_counts, message_counts):
        for width, oldest in ((_MINUTE, max(before, minutes)), (_HOUR, before)):
            old = (table.c.source == source, table.c.width == width, table.c.start < oldest)
            connection.execute(delete(table).where(*old))


_TAKEN = 200


def _width(since: datetime) -> int:
    is_recent = since > datetime.now(UTC) - _MINUTES_ARE_KEPT
    return _MINUTE if is_recent else _HOUR


def _minute(now: float) -> int:
    return int(now // _MINUTE * _MINUTE)


def _took(message: MessageReport) -> int:
    if not (message.send_date and message.done_date):
        return UNTOLD
    seconds = (message.done_date - message.send_date).total_seconds()
    if seconds < 0:
        return UNTOLD
    return _BOUNDS[bisect_left(TOOK, seconds)]


def _together(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    callbacks, size, seconds, slowest, last_at = zip(old, new, strict=True)
    return [sum(callbacks), sum(size), sum(seconds), max(slowest), max(last_at)]


def _wider(counts: Mapping[tuple[int, int], list[Any]]) -> dict[tuple[int, int, int], list[Any]]:
    """The counts of minutes, and those of the hours that they are in."""
    found: dict[tuple[int, int, int], list[Any]] = {}
    for (minute, status), sums in counts.items():
        for width in (_MINUTE, _HOUR):
            key = (width, minute - minute % width, status)
            found[key] = _together(found[key], sums) if key in found else sums
    return found


def _add_callbacks(new: Any) -> dict[str, ColumnElement[Any]]:
    old = callback_counts.c
    added = {name: old[name] + new[name] for name in ("callbacks", "bytes", "seconds")}
    latest = {
        name: case((new[name] > old[name], new[name]), else_=old[name])
        for name in ("slowest", "last_at")
    }
    return added | latest


def _add_messages(new: Any) -> dict[str, ColumnElement[Any]]:
    return {"messages": message_counts.c.messages + new.messages}


def _group(row: RowMapping) -> dict[str, Any]:
    """What a row is counted by."""
    found = {name: row[name] for name in ("start", "status", "sender", "took") if name in row}
    if "start" in found:
        found["start"] = datetime.fromtimestamp(found["start"], UTC)
    if "state" in row:
        found["state"] = DeliveryState(row["state"])
    return found


class _Writer(OneThread):
    """Writes while there is something to write."""

    def reset(self) -> None:
        super().reset()
        self._waiting: WeakSet[Figures] = WeakSet()

    def add(self, figures: Figures) -> None:
        with self._needed():
            self._waiting.add(figures)

    def _run(self) -> None:
        while True:
            time.sleep(EVERY)
            with self._changed:
                waiting = list(self._waiting)
                self._waiting.clear()
                if not waiting:
                    self._thread = None
                    return
            for figures in waiting:
                figures.flush()
            del waiting

    def write_all(self) -> None:
        for figures in list(self._waiting):
            figures.flush()


_all: WeakSet[Figures] = WeakSet()
_writer = _Writer("ants-dr-figures")
atexit.register(_writer.write_all)


def _forked() -> None:
    _writer.reset()
    for figures in list(_all):
        figures.reset()


if hasattr(os, "register_at_fork"):  # which Windows has not
    os.register_at_fork(after_in_child=_forked)
