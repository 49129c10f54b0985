"""Plays ANTS for the page: posts delivery reports over HTTP, in a thread."""

from __future__ import annotations

import json
from threading import Lock
from threading import Thread
from typing import Any

from flask import Flask
from flask import current_app

from flask_ants_dr.simulator import Plan
from flask_ants_dr.simulator import Summary
from flask_ants_dr.simulator import run

from . import records

SIZES = (50, 500, 5000)
"""How many messages the page offers to send."""

_STATUSES = {"DELIVERED": 90, "UNDELIVERED": 4, "EXPIRED": 3, "REJECTED": 3}
_CALLBACKS = 150  # at most, roughly
_SECONDS = 10


def init_app(app: Flask) -> None:
    app.extensions["example_simulation"] = Lock()


def is_running() -> bool:
    lock: Lock = current_app.extensions["example_simulation"]
    return lock.locked()


def start(url: str, messages: int, *, broken: bool, odd: bool) -> bool:
    """Begin to send, and say whether it did: only one simulation runs at a time.

    :param url: the callback.
    :param broken: whether there are callbacks that cannot be read, too.
    :param odd: whether some messages have members as some senders write them wrong.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    plan = Plan(
        messages=messages,
        batch=max(5, 3 * messages // _CALLBACKS),
        statuses=_STATUSES,
        follow=True,
        duplicates=0.1,
        malformed=0.05 if broken else 0.0,
        odd=0.1 if odd else 0.0,
    )
    auth = (str(app.config["ANTS_DR_USERNAME"]), str(app.config["ANTS_DR_PASSWORD"]))
    lock: Lock = app.extensions["example_simulation"]
    if not lock.acquire(blocking=False):
        return False
    records.set_setting("simulation", json.dumps({"interrupted": True}))

    def send() -> None:
        with app.app_context():
            try:
                summary = run(plan, url, auth, rate=plan.callbacks / _SECONDS, timeout=60)
                records.set_setting("simulation", json.dumps(_said(summary)))
            finally:
                lock.release()
                records.touch()

    Thread(target=send, name="simulation", daemon=True).start()
    return True


def latest() -> dict[str, Any] | None:
    """What became of the last simulation."""
    said = records.setting("simulation")
    return json.loads(said) if said else None


def _said(summary: Summary) -> dict[str, Any]:
    return {
        "callbacks": summary.callbacks,
        "reports": summary.messages,
        "as_expected": summary.as_expected,
    }
