"""What the ledger does not keep: every report on a message, and the texts.

It is a table beside those of the inbox, in its SQLite file: so a record and the inbox's note that
the message is done are lost together to a power failure, or not at all. Of a phone number it has
the last four digits, so that whoever erases one need not know of it. Times are seconds since 1970.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from contextlib import contextmanager
from pathlib import Path

from flask import Flask
from flask import current_app

from flask_ants_dr import MessageReport

_TABLES = """
CREATE TABLE IF NOT EXISTS example_history (
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    number_end TEXT NOT NULL,
    status TEXT NOT NULL,
    code TEXT,
    description TEXT,
    text TEXT,
    problems TEXT NOT NULL,
    done_at REAL NOT NULL,
    seconds REAL,
    recorded_at REAL NOT NULL,
    UNIQUE (message_id, number_end, status, done_at)
);
CREATE INDEX IF NOT EXISTS example_history_seconds ON example_history (seconds);
CREATE TABLE IF NOT EXISTS example_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_RECORD = """
INSERT INTO example_history (
    message_id, number_end, status, code, description, text, problems, done_at, seconds, recorded_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

_SET = """
INSERT INTO example_settings (name, value) VALUES (?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value
"""


def init_app(app: Flask, path: Path) -> None:
    """Keep the records of an application in the file ``path``."""
    app.extensions["example_records"] = path
    path.parent.mkdir(parents=True, exist_ok=True)
    with app.app_context(), closing(connect()) as database:
        database.executescript(_TABLES)


def connect() -> sqlite3.Connection:
    database = sqlite3.connect(current_app.extensions["example_records"], isolation_level=None)
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    return database


@contextmanager
def transaction(kind: str = "") -> Iterator[sqlite3.Connection]:
    """All or nothing; and whatever is read in it is of one moment.

    :param kind: ``IMMEDIATE`` to write.
    """
    with closing(connect()) as database, database:
        database.execute(f"BEGIN {kind}")
        yield database


@contextmanager
def watch() -> Iterator[Callable[[], int]]:
    """A function whose answer changes whenever anyone has committed anything to the database."""
    with closing(connect()) as database:
        yield lambda: int(database.execute("PRAGMA data_version").fetchone()[0])


def key(message_id: str, to: str | None) -> tuple[str, str]:
    """By what a message is known here: its identifier as the ledger has it, and the last four
    digits of its number."""
    return message_id[:200], "".join(filter(str.isdigit, to or ""))[-4:]


def record(message: MessageReport) -> None:
    """Keep what a report says of a message. Hearing it twice ends as hearing it once."""
    status = message.status
    seconds = None
    if status.state.is_final and message.send_date and message.done_date:
        seconds = (message.done_date - message.send_date).total_seconds()
    done_at = message.done_date.timestamp() if message.done_date else 0.0
    said = (status.name, status.code, status.description, message.text)
    problems = json.dumps(_problems(message))
    row = (*key(message.message_id, message.to), *said, problems, done_at, seconds, time.time())
    with transaction("IMMEDIATE") as database:
        database.execute(_RECORD, row)


def history(database: sqlite3.Connection, message_id: str, to: str | None) -> list[sqlite3.Row]:
    """All that was reported on a message, in the order in which it came."""
    return database.execute(
        "SELECT * FROM example_history WHERE (message_id, number_end) = (?, ?) ORDER BY id",
        key(message_id, to),
    ).fetchall()


def _problems(message: MessageReport) -> dict[str, str]:
    of_status = {f"status.{name}": why for name, why in message.status.problems.items()}
    return {**message.problems, **of_status}


def setting(name: str) -> str | None:
    with closing(connect()) as database:
        found = database.execute("SELECT value FROM example_settings WHERE name = ?", (name,))
        row = found.fetchone()
    return str(row["value"]) if row else None


def touch() -> None:
    """Have everyone who watches look again."""
    set_setting("touched", str(time.time()))


def set_setting(name: str, value: str) -> None:
    with transaction("IMMEDIATE") as database:
        database.execute(_SET, (name, value))
