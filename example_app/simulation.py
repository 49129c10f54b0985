"""Plays ANTS for the page, in a thread: posts delivery reports over HTTP, or is a local ANTS that
the application sends through, as it would send through ANTS."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from dataclasses import replace
from threading import Lock
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
from flask import Flask
from flask import current_app
from werkzeug.serving import WSGIRequestHandler
from werkzeug.serving import make_server

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.emulator import Emulator
from flask_ants_dr.emulator import create_app as create_ants
from flask_ants_dr.inbox import Ledger
from flask_ants_dr.simulator import Plan
from flask_ants_dr.simulator import run

from . import records

SIZES = (50, 500, 5000)
"""How many messages the page offers to send."""

SHARES = (0, 10, 30)
"""How much of a hundred callbacks the local ANTS may lose."""

_STATUSES = {"DELIVERED": 90, "UNDELIVERED": 4, "EXPIRED": 3, "REJECTED": 3}
_REPEATED = 0.1
_CALLBACKS = 150  # at most, roughly
_SECONDS = 10


def init_app(app: Flask) -> None:
    app.extensions["example_simulation"] = Lock()


def is_running() -> bool:
    lock: Lock = current_app.extensions["example_simulation"]
    return lock.locked()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is simulated.

    :param messages: how many.
    :param lose: the percentage of the callbacks that a local ANTS loses; ``None`` for delivery
        reports on messages that nobody has sent.
    :param broken: whether there are callbacks that cannot be read, too.
    :param odd: whether some messages have members as some senders write them wrong.
    """

    messages: int
    lose: int | None
    broken: bool
    odd: bool

    @property
    def batch(self) -> int:
        """How many messages are in one callback."""
        return max(5, 3 * self.messages // _CALLBACKS)

    @property
    def malformed_share(self) -> float:
        return 0.05 if self.broken else 0.0

    @property
    def odd_share(self) -> float:
        return 0.1 if self.odd else 0.0


def start(blueprint: DeliveryReportBlueprint, wanted: Wanted) -> bool:
    """Begin to send, and say whether it did: only one simulation runs at a time.

    :param blueprint: whose callback it is.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    notify = blueprint.notify_params()
    lock: Lock = app.extensions["example_simulation"]
    if not lock.acquire(blocking=False):
        return False
    records.set_setting("simulation", json.dumps({"interrupted": True}))

    def work() -> None:
        with app.app_context():
            try:
                if wanted.lose is None:
                    said = _report(app, wanted, notify["notifyUrl"])
                else:
                    said = _send(app, wanted, blueprint.inbox.ledger, notify, wanted.lose / 100)
                records.set_setting("simulation", json.dumps(said))
            finally:
                lock.release()
                records.touch()

    Thread(target=work, name="simulation", daemon=True).start()
    return True


def latest() -> dict[str, Any] | None:
    """What became of the last simulation."""
    said = records.setting("simulation")
    return json.loads(said) if said else None


def _pair(app: Flask) -> tuple[str, str]:
    return str(app.config["ANTS_DR_USERNAME"]), str(app.config["ANTS_DR_PASSWORD"])


def _report(app: Flask, wanted: Wanted, url: str) -> dict[str, Any]:
    plan = Plan(
        messages=wanted.messages,
        batch=wanted.batch,
        statuses=_STATUSES,
        follow=True,
        duplicates=_REPEATED,
        malformed=wanted.malformed_share,
        odd=wanted.odd_share,
    )
    summary = run(plan, url, _pair(app), rate=plan.callbacks / _SECONDS, timeout=60)
    return {
        "callbacks": summary.callbacks,
        "reports": summary.messages,
        "as_expected": summary.as_expected,
    }


def _send(
    app: Flask, wanted: Wanted, ledger: Ledger, notify: dict[str, str], lose: float
) -> dict[str, Any]:
    """Send messages, as a host application does, and see what the local ANTS made of them."""
    ants = _local_ants(app)
    ants.behaviour = replace(
        ants.behaviour, lose=lose, malformed=wanted.malformed_share, odd=wanted.odd_share
    )
    bulks = {str(uuid4()) for _ in range(wanted.messages // wanted.batch)}
    with httpx.Client(base_url=app.config["ANTS_DR_API_URL"], auth=_pair(app)) as client:
        for bulk_id in bulks:
            # No telephone number of Thailand begins with 00 after the country's code.
            destinations = [
                {"to": f"6600{number:07}", "messageId": str(uuid4())}
                for number in random.sample(range(10**7), wanted.batch)
            ]
            message = {
                "from": "MyShop",
                "text": "พัสดุของคุณกำลังนำส่ง",
                "destinations": destinations,
                **notify,
            }
            # Before it is sent: whatever ends this process then, the ledger knows of them.
            ledger.expect_many(
                [(one["messageId"], one["to"]) for one in destinations], bulk_id=bulk_id
            )
            send = {"bulkId": bulk_id, "messages": [message]}
            client.post("/sms/send", json=send).raise_for_status()
            time.sleep(_SECONDS / len(bulks))
    ants.flush()
    answers = [
        answer
        for message in ants.messages
        if message.bulk_id in bulks
        for _, answer in message.reports
    ]
    lost = answers.count("lost")
    return {
        "messages": wanted.messages,
        "reports": len(answers) - lost,
        "lost": lost,
        "as_expected": set(answers) <= {"200", "lost"},
    }


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Not at all: the query of Message Logs has phone numbers."""


def _local_ants(app: Flask) -> Emulator:
    """The one local ANTS of this process, which remembers what was sent through it."""
    if "example_ants" not in app.extensions:
        username, password = _pair(app)
        ants = create_ants(
            username=username, password=password, statuses=_STATUSES, repeat=_REPEATED
        )
        server = make_server("127.0.0.1", 0, ants, threaded=True, request_handler=_QuietHandler)
        Thread(target=server.serve_forever, name="ants", daemon=True).start()
        app.config["ANTS_DR_API_URL"] = f"http://127.0.0.1:{server.port}"
        app.extensions["example_ants"] = ants.extensions["ants_emulator"]
    emulator: Emulator = app.extensions["example_ants"]
    return emulator
