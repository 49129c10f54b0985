"""Lose callbacks on their way and in a web server that is killed, then ask Message Logs once.

``python tests/reconcile_campaign.py`` sends 5,000 messages to a local ANTS, which loses 5 % of its
callbacks, posts 5 % twice and 5 % out of order, and never posts one again. The web server is killed
with SIGKILL now and then, and what is posted meanwhile is lost, too. Its inbox is in the host's
database, where two subscribers insert a row for each report, in which nothing would catch a
repetition; one of them fails a third of the time. Then ``flask ants-dr reconcile`` is run twice.

It ends with exit code 1 unless the ledger has each message in its true final state after the first
one, each row of a subscriber is there once, and the second one brings nothing. ``postgresql`` or
``mariadb`` as an argument takes that in place of SQLite.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy import text

from flask_ants_dr.emulator import Emulator
from flask_ants_dr.emulator import create_app
from flask_ants_dr.inbox.tables import ledger
from host import Effect
from kill_campaign import Processes
from kill_campaign import empty_database
from kill_campaign import running
from kit import PASSWORD
from kit import TESTS
from kit import USERNAME
from servers import free_port
from servers import is_open
from servers import serving
from servers import wait_for

STATUSES = {"DELIVERED": 85, "EXPIRED": 5, "UNDELIVERED": 5, "REJECTED": 3, "COMPLETED": 2}
SUBSCRIBERS = ("leaves", "fails")


def send(root: str, callback: str, messages: int, together: int, seconds: float) -> None:
    """Send messages in bulks, spread over a time."""
    with httpx.Client(base_url=root, auth=(USERNAME, PASSWORD), timeout=60) as client:
        for start in range(0, messages, together):
            numbers = range(start, min(start + together, messages))
            message = {
                "from": "SHOP",
                "text": "your order is on its way",
                "destinations": [{"to": f"6600{number:07}"} for number in numbers],
                # Of each bulk another, which Message Logs do not tell.
                "notifyUrl": f"{callback}?order={start}",
            }
            client.post("/sms/send", json={"messages": [message]}).raise_for_status()
            time.sleep(random.uniform(0, 2 * seconds * together / messages))


def kill_now_and_then(processes: Processes, port: int, over: threading.Event) -> None:
    while not over.wait(random.uniform(8, 20)):
        processes.kill("web")
        processes.kills["web"] += 1
        processes.start("web")
        wait_for(lambda: is_open(port))


def reconcile(environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "flask", "ants-dr", "reconcile", "--since", "48h"]
    # Without grace, because nothing is on its way any more.
    done = subprocess.run(
        [*command, "--grace", "0s", "--json"], env=environment, check=True, capture_output=True
    )
    (found,) = json.loads(done.stdout).values()
    return dict(found)


def wait_until_done(database: Engine) -> None:
    pending = text("SELECT count(*) FROM ants_dr_messages WHERE state IN ('waiting', 'claimed')")
    end = time.monotonic() + 900
    while time.monotonic() < end:
        with database.connect() as connection:
            if not connection.scalar(pending):
                return
        time.sleep(0.5)


def campaign(
    kind: str, stack: ExitStack, messages: int, together: int, seconds: float, engine: str
) -> bool:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    url, port = empty_database(kind, stack, folder), free_port()
    ants = create_app(
        username=USERNAME,
        password=PASSWORD,
        statuses=STATUSES,
        lose=0.05,
        repeat=0.05,
        shuffle=0.05,
    )
    emulator: Emulator = ants.extensions["ants_emulator"]
    stack.callback(emulator.close)
    root = stack.enter_context(serving(ants)).removesuffix("/sms/callback")
    environment = os.environ | {
        "FLASK_APP": "host",
        "FLASK_ANTS_DR_USERNAME": USERNAME,
        "FLASK_ANTS_DR_PASSWORD": PASSWORD,
        "FLASK_ANTS_DR_API_URL": root,
        "FLASK_ANTS_DR_API_USERNAME": USERNAME,
        "FLASK_ANTS_DR_API_PASSWORD": PASSWORD,
        "FLASK_SQLALCHEMY_DATABASE_URI": url,
        "HOST_ENGINE": engine,
        "HOST_LEDGER": "1",
        "HOST_RESTS": "0.5",
        "PYTHONPATH": str(TESTS),
    }
    subprocess.run(
        [sys.executable, "-m", "flask", "ants-dr", "init-db"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    database = create_engine(url)
    stack.callback(database.dispose)
    Effect.metadata.create_all(database)
    commands = {
        "web": ["flask", "run", "--port", str(port)],
        "worker": ["flask", "ants-dr", "work", "--poll", "0.2", "--concurrency", "4"],
    }
    with running(commands, environment) as processes:
        wait_for(lambda: is_open(port))
        over = threading.Event()
        killer = threading.Thread(target=kill_now_and_then, args=(processes, port, over))
        killer.start()
        send(root, f"http://127.0.0.1:{port}/sms/callback", messages, together, seconds)
        emulator.flush(600)
        over.set()
        killer.join()
        wait_until_done(database)
        before = states(database)
        first = reconcile(environment)
        wait_until_done(database)
        after = states(database)
        with database.connect() as connection:
            rows = connection.execute(select(Effect.of, Effect.by))
            effects = Counter((of, by) for of, by in rows)
        second = reconcile(environment)
        kills = processes.kills["web"]

    sent = emulator.messages
    untold = sum(not message.was_told for message in sent)
    answers = Counter(answer for message in sent for _, answer in message.reports)
    true = {message.message_id: message.final for message in sent}
    missing = sum(
        (f"{id} {state}", by) not in effects for id, state in true.items() for by in SUBSCRIBERS
    )
    again = sum(number > 1 for number in effects.values())
    wrong = sum(after.get(id) != state for id, state in true.items())
    print(f"{kind}, {engine}: the web server was killed {kills} times")
    for name, number in {
        "messages": len(sent),
        "whose final state no callback told": untold,
        **{f"reports, answered: {answer}": number for answer, number in answers.items()},
        "wrong in the ledger before": sum(before.get(id) != one for id, one in true.items()),
        "the first reconcile: found": first["found"],
        "the first reconcile: new": first["new"],
        "the first reconcile: requests": first["asked"],
        "wrong in the ledger after": wrong,
        "effects of final states that are missing": missing,
        "effects that are there twice": again,
        "the second reconcile: new": second["new"],
    }.items():
        print(f"  {name:42}{number:8,}", flush=True)
    is_mended = len(sent) == messages == len(after) and not wrong
    return is_mended and bool(first["new"]) and not (missing or again or second["new"])


def states(database: Engine) -> dict[str, str]:
    with database.connect() as connection:
        rows = connection.execute(select(ledger.c.message_id, ledger.c.state))
        return {id: state for id, state in rows}  # noqa: C416  # dict() does not take rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ["sqlite", "postgresql", "mariadb"]
    parser.add_argument("kinds", nargs="*", default=["sqlite"], help=f"of {', '.join(kinds)}")
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--together", type=int, default=10, help="in a bulk")
    parser.add_argument("--seconds", type=float, default=60, help="that sending takes")
    parser.add_argument("--engine", choices=["eager", "deferred"], default="deferred")
    options = parser.parse_args()
    is_mended = True
    for kind in options.kinds:
        with ExitStack() as stack:
            is_mended &= campaign(
                kind,
                stack,
                options.messages,
                options.together,
                options.seconds,
                options.engine,
            )
    sys.exit(not is_mended)


if __name__ == "__main__":
    main()
