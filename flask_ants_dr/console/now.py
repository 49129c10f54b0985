"""Now: what comes in, how it is answered, and who works on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC
from datetime import datetime
from datetime import timedelta

from werkzeug.wrappers import Response as AnyResponse

from ..inbox import CallbackCount
from . import charts
from . import ranges
from . import tables
from .page import current_inbox
from .page import render
from .page import status

_RANGES = ("1h", "24h")

_SILENCE = timedelta(minutes=15)
"""From what time on it is said that nothing comes."""

_TAKEN = 200

_COLUMNS: tables.Columns = {
    "answer": lambda count: count.status,
    "callbacks": lambda count: count.callbacks,
    "last": lambda count: count.last_at,
    "average_bytes": lambda count: round(count.size / count.callbacks),
    "average_seconds": lambda count: round(count.seconds / count.callbacks, 4),
    "slowest_seconds": lambda count: round(count.slowest, 4),
}


def show() -> str | AnyResponse:
    inbox, now = current_inbox(), datetime.now(UTC)
    range_ = ranges.chosen("1h", _RANGES)
    since = ranges.begin(range_, now)
    counted = inbox.figures.callbacks(since, by=("start", "status"))
    answers = _by_answer(counted)
    if tables.wants_csv():
        return tables.as_csv("callbacks", answers, _COLUMNS)
    starts = charts.spans(since, now, inbox.figures.width(since))
    taken, refused = (
        charts.by_start(
            (one.start, one.callbacks) for one in counted if (one.status == _TAKEN) is is_taken
        )
        for is_taken in (True, False)
    )
    throughput = charts.over_time(starts, {"taken": taken, "refused": refused})
    found = status()
    answers_since = found["refused_by_answer"]
    last = found["last_callback_at"] and datetime.fromisoformat(found["last_callback_at"])
    return render(
        "now.html",
        status=found,
        workers=[
            one | {name: datetime.fromisoformat(one[name]) for name in ("since", "seen_at")}
            for one in found["workers"]
        ],
        answers=answers,
        throughput=throughput,
        range_names=_RANGES,
        range_=range_,
        last=last,
        refused_by=max(answers_since, key=answers_since.__getitem__, default=None),
        silence=now - last if last and now - last > _SILENCE else None,
    )


def _by_answer(counted: Iterable[CallbackCount]) -> list[CallbackCount]:
    """The counts of all spans together."""
    by_status: dict[int, list[CallbackCount]] = defaultdict(list)
    for one in counted:
        by_status[one.status or 0].append(one)
    return [
        CallbackCount(
            status=status,
            callbacks=sum(one.callbacks for one in counts),
            size=sum(one.size for one in counts),
            seconds=sum(one.seconds for one in counts),
            slowest=max(one.slowest for one in counts),
            last_at=max(one.last_at for one in counts),
        )
        for status, counts in sorted(by_status.items())
    ]
