"""What subscribers raised, in words that repeat no value of the message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from itertools import islice
from traceback import format_tb
from typing import Any

from ..escaping import printable
from ..models import DeliveryReport
from ..models import MessageReport

_ERROR_CHARACTERS = 500
_MAX_VALUES = 1000
_FRAMES = 50  # the innermost

# One-time passwords and phone numbers, however they are grouped, and numbers of unknown members.
_DIGITS = re.compile(r"\d(?:[ .-]?\d){3,}")


def describe(
    failures: Iterable[Exception], message: MessageReport | None, report: DeliveryReport
) -> str:
    """The types and messages of errors, masked, short and fit for a database and a log."""
    text = "; ".join(f"{type(error).__name__}: {_message(error)}" for error in failures)
    return printable(mask(text[:10_000], message, report))[:_ERROR_CHARACTERS]


def mask(text: str, message: MessageReport | None, report: DeliveryReport) -> str:
    """A text with ``***`` for what it repeats of a message."""
    said: list[Any] = [report.url_params, report.extra]
    if message is not None:
        said += (message.to, message.sender, message.text, message.callback_data, message.extra)
        said += (message.status.description, message.status.extra)
    found = set(islice(_strings(said), _MAX_VALUES))
    for value in sorted(found, key=len, reverse=True):
        for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
            text = text.replace(form, "***")
    return _DIGITS.sub("***", text)


def trace(error: Exception) -> str:
    """Where an error was raised: lines of code, which hold no values, and its type."""
    return "".join([*format_tb(error.__traceback__, -_FRAMES), type(error).__name__])


def _message(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(without a message)"


def _strings(value: Any) -> Iterator[str]:
    match value:
        case "":
            return
        case str():
            yield value
        case Mapping():
            yield from _strings(list(value.values()))
        case list():
            for item in value:
                yield from _strings(item)
