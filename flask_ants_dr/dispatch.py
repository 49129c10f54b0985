"""Models to signals: every subscriber gets its turn, and what they raise is raised at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextlib import nullcontext
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from inspect import signature
from itertools import count
from typing import Any
from typing import NamedTuple
from typing import Self
from weakref import ReferenceType

from blinker import NamedSignal
from flask import Flask
from flask import has_app_context
from flask.ctx import AppContext
from flask.globals import app_ctx

from .errors import CallbackError
from .models import DeliveryReport
from .models import DeliveryState
from .models import InvalidDetail
from .models import MessageReport
from .observation import observe
from .observation import subscriber_called
from .signals import Discard
from .signals import callback_rejected
from .signals import message_delivered
from .signals import message_failed
from .signals import message_invalid
from .signals import message_reported
from .signals import report_received

_SIGNAL_OF_STATE = {
    DeliveryState.DELIVERED: message_delivered,
    DeliveryState.UNDELIVERED: message_failed,
    DeliveryState.EXPIRED: message_failed,
    DeliveryState.REJECTED: message_failed,
}
# What ends a process or a coroutine, and is nothing that a subscriber failed on.
_NO_FAILURES = (KeyboardInterrupt, GeneratorExit)
_AT_ONCE = nullcontext()

#: Makes what a subscriber's turn is in, and what commits or rolls back at its end.
Transaction = Callable[[], AbstractContextManager[None]]


class Listener(NamedTuple):
    """A subscriber to a signal."""

    signal: NamedSignal
    subscriber: Callable[..., Any]
    call: Callable[..., Any]
    """It as a function that waits for its end."""
    name: str
    """Its module and qualified name; of those that share one, all but the first have a number."""


def dispatch_report(app: Flask, report: DeliveryReport, invalid: Iterable[InvalidDetail]) -> None:
    """Send the signals of one accepted callback.

    :param app: the sender of the signals.
    :param report: its valid messages.
    :param invalid: its other details.
    :raises ExceptionGroup: what subscribers raised, after all of them have run. Each error has a
        note that names the subscriber, the signal and the message.
    """
    with Turns(app) as turns:
        turns.send_envelope(report, invalid)
        is_measured = bool(subscriber_called.receivers)
        listeners = turns.of_all
        for message in report.messages if turns.message_matters else ():
            if turns.state_matters:
                listeners = turns.of_message(message)
            for listener in listeners:
                if is_measured:
                    turns.call(listener, {"message": message, "report": report})
                    continue
                # The same, written out, in a third of its time.
                try:
                    if (result := listener.call(app, message=message, report=report)) is not None:
                        _refuse_awaitable(result)
                except _NO_FAILURES:
                    raise
                except BaseException as error:
                    turns.fail(error, listener, message)
    turns.raise_together()


def dispatch_envelope(
    app: Flask,
    report: DeliveryReport,
    invalid: Iterable[InvalidDetail],
    transaction: Transaction | None = None,
) -> list[tuple[str, Exception]]:
    """Send the signals of a callback but for its valid messages; return what subscribers raised,
    with their names."""
    with Turns(app, transaction) as turns:
        turns.send_envelope(report, invalid)
    return turns.failures


def dispatch_rejection(
    app: Flask, error: CallbackError, source: str, transaction: Transaction | None = None
) -> None:
    """Send :data:`callback_rejected`.

    :param app: the sender of the signal.
    :param error: why the callback is refused.
    :param source: the blueprint's name.
    :param transaction: what each subscriber's turn is in.
    :raises ExceptionGroup: what subscribers raised, after all of them have run.
    """
    with Turns(app, transaction) as turns:
        turns.send(callback_rejected, error=error, source=source)
    turns.raise_together()


def with_context(
    method: Callable[..., Any], context: object, *arguments: object
) -> Callable[[], Any]:
    """A method of an application with its arguments; Flask 3.2's is given the context, too."""
    contexts = [context] * (len(signature(method).parameters) - len(arguments))
    return partial(method, *contexts, *arguments)


class Turns:
    """Gives subscribers their turns, and keeps what they raise in ``failures``, with their names.
    (What the host's teardown functions raise has none.)

    After a failure the next one has an application context of its own, because what the failed one
    left behind, a database session in need of a rollback, is bound to the context. Where each turn
    is in a transaction, each has one.

    Who listens is asked once, so that a signal without subscribers costs nothing.

    :param transaction: makes what a subscriber's turn is in, where it is not given with the call.
    """

    def __init__(self, app: Flask, transaction: Transaction | None = None) -> None:
        self.app = app
        self._transaction = transaction
        self.failures: list[tuple[str, Exception]] = []
        self._own_context: AppContext | None = None
        self.of_all = _listeners(app, message_reported)
        """Who hears of each message."""
        self._of_state = {
            signal: _listeners(app, signal, others=self.of_all)
            for signal in (message_delivered, message_failed)
        }
        self.state_matters = any(self._of_state.values())
        """Whether it depends on its state who else hears of a message."""
        self.message_matters = bool(self.of_all or self.state_matters)
        """Whether any subscriber hears of messages."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._leave_own_context()

    def of_message(self, message: MessageReport) -> list[Listener]:
        """Who hears of a message, in order."""
        if not self.state_matters:
            return self.of_all
        signal = _SIGNAL_OF_STATE.get(message.status.state)
        return self.of_all + self._of_state[signal] if signal else self.of_all

    def send_envelope(self, report: DeliveryReport, invalid: Iterable[InvalidDetail]) -> None:
        """Send the signals of a callback but for its valid messages."""
        self.send(report_received, report=report)
        for detail in invalid:
            self.send(message_invalid, errors=detail.errors, report=report, detail=detail)

    def send(self, signal: NamedSignal, **arguments: Any) -> None:
        """Call the subscribers of a signal, each whatever the others raise."""
        for listener in _listeners(self.app, signal):
            self.call(listener, arguments, self._transaction)

    def call(
        self,
        listener: Listener,
        arguments: dict[str, Any],
        transaction: Transaction | None = None,
    ) -> Exception | None:
        """Give a subscriber its turn, and return what it raised.

        Not ``signal.send()``, which lets the first subscriber that raises stop the others.
        """
        started = time.perf_counter() if subscriber_called.receivers else None
        if transaction:
            self._leave_own_context()
            self._enter_own_context()
        try:
            with transaction() if transaction else _AT_ONCE:
                if (result := listener.call(self.app, **arguments)) is not None:
                    _refuse_awaitable(result)
        except _NO_FAILURES:
            raise
        except BaseException as error:
            self._observe(listener, started, error)
            return self.fail(error, listener, arguments.get("message"))
        if started is not None:
            self._observe(listener, started, None)
        return None

    def _observe(
        self, listener: Listener, started: float | None, error: BaseException | None
    ) -> None:
        if started is not None:
            seconds = time.perf_counter() - started
            name = listener.name
            observe(subscriber_called, self.app, subscriber=name, seconds=seconds, error=error)

    def raise_together(self) -> None:
        """:raises ExceptionGroup: subscribers have raised something, other than that they are done
        with a message.
        """
        failures = [error for _, error in self.failures if not isinstance(error, Discard)]
        if failures:
            raise ExceptionGroup("subscribers to delivery reports raised", failures)

    def fail(
        self, raised: BaseException, listener: Listener, message: MessageReport | None
    ) -> Exception:
        """Keep what a subscriber raised at its turn, and see to the next one's context."""
        error = _as_exception(raised)
        with suppress(Exception):  # an exception can be frozen
            subscriber = listener.subscriber
            name = getattr(subscriber, "__qualname__", type(subscriber).__qualname__)
            about = f" of message {message.message_id[:200]!a}" if message else ""
            error.add_note(f"raised by the subscriber {name} to {listener.signal.name}{about}")
        self.failures.append((listener.name, error))
        if self._own_context is None and has_app_context():
            # Otherwise its transaction, with the locks that it holds, would be open below the next.
            self._end(with_context(self.app.do_teardown_appcontext, app_ctx, error))
        self._leave_own_context(error)
        self._enter_own_context()
        return error

    def _enter_own_context(self) -> None:
        self._own_context = self.app.app_context()
        self._own_context.push()

    def _leave_own_context(self, error: Exception | None = None) -> None:
        context, self._own_context = self._own_context, None
        if context is not None:
            self._end(partial(context.pop, error))

    def _end(self, end: Callable[[], None]) -> None:
        """End a context, whatever the host's teardown functions raise."""
        try:
            end()
        except _NO_FAILURES:
            raise
        except BaseException as error:
            self.failures.append(("", _as_exception(error)))


def _refuse_awaitable(result: object) -> None:
    if isawaitable(result):
        raise TypeError("it returned an awaitable: subscribe an async def function itself")


def _as_exception(error: BaseException) -> Exception:
    """An error as one of those that an :exc:`ExceptionGroup` can have."""
    if isinstance(error, Exception):
        return error
    # gevent.Timeout, asyncio.CancelledError, SystemExit
    wrapped = RuntimeError(f"it raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def _listeners(
    app: Flask, signal: NamedSignal, *, others: Iterable[Listener] = ()
) -> list[Listener]:
    """The subscribers to a signal, in the order in which they were connected.

    :param others: those that hear of the same message before.
    """
    if signal.is_muted or not signal.receivers:
        return []
    subscribers = list(signal.receivers_for(app))
    if len(subscribers) > 1:
        # blinker keeps them in the order in which they were connected, but hands out a set.
        references = list(signal.receivers.values())  # other threads connect and disconnect
        connected = [one() if isinstance(one, ReferenceType) else one for one in references]
        in_order = [one for one in connected if one in subscribers]
        subscribers = in_order + [one for one in subscribers if one not in in_order]
    names = {one.name for one in others}
    listeners = []
    for subscriber in subscribers:
        of = subscriber if hasattr(subscriber, "__qualname__") else type(subscriber)
        name = unique = f"{of.__module__}.{of.__qualname__}"
        if name in names:
            numbered = (f"{name} ({number})" for number in count(2))
            unique = next(one for one in numbered if one not in names)
        names.add(unique)
        listeners.append(Listener(signal, subscriber, _sync(app, subscriber), unique))
    return listeners


def _sync(app: Flask, subscriber: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return app.ensure_sync(subscriber)
    except Exception:  # asked again when it is the subscriber's turn, it will be its failure
        return lambda sender, **arguments: app.ensure_sync(subscriber)(sender, **arguments)
