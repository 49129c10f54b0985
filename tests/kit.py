"""What many tests use: a host application, a client that posts to it and an ear for its signals."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blinker import NamedSignal
from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup
from flask.testing import FlaskClient
from marshmallow import pre_load
from sqlalchemy import Connection
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy import update
from werkzeug.test import TestResponse

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.inbox.tables import State
from flask_ants_dr.inbox.tables import callbacks
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.inbox.tables import quarantine
from flask_ants_dr.schemas import Details
from flask_ants_dr.signals import ALL
from servers import MariaDB

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "flask_ants_dr" / "samples"
TESTS = ROOT / "tests"
#: The fields of a message that can be missing, by their names on the wire.
OPTIONAL = {
    field.data_key or name: field
    for name, field in MessageSchema().load_fields.items()
    if not field.required
}
USERNAME = "ants"
PASSWORD = "s3cret-pair"


class Heard:
    """What an application's signals said: ``(signal, arguments)`` in the order of sending."""

    def __init__(self, app: Flask) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._subscribers = [self._connect(app, signal) for signal in ALL]

    def _connect(self, app: Flask, signal: NamedSignal) -> Callable[..., None]:
        name = signal.name.replace("-", "_")

        def subscriber(sender: Flask, **arguments: Any) -> None:
            assert sender is app
            self.calls.append((name, arguments))

        signal.connect(subscriber, sender=app)
        return subscriber  # signals hold it weakly

    def arguments(self, name: str) -> list[dict[str, Any]]:
        return [arguments for signal, arguments in self.calls if signal == name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @property
    def messages(self) -> list[MessageReport]:
        return [arguments["message"] for arguments in self.arguments("message_reported")]


def make_app(blueprint: DeliveryReportBlueprint | None = None, **config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME=USERNAME, ANTS_DR_PASSWORD=PASSWORD)
    app.config.update(config)
    app.register_blueprint(blueprint or DeliveryReportBlueprint())
    return app


def detail(**members: Any) -> dict[str, Any]:
    return {"messageId": "1", "status": {"name": "DELIVERED"}} | members


def callback(*details: Any, **envelope: Any) -> dict[str, Any]:
    return {"bulkId": "b", "details": list(details)} | envelope


class Ants:
    """Posts callbacks as ANTS does."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def post(
        self,
        body: Any,
        content_type: str | None = "application/json",
        *,
        url: str = "/sms/callback",
        **options: Any,
    ) -> TestResponse:
        if isinstance(body, dict | list):
            body = json.dumps(body)
        options.setdefault("auth", (USERNAME, PASSWORD))
        return self.client.post(url, data=body, content_type=content_type, **options)


class RenamedMessageSchema(MessageSchema):
    @pre_load
    def rename(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"messageId" if name == "id" else name: value for name, value in data.items()}


class RenamedSchema(ReportSchema):
    details = Details(RenamedMessageSchema, attribute="messages", required=True)

    @pre_load
    def rename(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"details" if name == "reports" else name: value for name, value in data.items()}


def bound_inbox(app: Flask) -> BoundInbox:
    return bound_inboxes(app)[0]


MakeApp = Callable[..., Flask]


def many(count: int, **members: Any) -> dict[str, Any]:
    return callback(*[detail(messageId=f"m{number}", **members) for number in range(count)])


def rows(app: Flask, table: str = "messages") -> int:
    with bound_inbox(app).database.begin() as connection:
        count = connection.scalar(text(f"SELECT count(*) FROM ants_dr_{table}"))
        assert isinstance(count, int)
        return count


def counts(app: Flask) -> dict[str, int]:
    """How many messages are pending, done and dead."""
    inbox = bound_inbox(app)
    with inbox.database.begin(writes=False) as connection:
        states = select(messages.c.state).where(messages.c.source == inbox.source)
        found = Counter(connection.scalars(states))
    pending = found[State.WAITING] + found[State.CLAIMED]
    return {"pending": pending, "done": found[State.DONE], "dead": found[State.DEAD]}


def make_older(app: Flask, days: float) -> None:
    """Have everything that is stored be so much older."""
    seconds = days * 86_400
    columns = callbacks.c.received_at, messages.c.finished_at, quarantine.c.quarantined_at
    with bound_inbox(app).database.begin() as connection:
        for column in columns:
            connection.execute(update(column.table).values({column.name: column - seconds}))


def drain(app: Flask) -> int:
    total = 0
    while count := bound_inbox(app).take():
        total += count
    return total


def stop_server(server: Any) -> None:
    """Stop it, and wait until it has: PostgreSQL would be taken for a running one."""
    server.stop()
    if isinstance(server, MariaDB):
        return
    deadline = time.monotonic() + 60
    while (server.pgdata / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "PostgreSQL does not stop"
        time.sleep(0.05)


@contextmanager
def locked(connection: Connection) -> Iterator[None]:
    """Nobody else can read or write callbacks."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE ants_dr_callbacks IN ACCESS EXCLUSIVE MODE")
    elif connection.dialect.name != "sqlite":
        connection.exec_driver_sql("LOCK TABLES ants_dr_callbacks WRITE")
    yield
    if connection.dialect.name not in {"postgresql", "sqlite"}:
        connection.exec_driver_sql("UNLOCK TABLES")
    connection.rollback()


def run(app: Flask, *arguments: str, code: int = 0) -> str:
    """What a command of ``flask ants-dr`` prints."""
    group = FlaskGroup(create_app=lambda: app)
    result = CliRunner().invoke(group, ["ants-dr", *arguments])
    assert result.exit_code == code, result.output
    return str(result.output)
