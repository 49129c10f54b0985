"""The signals. Their sender is the application; subscribers take ``(app, *, ..., **extra)``.

A subscriber must not need :data:`flask.request`: it can run in a worker. Who listens to the signals
of messages is asked once for a callback.
"""

from __future__ import annotations

from collections.abc import Mapping

from blinker import NamedSignal
from blinker import Namespace

_signals = Namespace()

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
    callback_rejected: "error",
}
