"""Models to signals: every subscriber gets its turn, and what they raise is raised at the end."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from blinker import NamedSignal
from flask import Flask

from .errors import CallbackError
from .models import DeliveryReport
from .models import DeliveryState
from .models import InvalidDetail
from .models import MessageReport
from .signals import callback_rejected
from .signals import message_delivered
from .signals import message_failed
from .signals import message_invalid
from .signals import message_reported
from .signals import report_received

# A subscriber, and it as a function that waits for its end, where there can be one.
_Listener = tuple[Callable[..., Any], Callable[..., Any] | None]

_SIGNAL_OF_STATE = {
    DeliveryState.DELIVERED: message_delivered,
    DeliveryState.UNDELIVERED: message_failed,
    DeliveryState.EXPIRED: message_failed,
    DeliveryState.REJECTED: message_failed,
}


def dispatch_report(app: Flask, report: DeliveryReport, invalid: Iterable[InvalidDetail]) -> None:
    """Send the signals of one accepted callback.

    :param app: the sender of the signals.
    :param report: its valid messages.
    :param invalid: its other details.
    :raises ExceptionGroup: what subscribers raised, after all of them have run. Each error has a
        note that names the subscriber, the signal and the message.
    """
    failures = dispatch_envelope(app, report, invalid)
    # Who listens is asked once, so that a signal without subscribers costs nothing for a message.
    of_all = _listeners(app, message_reported)
    of_state = {signal: _listeners(app, signal) for signal in (message_delivered, message_failed)}
    states_matter = any(of_state.values())
    for message in report.messages if of_all or states_matter else ():
        arguments = {"message": message, "report": report}
        _call(app, message_reported, of_all, arguments, failures)
        if states_matter and (signal := _SIGNAL_OF_STATE.get(message.status.state)):
            _call(app, signal, of_state[signal], arguments, failures)
    _raise_together(failures)


def dispatch_envelope(
    app: Flask, report: DeliveryReport, invalid: Iterable[InvalidDetail]
) -> list[Exception]:
    """Send the signals of a callback but for its valid messages; return what subscribers raised."""
    failures = _send(app, report_received, report=report)
    for detail in invalid:
        failures += _send(app, message_invalid, errors=detail.errors, report=report, detail=detail)
    return failures


def dispatch_message(app: Flask, message: MessageReport, report: DeliveryReport) -> list[Exception]:
    """Send the signals of one message and return what subscribers raised."""
    failures = _send(app, message_reported, message=message, report=report)
    if signal := _SIGNAL_OF_STATE.get(message.status.state):
        failures += _send(app, signal, message=message, report=report)
    return failures


def dispatch_rejection(app: Flask, error: CallbackError, source: str) -> None:
    """Send :data:`callback_rejected`.

    :param app: the sender of the signal.
    :param error: why the callback is refused.
    :param source: the blueprint's name.
    :raises ExceptionGroup: what subscribers raised, after all of them have run.
    """
    _raise_together(_send(app, callback_rejected, error=error, source=source))


def _send(app: Flask, signal: NamedSignal, **arguments: Any) -> list[Exception]:
    failures: list[Exception] = []
    _call(app, signal, _listeners(app, signal), arguments, failures)
    return failures


def _listeners(app: Flask, signal: NamedSignal) -> list[_Listener]:
    if signal.is_muted or not signal.receivers:
        return []
    return [(subscriber, _sync(app, subscriber)) for subscriber in signal.receivers_for(app)]


def _sync(app: Flask, subscriber: Callable[..., Any]) -> Callable[..., Any] | None:
    try:
        return app.ensure_sync(subscriber)
    except Exception:  # it will raise again when it is the subscriber's turn
        return None


def _call(
    app: Flask,
    signal: NamedSignal,
    listeners: list[_Listener],
    arguments: dict[str, Any],
    failures: list[Exception],
) -> None:
    """Call subscribers and add what they raise to the failures."""
    # Not signal.send(), which lets the first subscriber that raises stop the others.
    for subscriber, call in listeners:
        try:
            result = (call or app.ensure_sync(subscriber))(app, **arguments)
            if result is not None and isawaitable(result):
                raise TypeError("it returned an awaitable: subscribe an async def function itself")
        except Exception as error:
            name = getattr(subscriber, "__qualname__", type(subscriber).__qualname__)
            message = arguments.get("message")
            about = f" of message {message.message_id[:200]!r}" if message else ""
            with suppress(Exception):  # an exception can be frozen
                error.add_note(f"raised by the subscriber {name} to {signal.name}{about}")
            failures.append(error)


def _raise_together(failures: list[Exception]) -> None:
    if failures:
        raise ExceptionGroup("subscribers to delivery reports raised", failures)
