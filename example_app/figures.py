"""What the page shows: numbers from the records, all of them of one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask_ants_dr import DeliveryState

from . import records

PAGE = 25
"""How many messages are on one page."""

RANGES = {"5m": (10, 30), "1h": (120, 30), "1d": (3600, 24)}
"""What the chart over time can show: the seconds of one bar, and how many there are."""

EDGES = (1, 2, 5, 10, 15, 20, 30, 60, 300, 3600)
"""Where the histogram's bars end, in seconds. The last one has no end."""

GROUPS: Mapping[str, tuple[DeliveryState, ...]] = {
    "delivered": (DeliveryState.DELIVERED,),
    "failed": (DeliveryState.UNDELIVERED, DeliveryState.EXPIRED, DeliveryState.REJECTED),
    "underway": (DeliveryState.ACCEPTED, DeliveryState.PENDING),
    "other": (DeliveryState.COMPLETED, DeliveryState.UNKNOWN),
}
GROUP_OF = {state: group for group, states in GROUPS.items() for state in states}

_FILTERS = {
    "state": "state = ?",
    "sender": "sender = ? COLLATE NOCASE",
    # By its beginning, which is all that the page shows of it.
    "bulk": "instr(bulk_id, ?) = 1",
}

Place = tuple[float, int]
"""Of a message in the list, which has the latest change first: when it changed, and its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    by_state: Mapping[DeliveryState, int]
    median: float | None
    """Seconds from send to done."""
    percentile_95: float | None
    histogram: Sequence[int]
    """One number for each of :data:`EDGES`, and one for what took longer."""
    over_time: Mapping[str, Sequence[int]]
    """By group: one number for each bar, the oldest first."""
    start: float
    """When the first bar begins."""
    senders: Sequence[str]
    messages: Sequence[sqlite3.Row]
    has_more: bool

    @property
    def total(self) -> int:
        return sum(self.by_state.values())

    @property
    def delivery_rate(self) -> float | None:
        """The delivered ones among those that have come to an end."""
        ended = sum(count for state, count in self.by_state.items() if state.is_final)
        return self.by_state[DeliveryState.DELIVERED] / ended if ended else None


def figures(
    now: float,
    *,
    range_: str = "5m",
    filters: Mapping[str, str] | None = None,
    before: Place | None = None,
) -> Figures:
    """Read everything.

    :param now: seconds since 1970.
    :param range_: one of :data:`RANGES`.
    :param filters: which messages are listed: by ``state``, ``sender`` and ``bulk``.
    :param before: list what comes after this place, and not from the beginning.
    """
    width, bars = RANGES[range_]
    start = (now // width - bars + 1) * width
    with records.transaction() as database:
        listed = _latest(database, filters or {}, before)
        return Figures(
            by_state=_by_state(database),
            median=_percentile(database, 0.5),
            percentile_95=_percentile(database, 0.95),
            histogram=_histogram(database),
            over_time=_over_time(database, start, width, bars),
            start=start,
            senders=_senders(database),
            messages=listed[:PAGE],
            has_more=len(listed) > PAGE,
        )


def message(id: int) -> tuple[sqlite3.Row, list[sqlite3.Row], list[sqlite3.Row]] | None:
    """A message, all that was reported on it, in the order in which it came, and what of that could
    not be read."""
    with records.transaction() as database:
        found = database.execute("SELECT * FROM example_messages WHERE id = ?", (id,)).fetchone()
        reports = database.execute(
            "SELECT * FROM example_reports WHERE message = ? ORDER BY id", (id,)
        ).fetchall()
        problems = database.execute(
            "SELECT * FROM example_problems WHERE message = ? ORDER BY member", (id,)
        ).fetchall()
    return found and (found, reports, problems)


def _by_state(database: sqlite3.Connection) -> dict[DeliveryState, int]:
    rows = database.execute("SELECT state, count(*) FROM example_messages GROUP BY state")
    found = dict(map(tuple, rows))
    return {state: found.get(state, 0) for state in DeliveryState}


def _percentile(database: sqlite3.Connection, share: float) -> float | None:
    """By the nearest rank."""
    row = database.execute(
        "SELECT seconds FROM example_messages WHERE seconds >= 0 ORDER BY seconds LIMIT 1 OFFSET"
        " (SELECT max(0, ceil(count(*) * ?) - 1) FROM example_messages WHERE seconds >= 0)",
        (share,),
    ).fetchone()
    return float(row["seconds"]) if row else None


def _histogram(database: sqlite3.Connection) -> list[int]:
    bar = " ".join(f"WHEN seconds < {edge} THEN {bar}" for bar, edge in enumerate(EDGES))
    rows = database.execute(
        f"SELECT CASE {bar} ELSE {len(EDGES)} END AS bar, count(*)"  # noqa: S608  # numbers of ours
        " FROM example_messages WHERE seconds >= 0 GROUP BY bar"
    )
    found = dict(map(tuple, rows))
    return [found.get(bar, 0) for bar in range(len(EDGES) + 1)]


def _over_time(
    database: sqlite3.Connection, start: float, width: int, bars: int
) -> dict[str, list[int]]:
    counts = {group: [0] * bars for group in GROUPS}
    rows = database.execute(
        "SELECT state, CAST((recorded_at - ?) / ? AS INTEGER) AS bar, count(*) AS count"
        " FROM example_messages WHERE recorded_at >= ? GROUP BY state, bar",
        (start, width, start),
    )
    for row in rows:
        # The clock may have been set back since.
        counts[GROUP_OF[DeliveryState(row["state"])]][min(row["bar"], bars - 1)] += row["count"]
    return counts


def _senders(database: sqlite3.Connection) -> list[str]:
    rows = database.execute(
        "SELECT DISTINCT sender FROM example_messages ORDER BY sender LIMIT 200"
    )
    return [row["sender"] for row in rows]


def _latest(
    database: sqlite3.Connection, filters: Mapping[str, str], before: Place | None
) -> list[sqlite3.Row]:
    """One more than fits on the page, if there are more."""
    conditions = [_FILTERS[name] for name in filters]
    parameters: list[Any] = list(filters.values())
    if before is not None:
        # A place and no number: what arrives meanwhile pushes nothing from page to page.
        conditions.append("(recorded_at, id) < (?, ?)")
        parameters += before
    where = " AND ".join(conditions) or "true"
    return database.execute(
        "SELECT *, id IN (SELECT message FROM example_problems) AS is_partly_read"  # noqa: S608
        f" FROM example_messages WHERE {where}"  # conditions of ours
        " ORDER BY recorded_at DESC, id DESC LIMIT ?",
        (*parameters, PAGE + 1),
    ).fetchall()
