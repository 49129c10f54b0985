"""What subscribers raised, in words that repeat no value of the message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from traceback import format_tb
from typing import Any

from ..models import MessageReport

_ERROR_CHARACTERS = 500


def describe(failures: Iterable[Exception], message: MessageReport | None) -> str:
    """The types and messages of errors, masked, short and fit for a database."""
    text = "; ".join(f"{type(error).__name__}: {error}" for error in failures)
    return re.sub("[\0\ud800-\udfff]", "?", mask(text, message))[:_ERROR_CHARACTERS]


def trace(error: Exception) -> str:
    """Where an error was raised: lines of code, which hold no values, and its type."""
    return "".join([*format_tb(error.__traceback__), type(error).__name__])


def mask(text: str, message: MessageReport | None) -> str:
    """A text with ``***`` for what it repeats of a message."""
    if message is None:
        return text
    values = (message.to, message.text, message.callback_data, message.status.description)
    found = {value for value in (*values, *_strings(message.extra)) if value}
    if message.to and len(message.to) >= 8:
        found.add(message.to[-8:])  # as in a number that is written without its country code
    if not found:
        return text
    longest_first = sorted(found, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), "***", text)


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for item in value.values():
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)
