"""Tries again what failed, in a thread, so that one command is the whole demo.

In production it is a service of its own: ``flask ants-dr work``.
"""

from __future__ import annotations

from threading import Event
from threading import Lock
from threading import Thread

from flask import Flask

from flask_ants_dr.inbox import bound_inboxes
from flask_ants_dr.inbox.worker import work


def init_app(app: Flask) -> None:
    is_first = Lock()

    # Not at once: only what serves requests should work, and no ``flask`` command.
    @app.before_request
    def start() -> None:
        if is_first.acquire(blocking=False):
            Thread(target=run, name="worker", daemon=True).start()

    def run() -> None:
        work(bound_inboxes(app), concurrency=1, poll=0.5, once=False, stop=Event())
