"""What the page shows: of the messages' states from the inbox's ledger, of the rest from the
records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta

from flask_ants_dr import DeliveryState
from flask_ants_dr.inbox import Entry
from flask_ants_dr.inbox import Ledger

from . import records

PAGE = 25
"""How many messages are listed at first, and how many more each time."""

RANGES = {"5m": (10, 30), "1h": (120, 30), "1d": (3600, 24)}
"""What the chart over time can show: the seconds of one bar, and how many there are."""

EDGES = (1, 2, 5, 10, 15, 20, 30, 60, 300, 3600)
"""Where the histogram's bars end, in seconds. The last one has no end."""

OVERDUE = timedelta(seconds=15)
"""For a demo that is soon over. Operators take minutes, and a phone that is off takes days."""

GROUPS: Mapping[str, tuple[DeliveryState | None, ...]] = {
    "delivered": (DeliveryState.DELIVERED,),
    "failed": (DeliveryState.UNDELIVERED, DeliveryState.EXPIRED, DeliveryState.REJECTED),
    "underway": (None, DeliveryState.ACCEPTED, DeliveryState.PENDING),
    "other": (DeliveryState.COMPLETED, DeliveryState.UNKNOWN),
}
GROUP_OF = {state: group for group, states in GROUPS.items() for state in states}


@dataclass(frozen=True, slots=True)
class Message:
    """What is known of one: the ledger's entry, and all that was reported."""

    entry: Entry
    reports: Sequence[sqlite3.Row] = ()

    @property
    def key(self) -> tuple[str, str]:
        return records.key(self.entry.message_id, self.entry.to)

    @property
    def sent_at(self) -> datetime | None:
        return self.entry.send_date or self.entry.expected_at

    @property
    def seconds(self) -> float | None:
        """From send to done."""
        if self.entry.send_date is None or self.entry.done_date is None:
            return None
        return (self.entry.done_date - self.entry.send_date).total_seconds()

    @property
    def text(self) -> str:
        return next((one["text"] for one in reversed(self.reports) if one["text"]), "")

    @property
    def problems(self) -> dict[str, str]:
        """Why members could not be read, by their names."""
        found: dict[str, str] = {}
        for report in self.reports:
            found |= json.loads(report["problems"])
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    counts: Mapping[DeliveryState | None, int]
    """By state; ``None`` for what was sent and nothing is reported of."""
    overdue: int
    median: float | None
    """Seconds from send to done."""
    percentile_95: float | None
    histogram: Sequence[int]
    """One number for each of :data:`EDGES`, and one for what took longer."""
    over_time: Mapping[str, Sequence[int]]
    """By group: one number for each bar, the oldest first."""
    start: float
    """When the first bar begins."""
    messages: Sequence[Message]
    has_more: bool

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def delivery_rate(self) -> float | None:
        """The delivered ones among those that have come to an end."""
        ended = sum(count for state, count in self.counts.items() if state and state.is_final)
        return self.counts[DeliveryState.DELIVERED] / ended if ended else None


def figures(
    ledger: Ledger,
    now: float,
    *,
    range_: str = "5m",
    state: DeliveryState | None = None,
    message_id: str | None = None,
    bulk_id: str | None = None,
    show: int = PAGE,
) -> Figures:
    """Read everything.

    :param now: seconds since 1970.
    :param range_: one of :data:`RANGES`.
    :param state: of the messages that are listed.
    :param message_id: of them.
    :param bulk_id: of them.
    :param show: how many are listed, at most: those that changed last.
    """
    width, bars = RANGES[range_]
    start = (now // width - bars + 1) * width
    found = ledger.find(state=state, message_id=message_id, bulk_id=bulk_id, limit=show + 1)
    with records.transaction() as database:
        return Figures(
            counts=ledger.counts(),
            overdue=ledger.count_overdue(OVERDUE),
            median=_percentile(database, 0.5),
            percentile_95=_percentile(database, 0.95),
            histogram=_histogram(database),
            over_time=_over_time(ledger, start, width, bars),
            start=start,
            messages=[_message(database, entry) for entry in found[:show]],
            has_more=len(found) > show,
        )


def message(ledger: Ledger, message_id: str, end: str) -> Message | None:
    """A message by the key of the records."""
    with records.transaction() as database:
        for entry in ledger.find(message_id=message_id):
            if (found := _message(database, entry)).key[1] == end:
                return found
    return None


def _message(database: sqlite3.Connection, entry: Entry) -> Message:
    return Message(entry, records.history(database, entry.message_id, entry.to))


def _percentile(database: sqlite3.Connection, share: float) -> float | None:
    """By the nearest rank."""
    row = database.execute(
        "SELECT seconds FROM example_history WHERE seconds >= 0 ORDER BY seconds LIMIT 1 OFFSET"
        " (SELECT max(0, ceil(count(*) * ?) - 1) FROM example_history WHERE seconds >= 0)",
        (share,),
    ).fetchone()
    return float(row["seconds"]) if row else None


def _histogram(database: sqlite3.Connection) -> list[int]:
    bar = " ".join(f"WHEN seconds < {edge} THEN {bar}" for bar, edge in enumerate(EDGES))
    rows = database.execute(
        f"SELECT CASE {bar} ELSE {len(EDGES)} END AS bar, count(*)"  # noqa: S608  # numbers of ours
        " FROM example_history WHERE seconds >= 0 GROUP BY bar"
    )
    found = dict(map(tuple, rows))
    return [found.get(bar, 0) for bar in range(len(EDGES) + 1)]


def _over_time(ledger: Ledger, start: float, width: int, bars: int) -> dict[str, list[int]]:
    counted = []
    for bar in range(bars):
        since = datetime.fromtimestamp(start + bar * width, UTC)
        # The last one has no end: the clock may have been set back since.
        until = since + timedelta(seconds=width) if bar < bars - 1 else None
        counted.append(ledger.counts(since=since, until=until))
    return {
        group: [sum(counts[state] for state in states) for counts in counted]
        for group, states in GROUPS.items()
    }
