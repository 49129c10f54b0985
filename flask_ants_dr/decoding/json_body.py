"""JSON to payload."""

from __future__ import annotations

import json
from decimal import Decimal
from decimal import InvalidOperation
from typing import Any

from ..errors import MalformedBody
from .limits import MAX_DEPTH
from .limits import too_deep
from .text import storable

# Beyond it a number means nothing here, and turning it into an int takes more than linear time. (A
# messageId of ANTS has at most 200 characters.)
MAX_DIGITS = 1000
_KEPT_NUMBERS = 1000
_KEPT_CHARACTERS = 20
_OUT_OF_RANGE = Decimal("NaN")

# The shortest detail takes 10 characters for each of its values. A body of [],[],[] takes three,
# and dozens of times its size in memory.
_CHARACTERS_OF_A_VALUE = 8
_FREE_VALUES = 10_000

_CONTAINERS = dict, list


def parse_json(text: str) -> Any:
    """Parse JSON without losing a digit; of members of the same name the last one counts.

    :param text: the text of the body.
    :return: dicts, lists, strings, integers, booleans, ``None``, and :class:`~decimal.Decimal` for
        every other number. Also for ``NaN`` and ``Infinity``, which .NET writes although JSON has
        none, so that they cost only the message that they stand in; integers of more than 1,000
        digits and exponents beyond that are ``NaN``. Control characters that stand in a string as
        they are, which JSON forbids, are taken.
    :raises MalformedBody: it is not JSON, or nested too deep for Python to read it.
    """
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        reason, *_ = error.msg.partition(": ")
        raise MalformedBody(
            f"The body is not JSON: {reason}, line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise too_deep() from None


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else _OUT_OF_RANGE


class _Numbers(dict[str, Decimal]):
    """Numbers by how they are written: the credits of messages are nearly always the same few."""

    def __missing__(self, literal: str) -> Decimal:
        try:
            number = Decimal(literal)
        except InvalidOperation:  # an exponent of more than 18 digits
            return _OUT_OF_RANGE
        if not -MAX_DIGITS < number.adjusted() < MAX_DIGITS:
            return _OUT_OF_RANGE
        if len(self) < _KEPT_NUMBERS and len(literal) <= _KEPT_CHARACTERS:
            self[literal] = number
        return number


_numbers = _Numbers()
#: Reads a number that is not whole.
decimal = _numbers.__getitem__
_decoder = json.JSONDecoder(
    parse_int=_integer, parse_float=decimal, parse_constant=Decimal, strict=False
)


def with_storable_texts(payload: Any, text: str) -> Any:
    """A payload whose every string a database can store, which :func:`~.text.storable` sees to.

    :param payload: what was read, nested no deeper than :func:`check_structure` allows.
    :param text: what it was read from: it tells whether there is anything to see to.
    """
    # Of surrogates there are none as they are, and nearly all that are escaped are pairs.
    escapes = ("\\u0000", "\\ud", "\\uD") if "\\" in text else ()
    if "\0" in text or any(escape in text for escape in escapes):
        return _storable(payload)
    return payload


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(name): _storable(item) for name, item in value.items()}
        case list():
            return [_storable(item) for item in value]
    return value


def check_structure(payload: Any, text: str) -> None:
    """Refuse what is nested too deep or has suspiciously many values, without recursion.

    :param text: what the payload was read from.
    :raises MalformedBody: it is nested more than 32 levels deep, or has far more values than a
        delivery report of its size.
    """
    if len(text) < _FREE_VALUES and text.count("{") + text.count("[") <= MAX_DEPTH:
        return  # what is so small can be neither
    level: list[Any] = [[payload]]
    values = 0
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]
        values += sum(map(len, level))
        if not level:
            break
    else:
        raise too_deep()
    if values > _FREE_VALUES + len(text) // _CHARACTERS_OF_A_VALUE:
        raise MalformedBody("The body has far more values than a delivery report of its size.")
