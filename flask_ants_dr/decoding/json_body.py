"""JSON to payload."""

from __future__ import annotations

import json
from decimal import Decimal
from decimal import InvalidOperation
from typing import Any

from ..errors import MalformedBody
from .limits import MAX_DEPTH
from .limits import too_deep

# Python's int() takes more than linear time; a messageId of ANTS has at most 200 characters.
_MAX_INTEGER_DIGITS = 1000

_CONTAINERS = dict, list


def parse_json(text: str) -> Any:
    """Parse JSON without losing a digit; of members of the same name the last one counts.

    :param text: the text of the body.
    :return: dicts, lists, strings, integers, booleans, ``None``, and :class:`~decimal.Decimal` for
        every other number: also for integers of more than 1,000 digits, and for ``NaN`` and
        ``Infinity``, which .NET writes although JSON has none, so that they cost only the message
        that they stand in.
    :raises MalformedBody: it is not JSON, or nested more than 32 levels deep.
    """
    try:
        payload = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=Decimal)
    except json.JSONDecodeError as error:
        reason, *_ = error.msg.partition(":")
        raise MalformedBody(
            f"The body is not JSON: {reason}, line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise too_deep() from None
    if _deeper_than(MAX_DEPTH, payload):
        raise too_deep()
    return payload


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else Decimal(digits)


def _number(literal: str) -> Decimal:
    try:
        return Decimal(literal)
    except InvalidOperation:  # an exponent of more than 18 digits
        return Decimal("NaN")


def _deeper_than(limit: int, payload: Any) -> bool:
    """Whether arrays and objects are nested deeper, found without recursion."""
    level: list[Any] = [[payload]]
    for _ in range(limit + 1):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return False
    return True
