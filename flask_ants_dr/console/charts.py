"""Charts of stacked bars as SVG, which the stylesheet colours: it knows dark and light."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta

from ..schemas import BANGKOK

WIDTH, HEIGHT = 720, 180
_LEFT, _TOP, _BOTTOM = 56, 8, 22  # for what is written around the bars
_MOST_BARS = 60
_LABELS = 6
_WIDTHS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_GAP = 0.2  # of what a bar has


@dataclass(frozen=True, slots=True)
class Rectangle:
    series: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What the macro ``chart`` of ``parts.html`` draws, in the units of the SVG."""

    rectangles: Sequence[Rectangle]
    lines: Sequence[tuple[float, int]]
    """Where the lines of the scale are, and what for."""
    labels: Sequence[tuple[float, str]]
    """Where something is written below the bars, and what."""
    series: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]
    """The same as a table: each bar with its numbers."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT


def spans(since: datetime, until: datetime, width: int) -> list[datetime]:
    """The beginnings of the bars between two times, 60 of them at most.

    :param width: the seconds that counts are of; a bar has as many, or a multiple.
    """
    least = (until - since).total_seconds() / _MOST_BARS
    wide = next((one for one in _WIDTHS if one >= max(width, least)), _WIDTHS[-1])
    # Days begin in Bangkok.
    offset = BANGKOK.utcoffset(until)
    shift = offset.total_seconds() if offset else 0
    first = (since.timestamp() + shift) // wide * wide - shift
    count = math.floor((until.timestamp() - first) / wide) + 1
    return [datetime.fromtimestamp(first + bar * wide, UTC) for bar in range(count)]


def by_start(counts: Iterable[tuple[datetime | None, int]]) -> Counter[datetime]:
    """Counts by the beginnings of their spans."""
    found: Counter[datetime] = Counter()
    for start, count in counts:
        if start is not None:
            found[start] += count
    return found


def over_time(starts: Sequence[datetime], series: Mapping[str, Counter[datetime]]) -> Chart:
    """Bars for spans of time.

    :param starts: of :func:`spans`.
    :param series: counts by the beginnings of their own spans, the lowest part of a bar first.
    """
    step = starts[1] - starts[0] if len(starts) > 1 else timedelta(hours=1)
    heights = {name: [0] * len(starts) for name in series}
    for name, counts in series.items():
        for start, count in counts.items():
            bar = (start - starts[0]) // step
            if 0 <= bar < len(starts):
                heights[name][bar] += count
    pattern = "%H:%M" if step * len(starts) <= timedelta(days=1, hours=1) else "%d/%m %H:%M"
    if step >= timedelta(days=1):
        pattern = "%d/%m"
    return bars([start.astimezone(BANGKOK).strftime(pattern) for start in starts], heights)


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[int]],
    *,
    width: int = WIDTH,
    every: int | None = None,
) -> Chart:
    """Stacked bars.

    :param labels: one for each bar.
    :param series: the heights of the bars by name, the lowest part first.
    :param width: in the units of the SVG; what is drawn in a narrow place has fewer.
    :param every: which labels are written; as many as there is place for, by default.
    """
    columns = list(zip(*series.values(), strict=True))
    top = _scale(max(map(sum, columns), default=0))
    room, high = (width - _LEFT) / max(len(labels), 1), HEIGHT - _TOP - _BOTTOM
    rectangles = []
    for bar, column in enumerate(columns):
        y = float(HEIGHT - _BOTTOM)
        for name, count in zip(series, column, strict=True):
            if count:
                # What is there can be seen.
                height = max(count / top * high, 1.5)
                y -= height
                x = _LEFT + (bar + _GAP / 2) * room
                rectangles.append(Rectangle(name, *_round(x, y, room * (1 - _GAP), height)))
    every = every or math.ceil(len(labels) / _LABELS)
    return Chart(
        rectangles=rectangles,
        lines=[
            (round(HEIGHT - _BOTTOM - part * high, 1), round(part * top))
            for part in ((0, 0.5, 1) if top % 2 == 0 else (0, 1))
        ],
        labels=[
            (round(_LEFT + (bar + 0.5) * room, 1), label)
            for bar, label in enumerate(labels)
            if bar % every == 0
        ],
        series=list(series),
        width=width,
        rows=[
            (label, column) for label, column in zip(labels, columns, strict=True) if any(column)
        ],
    )


def _scale(highest: int) -> int:
    """A round number that is no less."""
    if highest <= 2:
        return 2
    power: int = 10 ** (len(str(highest)) - 1)
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= highest)


def _round(*values: float) -> list[float]:
    return [round(value, 1) for value in values]
