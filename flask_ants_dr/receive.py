"""An envelope to a report to its subscribers: decode, validate, deliver.

The blueprint receives what is posted, a replay what could not be taken before, and a reconciliation
what no callback brought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from flask import Flask

from .decoding import decode
from .decoding import json_document
from .dispatch import dispatch_report
from .errors import UnsupportedMediaType
from .escaping import printable
from .log import CALLBACK
from .log import about
from .models import DeliveryReport
from .models import Envelope
from .models import InvalidDetail
from .models import MessageReport
from .observation import messages_accepted
from .observation import observe
from .registration import Registration
from .schemas import ReportSchema
from .schemas import validate

if TYPE_CHECKING:
    from .fast import FastSchema

_CONTENT_ENCODINGS = {"br", "compress", "deflate", "gzip", "x-compress", "x-gzip", "zstd"}
_NAMED_MEMBERS = 20


class Received(NamedTuple):
    """What was made of a callback."""

    report: DeliveryReport
    """The valid messages."""
    invalid: Sequence[InvalidDetail]
    """The other details."""
    new: int | None = None
    """How many of the messages the inbox had not; ``None`` without one."""


def fast_schema(schema: ReportSchema, *, max_messages: int) -> FastSchema | None:
    """What reads by a schema faster than it does, or ``None``.

    Then msgspec (extra ``fast``) is not installed, or the schema loads in a way of its own.
    """
    try:
        from .fast import FastSchema
    except ModuleNotFoundError:
        return None
    return FastSchema.of(schema, max_messages=max_messages)


def receive(
    app: Flask, registration: Registration, envelope: Envelope, *, callback_id: int | None = None
) -> Received:
    """Take a callback: decode and validate it, and hand its messages on.

    :param app: the sender of the signals.
    :param registration: the blueprint that it is for.
    :param envelope: what came.
    :param callback_id: where the inbox has it already, in quarantine.
    :return: what was made of it.
    :raises CallbackError: it is refused as a whole. With an inbox it is in quarantine then.
    :raises ExceptionGroup: what subscribers raised, without an inbox.
    """
    inbox = registration.inbox
    try:
        received = read(registration, envelope)
    except Exception as error:  # a host's schema can raise anything
        if inbox and envelope.body and callback_id is None:
            inbox.quarantine(envelope, error)
        raise
    _warn(envelope.source, received)
    if inbox is None:
        report, invalid = received.report, received.invalid
        observe(
            messages_accepted, app, report=report, messages=report.messages, invalid=len(invalid)
        )
        dispatch_report(app, report, invalid)
        return received
    new = inbox.accept(envelope, received.report, received.invalid, callback_id)
    return received._replace(new=new)


def read(registration: Registration, envelope: Envelope) -> Received:
    """Decode and validate a callback.

    :raises CallbackError: it is refused as a whole. A host's schema can raise anything else.
    """
    if (coding := envelope.content_encoding.strip().lower()) not in {"", "identity"}:
        named = coding if coding in _CONTENT_ENCODINGS else "an encoding of its own"
        raise UnsupportedMediaType(f"The body is compressed ({named}): send it as it is.")
    report, invalid = _load(registration, envelope)
    return Received(report=report, invalid=invalid)


def _load(
    registration: Registration, envelope: Envelope
) -> tuple[DeliveryReport, list[InvalidDetail]]:
    fast = registration.fast
    about: dict[str, Any] = {
        "source": envelope.source,
        "url_params": envelope.url_params,
        "received_at": envelope.received_at,
    }
    document = json_document(envelope.body, envelope.content_type) if fast else None
    if fast and document is not None and (loaded := fast.load_json(document, about)):
        return loaded
    payload = decode(envelope.body, envelope.content_type)
    if fast and (loaded := fast.load(payload, about)):
        return loaded
    max_messages = registration.settings.max_messages
    report, invalid = validate(registration.schema, payload, max_messages=max_messages)
    return replace(report, **about), invalid


def _warn(source: str, received: Received) -> None:
    """One line for what is refused, and one for what could not be read. Neither has values."""
    messages = received.report.messages
    total = len(messages) + len(received.invalid)
    if received.invalid:
        CALLBACK.warning(
            "%s: %d of %d messages refused",
            source,
            len(received.invalid),
            total,
            extra=about(source),
        )
    odd = [one for one in messages if one.problems or one.status.problems]
    if not (odd or received.report.problems):
        return
    problems = count_problems(received.report, odd)
    counts = [f"{name} ({count})" for name, count in problems.most_common(_NAMED_MEMBERS)]
    CALLBACK.warning(
        "%s: %d of %d messages have members that could not be read: %s",
        source,
        len(odd),
        total,
        printable(", ".join(counts)),
        extra=about(source),
    )


def count_problems(report: DeliveryReport, messages: Iterable[MessageReport]) -> Counter[str]:
    """How often which member could not be read, by its name on the wire."""
    problems = Counter(report.problems.keys())
    for message in messages:
        if message.problems:
            problems.update(message.problems.keys())
        if message.status.problems:
            problems.update(f"status.{name}" for name in message.status.problems)
    return problems
