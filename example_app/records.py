"""What became of each message: tables beside those of the inbox, in its SQLite file.

Because it is one file, a record and the inbox's note that the message is done are lost together to
a power failure, or not at all. Times are seconds since 1970.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from contextlib import contextmanager
from pathlib import Path

from flask import Flask
from flask import current_app

from flask_ants_dr import DeliveryReport
from flask_ants_dr import MessageReport

_TABLES = """
CREATE TABLE IF NOT EXISTS example_messages (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    bulk_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    recipient TEXT NOT NULL,
    sender TEXT NOT NULL,
    text TEXT NOT NULL,
    state TEXT NOT NULL,
    is_final INTEGER NOT NULL,
    sent_at REAL,
    done_at REAL,
    seconds REAL AS (done_at - sent_at),
    recorded_at REAL NOT NULL,
    UNIQUE (source, bulk_id, message_id, recipient)
);
CREATE INDEX IF NOT EXISTS example_messages_latest ON example_messages (recorded_at);
CREATE INDEX IF NOT EXISTS example_messages_state ON example_messages (state, recorded_at);
CREATE INDEX IF NOT EXISTS example_messages_sender ON example_messages (sender, recorded_at);
CREATE INDEX IF NOT EXISTS example_messages_bulk ON example_messages (bulk_id, recorded_at);
CREATE INDEX IF NOT EXISTS example_messages_seconds ON example_messages (seconds);
CREATE TABLE IF NOT EXISTS example_reports (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES example_messages,
    status TEXT NOT NULL,
    code TEXT,
    description TEXT,
    done_at REAL NOT NULL,
    recorded_at REAL NOT NULL,
    UNIQUE (message, status, done_at)
);
CREATE TABLE IF NOT EXISTS example_problems (
    message INTEGER NOT NULL REFERENCES example_messages,
    member TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (message, member)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS example_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

# A report can come twice, and an early one after the last: so a message has one row, however often
# it is reported on, and a final state stays.
_RECORD_MESSAGE = """
INSERT INTO example_messages (
    source, bulk_id, message_id, recipient,
    sender, text, state, is_final, sent_at, done_at, recorded_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    state = excluded.state,
    is_final = excluded.is_final,
    sender = coalesce(nullif(excluded.sender, ''), sender),
    text = coalesce(nullif(excluded.text, ''), text),
    sent_at = coalesce(excluded.sent_at, sent_at),
    done_at = coalesce(excluded.done_at, done_at),
    recorded_at = excluded.recorded_at
WHERE NOT is_final AND excluded.state NOT IN (state, 'ACCEPTED')
"""

_RECORD_REPORT = """
INSERT INTO example_reports (message, status, code, description, done_at, recorded_at)
SELECT id, ?, ?, ?, ?, ? FROM example_messages
WHERE (source, bulk_id, message_id, recipient) = (?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

_RECORD_PROBLEM = """
INSERT INTO example_problems (message, member, reason)
SELECT id, ?, ? FROM example_messages
WHERE (source, bulk_id, message_id, recipient) = (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET reason = excluded.reason
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


def record(message: MessageReport, report: DeliveryReport) -> None:
    """Keep what a report says of a message. Hearing it twice ends as hearing it once."""
    now = time.time()
    status = message.status
    key = (report.source, report.bulk_id or "", message.message_id, message.to or "")
    sent_at = message.send_date and message.send_date.timestamp()
    done_at = message.done_date and message.done_date.timestamp()
    shown = (message.sender or "", message.text or "")
    life = (status.state, status.state.is_final, sent_at, done_at, now)
    said = (status.name, status.code, status.description, done_at or 0, now)
    with transaction("IMMEDIATE") as database:
        database.execute(_RECORD_MESSAGE, (*key, *shown, *life))
        database.execute(_RECORD_REPORT, (*said, *key))
        for member, reason in _problems(message).items():
            database.execute(_RECORD_PROBLEM, (member, reason, *key))


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
