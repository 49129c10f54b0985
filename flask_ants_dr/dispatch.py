"""Models to signals: every subscriber gets its turn, and what they raise is raised at the end."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Any
from typing import Self
from weakref import ReferenceType

from blinker import NamedSignal
from flask import Flask
from flask import has_app_context
from flask.ctx import AppContext

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
# What ends a process or a coroutine, and is nothing that a subscriber failed on.
_NO_FAILURES = (KeyboardInterrupt, GeneratorExit)


def dispatch_report(app: Flask, report: DeliveryReport, invalid: Iterable[InvalidDetail]) -> None:
    """Send the signals of one accepted callback.

    :param app: the sender of the signals.
    :param report: its valid messages.
    :param invalid: its other details.
    :raises ExceptionGroup: what subscribers raised, after all of them have run. Each error has a
        note that names the subscriber, the signal and the message.
    """
    with _Turns(app) as turns:
        _send_envelope(turns, report, invalid)
        _send_messages(turns, report.messages, report)
    _raise_together(turns.failures)


def dispatch_envelope(
    app: Flask, report: DeliveryReport, invalid: Iterable[InvalidDetail]
) -> list[Exception]:
    """Send the signals of a callback but for its valid messages; return what subscribers raised."""
    with _Turns(app) as turns:
        _send_envelope(turns, report, invalid)
    return turns.failures


def dispatch_message(app: Flask, message: MessageReport, report: DeliveryReport) -> list[Exception]:
    """Send the signals of one message and return what subscribers raised."""
    with _Turns(app) as turns:
        _send_messages(turns, [message], report)
    return turns.failures


def dispatch_rejection(app: Flask, error: CallbackError, source: str) -> None:
    """Send :data:`callback_rejected`.

    :param app: the sender of the signal.
    :param error: why the callback is refused.
    :param source: the blueprint's name.
    :raises ExceptionGroup: what subscribers raised, after all of them have run.
    """
    with _Turns(app) as turns:
        turns.send(callback_rejected, error=error, source=source)
    _raise_together(turns.failures)


class _Turns:
    """Gives subscribers their turns, and keeps what they raise.

    After a failure the next one has an application context of its own, because what the failed one
    left behind, a database session in need of a rollback, is bound to the context.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.failures: list[Exception] = []
        self._own_context: AppContext | None = None
        self._listeners: dict[NamedSignal, list[_Listener]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave_own_context()

    def listeners(self, signal: NamedSignal) -> list[_Listener]:
        """Who listens: asked once, so that a signal without subscribers costs nothing."""
        if signal not in self._listeners:
            self._listeners[signal] = _listeners(self.app, signal)
        return self._listeners[signal]

    def send(self, signal: NamedSignal, **arguments: Any) -> None:
        """Call the subscribers of a signal, each whatever the others raise."""
        self.call(self.listeners(signal), signal, arguments)

    def call(
        self, listeners: list[_Listener], signal: NamedSignal, arguments: dict[str, Any]
    ) -> None:
        """Do so where it is known who listens."""
        # Not signal.send(), which lets the first subscriber that raises stop the others.
        for subscriber, call in listeners:
            try:
                result = (call or self.app.ensure_sync(subscriber))(self.app, **arguments)
                if result is not None and isawaitable(result):
                    raise TypeError(
                        "it returned an awaitable: subscribe an async def function itself"
                    )
            except _NO_FAILURES:
                raise
            except BaseException as error:
                self._fail(error, subscriber, signal, arguments.get("message"))

    def _fail(
        self,
        raised: BaseException,
        subscriber: Callable[..., Any],
        signal: NamedSignal,
        message: MessageReport | None,
    ) -> None:
        error = _as_exception(raised)
        with suppress(Exception):  # an exception can be frozen
            name = getattr(subscriber, "__qualname__", type(subscriber).__qualname__)
            about = f" of message {message.message_id[:200]!a}" if message else ""
            error.add_note(f"raised by the subscriber {name} to {signal.name}{about}")
        self.failures.append(error)
        if self._own_context is None and has_app_context():
            # Otherwise its transaction, with the locks that it holds, would be open below the next.
            self._end(partial(self.app.do_teardown_appcontext, error))
        self._leave_own_context()
        self._own_context = self.app.app_context()
        self._own_context.push()

    def _leave_own_context(self) -> None:
        context, self._own_context = self._own_context, None
        if context is not None:
            self._end(context.pop)

    def _end(self, end: Callable[[], None]) -> None:
        """End a context, whatever the host's teardown functions raise."""
        try:
            end()
        except _NO_FAILURES:
            raise
        except BaseException as error:
            self.failures.append(_as_exception(error))


def _as_exception(error: BaseException) -> Exception:
    """An error as one of those that an :exc:`ExceptionGroup` can have."""
    if isinstance(error, Exception):
        return error
    # gevent.Timeout, asyncio.CancelledError, SystemExit
    wrapped = RuntimeError(f"it raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def _send_envelope(turns: _Turns, report: DeliveryReport, invalid: Iterable[InvalidDetail]) -> None:
    turns.send(report_received, report=report)
    for detail in invalid:
        turns.send(message_invalid, errors=detail.errors, report=report, detail=detail)


def _send_messages(
    turns: _Turns, messages: Iterable[MessageReport], report: DeliveryReport
) -> None:
    of_all = turns.listeners(message_reported)
    of_state = {signal: turns.listeners(signal) for signal in (message_delivered, message_failed)}
    states_matter = any(of_state.values())
    for message in messages if of_all or states_matter else ():
        arguments = {"message": message, "report": report}
        turns.call(of_all, message_reported, arguments)
        if states_matter and (signal := _SIGNAL_OF_STATE.get(message.status.state)):
            turns.call(of_state[signal], signal, arguments)


def _listeners(app: Flask, signal: NamedSignal) -> list[_Listener]:
    if signal.is_muted or not signal.receivers:
        return []
    subscribers = list(signal.receivers_for(app))
    if len(subscribers) > 1:
        # blinker keeps them in the order in which they were connected, but hands out a set.
        references = list(signal.receivers.values())  # other threads connect and disconnect
        connected = [one() if isinstance(one, ReferenceType) else one for one in references]
        in_order = [one for one in connected if one in subscribers]
        subscribers = in_order + [one for one in subscribers if one not in in_order]
    return [(subscriber, _sync(app, subscriber)) for subscriber in subscribers]


def _sync(app: Flask, subscriber: Callable[..., Any]) -> Callable[..., Any] | None:
    try:
        return app.ensure_sync(subscriber)
    except Exception:  # it will raise again when it is the subscriber's turn
        return None


def _raise_together(failures: list[Exception]) -> None:
    if failures:
        raise ExceptionGroup("subscribers to delivery reports raised", failures)
