"""What happens to callbacks and messages, for whoever counts and measures it.

No part of the public interface: the metrics listen, and an inbox's figures. The sender is the
application, as with :mod:`.signals`, and what a receiver raises is logged and goes no further.
"""

from __future__ import annotations

from typing import Any

from blinker import NamedSignal
from blinker import Namespace
from flask import Flask

from .log import METRICS
from .log import about

_signals = Namespace()

#: A callback was answered, with ``source``, ``status``, ``size`` (of its body, in bytes, as its
#: ``Content-Length`` says) and ``seconds`` (until the answer).
callback_answered = _signals.signal("callback-answered")

#: Messages were taken, with ``report``, ``messages`` (those of it that are new) and ``invalid``
#: (how many others do not validate).
messages_accepted = _signals.signal("messages-accepted")

#: A subscriber had its turn, with ``subscriber`` (its name), ``seconds`` and ``error`` (what it
#: raised, or ``None``).
subscriber_called = _signals.signal("subscriber-called")

#: What an attempt can come to: ``"retry"`` is after an error, ``"later"`` where a subscriber asked
#: for it or is let rest.
OUTCOMES = ("done", "retry", "later", "dead")

#: An attempt at a stored message is over, with ``source``, ``outcome`` (of :data:`OUTCOMES`) and
#: ``waited`` (the seconds since its callback came; ``None`` but at the first attempt).
message_attempted = _signals.signal("message-attempted")


def observe(signal: NamedSignal, app: Flask, **arguments: Any) -> None:
    """Tell those who listen."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(app):
        try:
            receiver(app, **arguments)
        except Exception:
            METRICS.exception(
                "%s could not be counted", signal.name, extra=about(arguments.get("source"))
            )
