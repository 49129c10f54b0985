"""A local ANTS under ``/ants`` of the same server, so that one command is the whole demo.

In production ``ANTS_DR_API_URL`` is left out, and this file with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from flask import Flask
from flask import current_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_ants_dr.emulator import create_app as create_ants

FAULTS = {
    "lose": "Lose a tenth of the callbacks",
    "malformed": "Post broken callbacks, too",
    "odd": "Write some messages as no specification says",
    "repeat": "Post a tenth of the callbacks twice",
}
"""What ANTS can be told to do wrong."""


def init_app(app: Flask) -> None:
    ants = create_ants(
        username=app.config["ANTS_DR_USERNAME"],
        password=app.config["ANTS_DR_PASSWORD"],
        statuses={"DELIVERED": 90, "UNDELIVERED": 4, "EXPIRED": 3, "REJECTED": 3},
        delay=2.0,
    )
    app.extensions["local_ants"] = ants.extensions["ants_emulator"]
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/ants": ants})  # type: ignore[method-assign]


def behave(faults: Collection[str]) -> None:
    """Have it do a tenth of what it does wrong, from now on, and the rest as it should."""
    shares = {fault: 0.1 if fault in faults else 0.0 for fault in FAULTS}
    ants = current_app.extensions["local_ants"]
    ants.behaviour = replace(ants.behaviour, **shares)
