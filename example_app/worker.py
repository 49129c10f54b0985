"""Tries again what failed: what ``flask ants-dr work`` does, in a thread.

So that one command is the whole demo. In production the command is a service of its own.
"""

from __future__ import annotations

import time
from threading import Lock
from threading import Thread

from flask import Flask

from flask_ants_dr.inbox import bound_inboxes

_POLL = 0.5
"""Seconds."""


def init_app(app: Flask) -> None:
    first = Lock()

    # Not at once: only what serves requests should work, and no ``flask`` command.
    @app.before_request
    def start() -> None:
        if first.acquire(blocking=False):
            Thread(target=run, name="worker", daemon=True).start()

    def run() -> None:
        (inbox,) = bound_inboxes(app)
        while True:
            try:
                done = inbox.take()
            except Exception:
                app.logger.exception("the worker failed, and goes on")
                done = 0
            if not done:
                time.sleep(_POLL)
