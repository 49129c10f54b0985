"""Pages of long lists that stay still while something new comes in front."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy import and_
from sqlalchemy import or_

from .tables import LARGEST_ID


def cursor(at: float, id: int) -> str:
    """Where an item is in a list that has the order of a number, a time mostly, and of another."""
    return f"{at!r}-{id}"


def read(cursor: str) -> tuple[float, int]:
    """What :func:`cursor` has written.

    :raises ValueError: it has not.
    """
    try:
        at, id = cursor.rsplit("-", 1)
        place = float(at), int(id)
    except (TypeError, ValueError):
        raise ValueError("cursor must be one that an item of the list has.") from None
    if not (math.isfinite(place[0]) and 0 <= place[1] <= LARGEST_ID):
        raise ValueError("cursor must be one that an item of the list has.")
    return place


def behind(
    at: ColumnElement[Any], id: ColumnElement[Any], cursor: str, *, is_descending: bool = True
) -> ColumnElement[bool]:
    """Whether a row comes after an item.

    :raises ValueError: the cursor is none.
    """
    last_at, last_id = read(cursor)
    if is_descending:
        return and_(at <= last_at, or_(at < last_at, id < last_id))
    return and_(at >= last_at, or_(at > last_at, id > last_id))
