"""What became of each message, in a SQLite file in the instance folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask
from flask import current_app

from flask_ants_dr import DeliveryReport
from flask_ants_dr import MessageReport

_TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    source TEXT, bulk_id TEXT, message_id TEXT, recipient TEXT,
    state TEXT, is_final INTEGER, done_date TEXT,
    PRIMARY KEY (source, bulk_id, message_id, recipient)
)
"""

# A report can come twice, and an early one after the last: so a message has one row, however often
# it is reported on, and a final state stays.
_RECORD = """
INSERT INTO messages (source, bulk_id, message_id, recipient, state, is_final, done_date)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    state = iif(is_final, state, excluded.state),
    done_date = iif(is_final, done_date, excluded.done_date),
    is_final = is_final OR excluded.is_final
"""

_LATEST = """
SELECT bulk_id, message_id, '***' || substr(recipient, -4) AS recipient, state, done_date
FROM messages ORDER BY rowid DESC LIMIT 100
"""


def init_app(app: Flask) -> None:
    Path(app.instance_path).mkdir(exist_ok=True)
    with app.app_context(), closing(_connect()) as database:
        database.execute(_TABLE)


def record(message: MessageReport, report: DeliveryReport) -> None:
    done_date = message.done_date and message.done_date.isoformat()
    state = message.status.state
    key = (report.source, report.bulk_id or "", message.message_id, message.to or "")
    with closing(_connect()) as database, database:
        database.execute(_RECORD, (*key, state, state.is_final, done_date))


def latest() -> list[dict[str, Any]]:
    with closing(_connect()) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(_LATEST)]


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(Path(current_app.instance_path, "messages.sqlite3"))
