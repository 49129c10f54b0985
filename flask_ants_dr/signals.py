"""The signals. Their sender is the application; subscribers take ``(app, *, ..., **extra)``.

A subscriber must not need :data:`flask.request`: it can run in a worker. Who listens to the signals
of messages is asked once for a callback.
"""

from __future__ import annotations

from collections.abc import Mapping

from blinker import NamedSignal
from blinker import Namespace

_signals = Namespace()

_YEAR = 365 * 24 * 3600

#: Sent once for each accepted callback, before its messages, with ``report``.
report_received = _signals.signal("report-received")

#: Sent for every message, whatever its status, with ``message`` and ``report``.
message_reported = _signals.signal("message-reported")

#: Sent when the state is DELIVERED, with ``message`` and ``report``.
message_delivered = _signals.signal("message-delivered")

#: Sent when the state is UNDELIVERED, EXPIRED or REJECTED, with ``message`` and ``report``.
message_failed = _signals.signal("message-failed")

#: Sent for a detail that does not validate, with ``errors`` (marshmallow's messages by path),
#: ``report`` (the others) and ``detail`` (an :class:`~flask_ants_dr.InvalidDetail`: its place and
#: what came).
message_invalid = _signals.signal("message-invalid")

#: Sent when an inbox gives a message up, with ``message`` and ``report`` (both ``None`` where the
#: stored callback can no longer be read), ``error`` (what its subscribers raised, as a text with
#: the values of the message masked), ``attempts``, ``source`` (the blueprint's name) and ``id``
#: (what ``flask ants-dr retry`` takes).
message_dead = _signals.signal("message-dead")

#: Sent when a whole callback is refused, for whatever reason, with ``error`` (a
#: :class:`~flask_ants_dr.CallbackError`) and ``source`` (the blueprint's name).
callback_rejected = _signals.signal("callback-rejected")

#: All of them, each with the argument that tells what it is about.
ALL: Mapping[NamedSignal, str] = {
    report_received: "report",
    message_reported: "message",
    message_delivered: "message",
    message_failed: "message",
    message_invalid: "detail",
    message_dead: "message",
    callback_rejected: "error",
}


class RetryLater(Exception):
    """With an inbox, a subscriber raises it for "not yet": no error, and no attempt is counted.

    :param seconds: when it wants to be called again for this message, at the earliest; at most a
        year (31,536,000).
    :raises ValueError: it is more, or no number.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds <= _YEAR:
            raise ValueError(f"RetryLater takes at most {_YEAR:,} seconds, which is a year.")
        super().__init__(f"in {seconds} s")
        self.seconds = max(0.0, float(seconds))


class Discard(Exception):
    """A subscriber raises it for "never again for this message": no error.

    :param reason: for people.
    """
