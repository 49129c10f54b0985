"""Figures: what becomes of messages over time, by sender, and how long they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta

from werkzeug.wrappers import Response as AnyResponse

from ..inbox import MessageCount
from ..inbox.figures import LONGER
from ..inbox.figures import TOOK
from ..models import DeliveryState
from . import charts
from . import ranges
from . import tables
from .page import current_inbox
from .page import render

GROUPS: Mapping[str, set[DeliveryState]] = {
    "good": {DeliveryState.DELIVERED},
    "bad": {DeliveryState.UNDELIVERED, DeliveryState.EXPIRED, DeliveryState.REJECTED},
    "underway": {DeliveryState.ACCEPTED, DeliveryState.PENDING},
    "other": {DeliveryState.COMPLETED, DeliveryState.UNKNOWN},
}
"""What is drawn in one colour."""

_COLUMNS: tables.Columns = {
    "from": lambda count: count.start,
    "state": lambda count: count.state,
    "sender": lambda count: count.sender,
    "messages": lambda count: count.messages,
}


@dataclass(frozen=True, slots=True)
class Sender:
    name: str
    final: int
    """How many of its messages have come to an end."""
    delivered: int

    @property
    def rate(self) -> float:
        return self.delivered / self.final


def show() -> str | AnyResponse:
    inbox, now = current_inbox(), datetime.now(UTC)
    range_ = ranges.chosen("24h")
    since = ranges.begin(range_, now)
    if tables.wants_csv():
        counted = inbox.figures.messages(since, by=("start", "sender", "state"))
        return tables.as_csv(f"figures-{range_}", counted, _COLUMNS)
    counted = inbox.figures.messages(since, by=("start", "state"))
    starts = charts.spans(since, now, inbox.figures.width(since))
    by_group = {
        group: charts.by_start((one.start, one.messages) for one in counted if one.state in states)
        for group, states in GROUPS.items()
    }
    took = Counter({one.took: one.messages for one in inbox.figures.messages(since, by=("took",))})
    by_state: Counter[DeliveryState | None] = Counter()
    for one in counted:
        by_state[one.state] += one.messages
    return render(
        "figures.html",
        range_names=ranges.RANGES,
        range_=range_,
        over_time=charts.over_time(starts, by_group),
        by_state=[(state, by_state[state]) for state in DeliveryState if by_state[state]],
        final=sum(count for state, count in by_state.items() if state and state.is_final),
        delivered=by_state[DeliveryState.DELIVERED],
        senders=_senders(inbox.figures.messages(since, by=("sender", "state"))),
        took=charts.bars(
            [*(f"≤ {_short(bound)}" for bound in TOOK), f"> {_short(TOOK[-1])}"],
            {"messages": [took[bound] for bound in (*TOOK, LONGER)]},
            width=charts.WIDTH * 2 // 3,
            every=1,
        ),
        within=[_within(took, percent) for percent in (50, 95)],
        longest=timedelta(seconds=TOOK[-1]),
    )


def _senders(counted: Sequence[MessageCount]) -> list[Sender]:
    """The delivery rate of each, of the largest first."""
    final: Counter[str] = Counter()
    delivered: Counter[str] = Counter()
    for one in counted:
        if one.state and one.state.is_final:
            final[one.sender or ""] += one.messages
            if one.state is DeliveryState.DELIVERED:
                delivered[one.sender or ""] += one.messages
    return [Sender(name, count, delivered[name]) for name, count in final.most_common(100)]


def _within(took: Mapping[int | None, int], percent: int) -> timedelta | None:
    """Within what time so many messages or more were done: a bound that they are counted under.

    It is ``None`` where it was longer than the last one, or nothing is known.
    """
    known = sum(took[bound] for bound in (*TOOK, LONGER))
    for place, bound in enumerate(TOOK, 1):
        if known and sum(took[one] for one in TOOK[:place]) * 100 >= percent * known:
            return timedelta(seconds=bound)
    return None


def _short(seconds: int) -> str:
    """With the symbols of the units, which are the same in both languages."""
    for unit, symbol in ((3600, "h"), (60, "m")):
        if seconds % unit == 0:
            return f"{seconds // unit}{symbol}"
    return f"{seconds}s"
