"""Long tables: page by page, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from typing import Generic
from typing import Protocol
from typing import TypeVar

from flask import Response
from flask import abort
from flask import request
from flask import stream_with_context

from ..schemas import BANGKOK

ROWS = 50
"""Of one page."""

_CSV_ROWS = 100_000
_PIECE = 1000

# With these a spreadsheet takes a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Columns = Mapping[str, Callable[[Any], object]]
"""What a CSV has of an item, by the names of its columns."""


class Item(Protocol):
    @property
    def cursor(self) -> str:
        """Where it is in its list."""


T = TypeVar("T", bound=Item)
T_co = TypeVar("T_co", bound=Item, covariant=True)


class Fetch(Protocol[T_co]):
    def __call__(self, *, limit: int, cursor: str | None) -> Sequence[T_co]:
        """The items behind the one that has the cursor."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a table, which stays as it is while something new comes in front."""

    items: Sequence[T]
    next: str | None
    """The cursor that the next page begins behind; ``None`` on the last one."""
    is_first: bool


def page(fetch: Fetch[T], rows: int = ROWS) -> Page[T]:
    """The page that the address names by its ``cursor``."""
    cursor = request.args.get("cursor")
    found = _fetch(fetch, rows + 1, cursor)
    items = found[:rows]
    return Page(items, items[-1].cursor if len(found) > rows else None, cursor is None)


def wants_csv() -> bool:
    return request.args.get("format") == "csv"


def every(fetch: Fetch[T]) -> Iterator[T]:
    """The items from the ``cursor`` of the address on, 100,000 at most."""
    cursor = request.args.get("cursor")
    for _ in range(_CSV_ROWS // _PIECE):
        found = _fetch(fetch, _PIECE, cursor)
        yield from found
        if len(found) < _PIECE:
            break
        cursor = found[-1].cursor


def as_csv(name: str, items: Iterable[Any], columns: Columns) -> Response:
    """A table as a file, row by row, for a spreadsheet.

    Times are in Bangkok, with their offset.

    :param name: of the file, without its ending.
    """

    def lines() -> Iterator[str]:
        # Without the mark, Excel takes Thai for another encoding.
        yield "\ufeff" + _line(columns)
        for item in items:
            yield _line(_cell(value(item)) for value in columns.values())

    return Response(
        stream_with_context(lines()),
        mimetype="text/csv",
        headers={"Content-Disposition": f'attachment; filename="ants-dr-{name}.csv"'},
    )


def _fetch(fetch: Fetch[T], limit: int, cursor: str | None) -> Sequence[T]:
    try:
        return fetch(limit=limit, cursor=cursor)
    except ValueError:
        abort(400, "The address has a page that is none.")


def _line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(BANGKOK).isoformat(sep=" ", timespec="seconds")
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
