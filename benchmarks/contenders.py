"""The same receiver, written in the ways that there are; each as its users would write it.

All of them check the same Basic credentials, give the subscriber every message with an exact credit
and aware dates, and answer with the number of messages. The hand-written ones trust the body.
"""

from __future__ import annotations

from datetime import timedelta
from datetime import timezone
from typing import Any

from blinker import Namespace

USERNAME = "ants"
PASSWORD = "benchmark-pair"
RULE = "/sms/callback"

BANGKOK = timezone(timedelta(hours=7))

_signals = Namespace()

#: What the contenders send that have no signal of their own.
reported = _signals.signal("reported")


class Subscriber:
    """What a host does with a message, as cheap as can be: it counts them."""

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self, sender: Any, **arguments: Any) -> None:
        self.heard += 1
