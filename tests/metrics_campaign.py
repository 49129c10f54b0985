"""Scrape an application under load with a real Prometheus, and compare with its database.

``python tests/metrics_campaign.py`` posts callbacks over HTTP for a minute to gunicorn with two
workers, which count together by prometheus-client's multi-process mode, while a ``work`` process
dispatches their messages. Prometheus scrapes both once a second. At the end what it has is compared
with what was posted and with the database: exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import closing
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from werkzeug.datastructures import Authorization

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox
from kit import PASSWORD
from kit import TESTS
from kit import USERNAME
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import make_app
from servers import free_port
from servers import is_open
from servers import prometheus
from servers import wait_for

STATES = ("DELIVERED", "DELIVERED", "EXPIRED", "PENDING", "REJECTED")
SCRAPED = 3.0  # seconds after which Prometheus has what there is
BROKEN, UNKNOWN = 10, 15  # of so many callbacks one is no JSON, or has another password


def campaign(folder: Path, seconds: float, messages: int) -> dict[str, tuple[Any, Any]]:
    """What Prometheus has, and what is so, by what it is of."""
    web, worker = free_port(), free_port()
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True)),
        ANTS_DR_INBOX_URL=f"sqlite:///{folder}/inbox.sqlite3",
    )
    inbox = bound_inbox(app)
    inbox.database.create_tables()
    environment = os.environ | {
        "FLASK_APP": "host",
        "FLASK_ANTS_DR_USERNAME": USERNAME,
        "FLASK_ANTS_DR_PASSWORD": PASSWORD,
        "FLASK_ANTS_DR_INBOX_URL": app.config["ANTS_DR_INBOX_URL"],
        "HOST_ENGINE": "deferred",
        "HOST_LEDGER": "1",
        "HOST_METRICS": "1",
        "HOST_RECORD": str(folder / "record"),
        "PYTHONPATH": str(TESTS),
        "XDG_RUNTIME_DIR": str(folder),
    }
    together = folder / "together"
    together.mkdir()
    of_web = environment | {"PROMETHEUS_MULTIPROC_DIR": str(together)}
    gunicorn = ["gunicorn", "--workers=2", "--threads=2", f"--bind=127.0.0.1:{web}"]
    work = ["flask", "ants-dr", "work", "--poll=0.1", f"--metrics-port={worker}"]
    with ExitStack() as stack:
        stack.callback(inbox.database.close)
        stack.enter_context(process([*gunicorn, "host:create_app()"], of_web))
        stack.enter_context(process(work, environment))
        wait_for(lambda: is_open(web) and is_open(worker))
        server = stack.enter_context(prometheus({"web": web, "worker": worker}, folder))
        ends = time.monotonic() + seconds

        def send(sender: int) -> Counter[int]:
            answers: Counter[int] = Counter()
            while time.monotonic() < ends or not answers.total() > UNKNOWN:
                answers[post(web, sender, answers.total(), messages)] += 1
            return answers

        with ThreadPoolExecutor(4) as pool:
            answers = sum(pool.map(send, range(4)), Counter[int]())
        started = datetime.fromtimestamp(0, UTC)
        wait_for(
            lambda: (
                not counts(app)["pending"]
                # Which are written every 10 seconds.
                and sum(one.callbacks for one in inbox.figures.callbacks(started))
                == answers.total()
            )
        )
        time.sleep(SCRAPED)
        status, done = inbox.status(), counts(app)["done"]
        states = inbox.ledger.counts()
        figures = inbox.figures.callbacks(started)

        def ask(query: str) -> Any:
            """What a query gives: a number, or numbers by the one label that there is."""
            with closing(urlopen(f"{server}/api/v1/query?query={quote(query)}")) as response:
                result = json.load(response)["data"]["result"]
            found = {"".join(one["metric"].values()): float(one["value"][1]) for one in result}
            return found.get("", found)

        by_status = {f"{one}": count for one, count in answers.items()}
        files = {one.name.removesuffix(".db").split("_")[1] for one in together.iterdir()}
        return {
            "scraped": (ask("sum by (job) (up)"), {"web": 1, "worker": 1}),
            "processes of the web server": (len(files), 2),
            "callbacks": (ask("sum by (status) (ants_dr_callbacks_total) > 0"), by_status),
            "callbacks in the inbox's figures": (
                {f"{one.status}": one.callbacks for one in figures},
                by_status,
            ),
            "callbacks measured": (
                ask("sum(ants_dr_callback_duration_seconds_count)"),
                answers.total(),
            ),
            "messages": (
                ask("sum by (state) (ants_dr_messages_total) > 0"),
                {state.value: count for state, count in states.items() if state and count},
            ),
            "messages invalid": (ask("sum(ants_dr_invalid_messages_total)"), answers[200]),
            "messages whose way is known": (
                ask("sum(ants_dr_sent_to_done_seconds_count)"),
                sum(count for state, count in states.items() if state and state.is_final),
            ),
            "attempts": (ask("sum by (outcome) (ants_dr_attempts_total) > 0"), {"done": done}),
            "attempts measured": (ask("sum(ants_dr_received_to_attempted_seconds_count)"), done),
            "calls": (ask("sum(ants_dr_subscriber_duration_seconds_count)"), done),
            "inboxes": (ask("sum by (job) (ants_dr_inbox_up)"), {"web": 1, "worker": 1}),
            "pending": (ask("max(ants_dr_pending_messages)"), status["pending"]),
            "dead": (ask("max(ants_dr_dead_messages)"), status["dead"]),
            "quarantine": (ask("max(ants_dr_quarantine_entries)"), status["quarantined"]),
            "workers": (
                ask("max by (kind) (ants_dr_workers)"),
                {"work": len(status["workers"]), "celery": 0},
            ),
            "overdue": (ask("max(ants_dr_overdue_messages)"), status["overdue"]),
            "last callback": (
                ask("max(ants_dr_last_callback_timestamp_seconds)"),
                datetime.fromisoformat(status["last_callback_at"]).timestamp(),
            ),
            "done": (done, answers[200] * messages),
        }


def post(port: int, sender: int, number: int, messages: int) -> int:
    """Post one callback, and return the status of its answer."""
    dates = {"sendDate": "2026-01-05T09:00:00", "doneDate": "2026-01-05T09:00:03"}
    details = [
        detail(messageId=f"{sender}-{number}-{n}", status={"name": STATES[n % 5]}, **dates)
        for n in range(messages)
    ]
    broken = {"messageId": f"{sender}-{number}"}
    body = json.dumps(callback(*details, broken, bulkId=f"{sender}-{number}"))
    password = "another" if number % UNKNOWN == 1 else PASSWORD
    pair = Authorization("basic", {"username": USERNAME, "password": password})
    headers = {"Authorization": str(pair), "Content-Type": "application/json"}
    if number % BROKEN == 2:
        body = body[:-1]
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as server:
        server.request("POST", "/sms/callback", body, headers)
        return server.getresponse().status


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    running = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--messages", type=int, default=50, help="in each callback")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), options.seconds, options.messages)
    for name, (shown, is_so) in found.items():
        print(f"{name:36} {shown}" + ("" if shown == is_so else f", and not {is_so}"))
    sys.exit(any(shown != is_so for shown, is_so in found.values()))


if __name__ == "__main__":
    main()
