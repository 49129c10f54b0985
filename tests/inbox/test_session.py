"""An inbox in the host's own database: what a subscriber writes, and the note that it has had a
message, are there together or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask import g
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import scoped_session
from sqlalchemy.orm import sessionmaker

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import Discard
from flask_ants_dr import RetryLater
from flask_ants_dr import callback_rejected
from flask_ants_dr import message_dead
from flask_ants_dr import message_invalid
from flask_ants_dr import message_reported
from flask_ants_dr import report_received
from flask_ants_dr.errors import InboxUnavailable
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import delivery
from flask_ants_dr.inbox import messages
from flask_ants_dr.inbox.tables import ledger
from flask_ants_dr.inbox.tables import messages as table
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import many
from servers import wait_for


class Base(DeclarativeBase):
    pass


class Effect(Base):
    """What a subscriber does. Nothing in it catches a repetition."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    of: Mapped[str] = mapped_column(sa.String(100))
    by: Mapped[str] = mapped_column(sa.String(100))


class Host:
    """An application with Flask-SQLAlchemy and an inbox in the same database."""

    def __init__(
        self,
        url: str,
        *,
        blueprint: dict[str, Any] | None = None,
        engine: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.db = SQLAlchemy(model_class=Base, disable_autonaming=True)
        inbox = Inbox(session=self.db.session, **options)
        self.app = make_app(
            DeliveryReportBlueprint(inbox=inbox, **blueprint or {}),
            SQLALCHEMY_DATABASE_URI=url,
            SQLALCHEMY_ENGINE_OPTIONS=engine or {},
        )
        self.db.init_app(self.app)
        with self.app.app_context():
            Base.metadata.create_all(self.db.engine)
        bound_inbox(self.app).database.create_tables()
        self.ants = Ants(self.app.test_client())
        self._subscribers: list[Callable[..., None]] = []

    def connect(self, signal: Any = message_reported) -> Callable[..., Any]:
        def connect(subscriber: Callable[..., None]) -> Callable[..., None]:
            self._subscribers.append(subscriber)
            signal.connect(subscriber, sender=self.app)
            return subscriber

        return connect

    def write(self, of: str, by: str = "") -> None:
        self.db.session.add(Effect(of=of, by=by))
        self.db.session.flush()

    @property
    def effects(self) -> list[str]:
        with self.app.app_context():
            chosen = sa.select(Effect.of).order_by(Effect.id)
            return list(self.db.session.scalars(chosen))

    @property
    def inbox_engine(self) -> sa.Engine:
        return bound_inbox(self.app).database.open()

    def close(self) -> None:
        with self.app.app_context():
            for engine in self.db.engines.values():
                engine.dispose()


@pytest.fixture
def make_host(inbox_url: str) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(url: str = inbox_url, **options: Any) -> Host:
        hosts.append(Host(url, **options))
        return hosts[-1]

    yield make
    wait_for(lambda: not delivery._keeper._batches)
    for host in hosts:
        host.close()


MakeHost = Callable[..., Host]


def leaves(host: Host) -> None:
    """It leaves the commit to the inbox."""


def commits(host: Host) -> None:
    host.db.session.commit()


def commits_twice(host: Host) -> None:
    host.db.session.commit()
    host.write("again")
    host.db.session.commit()


def begins_nested(host: Host) -> None:
    with host.db.session.begin_nested():
        host.write("nested")


def begins_nested_and_fails(host: Host) -> None:
    with suppress(ZeroDivisionError), host.db.session.begin_nested():
        host.write("never")
        raise ZeroDivisionError


def removes(host: Host) -> None:
    host.db.session.commit()
    host.db.session.remove()


def removes_and_goes_on(host: Host) -> None:
    host.db.session.remove()
    host.write("after")
    host.db.session.commit()


ENDINGS: dict[Callable[[Host], None], list[str]] = {
    leaves: ["m0"],
    commits: ["m0"],
    commits_twice: ["m0", "again"],
    begins_nested: ["m0", "nested"],
    begins_nested_and_fails: ["m0"],
    removes: ["m0"],
    removes_and_goes_on: ["after"],
}


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "deferred"])
def test_the_note_goes_with_what_a_subscriber_wrote(
    make_host: MakeHost, end: Callable[[Host], None], eager: bool
) -> None:
    host = make_host(eager=eager)

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        end(host)

    assert host.ants.post(many(1)).status_code == 200
    drain(host.app)
    assert host.effects == ENDINGS[end]
    assert counts(host.app) == {"pending": 0, "done": 1, "dead": 0}


@pytest.mark.parametrize(
    "end", [end for end in ENDINGS if end not in (leaves, begins_nested_and_fails)]
)
def test_what_is_committed_is_noted_in_the_same_transaction(
    make_host: MakeHost, end: Callable[[Host], None]
) -> None:
    """A process that is killed after the commit: the message is not dispatched again."""
    host = make_host(eager=False)

    class Killed(KeyboardInterrupt):
        pass

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        end(host)
        if end is begins_nested:
            host.db.session.commit()
        raise Killed

    host.ants.post(many(1))
    inbox = bound_inbox(host.app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery.Batch, "end", lambda *arguments: None)
        patch.setattr(delivery.Batch, "close", lambda batch: delivery._keeper.remove(batch))
        with pytest.raises(Killed):
            inbox.take()
    assert counts(host.app) == {"pending": 0, "done": 1, "dead": 0}
    assert host.effects == ENDINGS[end]


def test_a_subscriber_that_raises_leaves_nothing(make_host: MakeHost) -> None:
    host = make_host(backoff=0.0)
    fails = [True]

    @host.connect()
    def first(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id, "first")

    @host.connect()
    def second(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id, "second")
        if fails.pop() if fails else False:
            # A session that is no longer usable until it is rolled back.
            host.db.session.add(Effect(id=1, of=message.message_id, by="broken"))
            host.db.session.flush()

    @host.connect()
    def third(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id, "third")

    host.ants.post(many(1))
    with host.app.app_context():
        by = sa.select(Effect.by).order_by(Effect.id)
        assert list(host.db.session.scalars(by)) == ["first", "third"]
    drain(host.app)
    with host.app.app_context():
        assert list(host.db.session.scalars(by)) == ["first", "third", "second"]
    assert counts(host.app)["done"] == 1


def test_one_that_commits_and_then_raises_is_called_again(make_host: MakeHost) -> None:
    host = make_host(backoff=0.0)
    errors = [ZeroDivisionError()]

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        host.db.session.commit()
        if errors:
            raise errors.pop()

    host.ants.post(many(1))
    assert counts(host.app) == {"pending": 1, "done": 0, "dead": 0}
    drain(host.app)
    assert host.effects == ["m0", "m0"]
    assert counts(host.app)["done"] == 1


CONNECTION_ID = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_one_that_commits_and_returns_is_not_called_again(
    make_host: MakeHost, inbox_url: str
) -> None:
    """Whatever becomes of its connection: there is nothing left to commit."""
    host = make_host(backoff=0.0)
    kind = host.inbox_engine.dialect.name
    another = sa.create_engine(inbox_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    calls = []

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        calls.append(message.message_id)
        host.write(message.message_id)
        number = host.db.session.scalar(sa.text(CONNECTION_ID[kind]))
        host.db.session.commit()
        with another.connect() as connection:
            connection.exec_driver_sql(KILL[kind].format(number))

    host.ants.post(many(1))
    drain(host.app)
    assert calls == host.effects == ["m0"]
    assert counts(host.app)["done"] == 1


def test_what_is_raised_after_the_last_commit_is_none_of_the_subscribers(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a time limit of Celery's, or by whoever listens to the host's session."""
    host = make_host(backoff=0.0)
    raises = [LookupError]

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)

    def listen(session: Session) -> None:
        if raises and counts(host.app)["done"]:
            raise raises.pop()

    sa.event.listen(host.db.session, "after_commit", listen)
    host.ants.post(many(1))
    drain(host.app)
    assert not raises
    assert host.effects == ["m0"]
    assert counts(host.app)["done"] == 1
    assert "after message 1 was done" in caplog.text


SNAPSHOTS = {
    "postgresql": {"isolation_level": "REPEATABLE READ"},
    "mariadb": {
        "isolation_level": "REPEATABLE READ",
        "connect_args": {"init_command": "SET SESSION innodb_snapshot_isolation=ON"},
    },
}


@pytest.mark.parametrize("inbox_url", list(SNAPSHOTS), indirect=True)
def test_a_claim_that_is_renewed_while_a_snapshot_is_open(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The note changes a row that must not have changed since."""
    monkeypatch.setattr(delivery, "RENEWED", 0.1)
    kind = request.node.callspec.params["inbox_url"]
    host = make_host(backoff=0.0, eager=False, engine=SNAPSHOTS[kind])
    renewed, renew = list[int](), messages.renew

    def counted(connection: sa.Connection, token: str, ids: list[int], until: float) -> None:
        renew(connection, token, ids, until)
        renewed.append(len(ids))

    monkeypatch.setattr(messages, "renew", counted)
    calls = []

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        calls.append(message.message_id)
        host.db.session.scalar(sa.select(sa.func.count()).select_from(Effect))
        before = len(renewed)
        wait_for(lambda: len(renewed) > before + 1)
        host.write(message.message_id)

    host.ants.post(many(2))
    drain(host.app)
    assert calls == host.effects == ["m0", "m1"]
    assert renewed[0] == 1


def test_a_claim_that_is_lost_rolls_everything_back(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(eager=False)
    calls = []

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        calls.append(message.message_id)
        if len(calls) == 1:
            # Another worker has taken it for left by a dead process.
            with host.db.engine.begin() as connection:
                connection.execute(sa.update(table).values(claim="another", due_at=0.0))
        host.write(message.message_id)
        if len(calls) == 1:
            with suppress(Exception):  # whatever a host makes of it
                host.db.session.commit()

    host.ants.post(many(1))
    bound_inbox(host.app).take()
    assert host.effects == []
    assert "taken for left by a dead process" in caplog.text
    assert counts(host.app) == {"pending": 1, "done": 0, "dead": 0}
    bound_inbox(host.app)._next_recovery = 0.0
    drain(host.app)
    assert host.effects == ["m0"]
    assert counts(host.app)["done"] == 1


def test_discard_and_retry_later(make_host: MakeHost) -> None:
    host = make_host()

    @host.connect()
    def discards(app: Flask, message: Any, **extra: Any) -> None:
        host.write("discarded")
        raise Discard("not ours")

    @host.connect()
    def waits(app: Flask, message: Any, **extra: Any) -> None:
        host.write("early")
        raise RetryLater(60)

    host.ants.post(many(1))
    assert host.effects == []
    (retrying,) = bound_inbox(host.app).status()["retrying"]
    assert retrying["failed_by"].endswith("waits")
    with bound_inbox(host.app).database.begin(writes=False) as connection:
        had_by = str(connection.scalar(sa.select(table.c.had_by)))
    assert "discards" in had_by
    assert "waits" not in had_by


def test_discard_alone_is_done(make_host: MakeHost) -> None:
    host = make_host()

    @host.connect()
    def discards(app: Flask, message: Any, **extra: Any) -> None:
        host.write("discarded")
        raise Discard("not ours")

    host.ants.post(many(1))
    assert host.effects == []
    assert counts(host.app)["done"] == 1


def test_what_is_written_for_other_signals_is_committed(make_host: MakeHost) -> None:
    host = make_host(max_attempts=1)
    for name, signal in {
        "received": report_received,
        "invalid": message_invalid,
        "dead": message_dead,
        "rejected": callback_rejected,
    }.items():

        def subscriber(app: Flask, name: str = name, **extra: Any) -> None:
            host.write(name)

        host.connect(signal)(subscriber)

    @host.connect()
    def fails(app: Flask, **extra: Any) -> None:
        raise ZeroDivisionError

    assert host.ants.post(callback(detail(), {"messageId": "2"})).status_code == 200
    assert host.ants.post("{").status_code == 400
    assert host.effects == ["received", "invalid", "dead", "rejected"]


def test_a_host_that_commits_after_each_request(make_host: MakeHost) -> None:
    """What it has begun in the request is its own, and stays so."""
    host = make_host()

    @host.app.before_request
    def begin() -> None:
        if host.app.config.get("WRITES_FIRST"):
            host.db.session.add(Effect(of="request", by=""))

    @host.app.after_request
    def commit(response: Any) -> Any:
        host.db.session.commit()
        return response

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)

    host.app.config["WRITES_FIRST"] = True
    assert host.ants.post(many(2)).status_code == 200
    assert sorted(host.effects) == ["m0", "m1", "request"]


def test_a_coroutine(make_host: MakeHost) -> None:
    host = make_host()

    @host.connect()
    async def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        host.db.session.commit()
        host.write("left")

    host.ants.post(many(1))
    assert host.effects == ["m0", "left"]
    assert counts(host.app)["done"] == 1


def test_there_is_no_second_pool(make_host: MakeHost) -> None:
    host = make_host()
    with host.app.app_context():
        assert bound_inbox(host.app).database.open() is host.db.engine


def test_in_memory(make_host: MakeHost) -> None:
    """As a host's tests have it."""
    host = make_host("sqlite://")

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        if message.message_id == "m1":
            host.db.session.commit()
        if message.message_id == "m2":
            raise ZeroDivisionError

    with host.app.app_context():
        host.db.session.add(Effect(of="of the test", by=""))
        host.db.session.flush()
        assert host.ants.post(many(3)).status_code == 200
    assert host.effects == ["of the test", "m0", "m1"]
    assert counts(host.app) == {"pending": 1, "done": 2, "dead": 0}
    assert host.ants.post(many(3)).json == {"accepted": 3, "rejected": 0}
    assert len(host.effects) == 3


def test_a_model_of_another_database(make_host: MakeHost, tmp_path: Path) -> None:
    """What it writes there is not in the same transaction, but committed with it."""
    url = f"sqlite:///{tmp_path}/other.sqlite3"
    db = SQLAlchemy()

    class Other(db.Model):  # type: ignore[misc,name-defined]
        __bind_key__ = "other"
        id: Mapped[int] = mapped_column(primary_key=True)

    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(session=db.session)),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/main.sqlite3",
        SQLALCHEMY_BINDS={"other": url},
    )
    db.init_app(app)

    def subscriber(app: Flask, **extra: Any) -> None:
        db.session.add(Other())

    message_reported.connect(subscriber, sender=app)
    with app.app_context():
        db.create_all()
        assert Ants(app.test_client()).post(many(2)).status_code == 200
        assert db.session.scalar(sa.select(sa.func.count()).select_from(Other)) == 2
        assert counts(app)["done"] == 2
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()


@contextmanager
def of_context(app: Flask, url: str) -> Iterator[Any]:
    """As Flask-SQLAlchemy-Lite has it."""
    engine = sa.create_engine(url)
    sessions = sessionmaker(engine)

    def get_session() -> Session:
        if "session" not in g:
            g.session = sessions()
        session: Session = g.session
        return session

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        if session := g.pop("session", None):
            session.close()

    yield get_session
    engine.dispose()


@contextmanager
def scoped(app: Flask, url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    session = scoped_session(sessionmaker(engine))
    app.teardown_appcontext(lambda error: session.remove())
    yield session
    session.remove()
    engine.dispose()


@contextmanager
def never_removed(app: Flask, url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    session = scoped_session(sessionmaker(engine))
    yield session
    session.remove()
    engine.dispose()


@contextmanager
def plain(app: Flask, url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.mark.parametrize("make", [of_context, scoped, never_removed, plain])
def test_each_kind_of_session(inbox_url: str, make: Callable[[Flask, str], Any]) -> None:
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME="ants", ANTS_DR_PASSWORD="s3cret-pair")
    with make(app, inbox_url) as session:
        app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(session=session, backoff=0.0)))
        inbox = bound_inbox(app)
        inbox.database.create_tables()
        Base.metadata.create_all(inbox.database.open())
        present = session if callable(session) else lambda: session
        failed: list[str] = []

        def subscriber(app: Flask, message: Any, **extra: Any) -> None:
            with present().begin() if message.message_id == "m1" else present().begin_nested():
                present().add(Effect(of=message.message_id, by=""))
            if message.message_id == "m2" and not failed:
                failed.append(message.message_id)
                raise ZeroDivisionError

        message_reported.connect(subscriber, sender=app)
        assert Ants(app.test_client()).post(many(3)).status_code == 200
        drain(app)
        with app.app_context():
            assert list(present().scalars(sa.select(Effect.of))) == ["m0", "m1", "m2"]
            present().rollback()
        assert counts(app)["done"] == 3
    wait_for(lambda: not delivery._keeper._batches)


def test_a_url_of_another_database_is_an_error(tmp_path: Path) -> None:
    db = SQLAlchemy()
    app = Flask(__name__)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/one.sqlite3",
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/two.sqlite3",
        ANTS_DR_USERNAME="ants",
        ANTS_DR_PASSWORD="s3cret-pair",
    )
    db.init_app(app)
    with pytest.raises(ValueError, match="ANTS_DR_INBOX_URL names another database"):
        app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(session=db.session)))
    app = Flask(__name__)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/one.sqlite3",
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/one.sqlite3",
        ANTS_DR_USERNAME="ants",
        ANTS_DR_PASSWORD="s3cret-pair",
    )
    db.init_app(app)
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox(session=db.session)))


def test_an_extension_that_meets_the_application_later(tmp_path: Path) -> None:
    """What is wrong is said when it is first used, and by check."""
    db = SQLAlchemy()
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(session=db.session)),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/one.sqlite3",
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/two.sqlite3",
    )
    db.init_app(app)
    response = Ants(app.test_client()).post(many(1))
    assert response.status_code == 503
    assert "ANTS_DR_INBOX_URL names another database" in response.text
    with pytest.raises(InboxUnavailable, match="ANTS_DR_INBOX_URL names another database"):
        bound_inbox(app).probe()


def test_an_extension_that_never_meets_the_application() -> None:
    db = SQLAlchemy()
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(session=db.session)))
    response = Ants(app.test_client()).post(many(1))
    assert response.status_code == 503
    assert "db.init_app(app) is missing" in response.text


def test_what_is_no_session_is_an_error() -> None:
    blueprint = DeliveryReportBlueprint(inbox=Inbox(session=lambda: "db"))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="takes a Session of SQLAlchemy"):
        make_app(blueprint)


def test_settings_of_the_hosts_sqlite_come_back(tmp_path: Path) -> None:
    """And where its engine begins transactions by an event, as SQLAlchemy's recipe has it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/host.sqlite3", pool_size=1, max_overflow=0)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA busy_timeout=1234")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    session = scoped_session(sessionmaker(engine))
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(session=session, timeout=0.5)))
    app.teardown_appcontext(lambda error: session.remove())
    ants = Ants(app.test_client())
    assert ants.post(many(2)).status_code == 200
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 0
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1234
    # It is a writer from the beginning, and waits for its turn as long as it may.
    other = sa.create_engine(f"sqlite:///{tmp_path}/host.sqlite3")
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert ants.post(many(3)).status_code == 503
        assert time.monotonic() - started > 0.4
        connection.rollback()
    assert ants.post(many(3)).status_code == 200
    other.dispose()
    engine.dispose()


def test_a_lease_holds_in_the_hosts_database(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """One that does not return has failed; what it commits later is rolled back."""
    caplog.set_level(logging.ERROR)
    host = make_host(eager=False, lease=0.2, backoff=3600.0)
    returned: list[BaseException | None] = []

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        wait_for(lambda: "longer than the lease" in caplog.text)
        if not bound_inbox(host.app).database.is_sqlite:
            wait_for(lambda: not delivery._keeper._batches)
        try:
            host.db.session.commit()
        except Exception as error:
            returned.append(error)
            raise

    host.ants.post(many(1))
    bound_inbox(host.app).take()
    wait_for(lambda: not delivery._keeper._batches)
    if bound_inbox(host.app).database.is_sqlite:
        # SQLite's one writer is the subscriber, for which the mark waits, and then comes too late.
        assert host.effects == ["m0"]
        assert counts(host.app)["done"] == 1
    else:
        assert host.effects == []
        assert [type(error).__name__ for error in returned] == ["ClaimLost"]
        assert counts(host.app) == {"pending": 1, "done": 0, "dead": 0}


def test_what_was_noted_before_an_interruption_stays(make_host: MakeHost) -> None:
    """Ctrl-C ends a process as SIGKILL does."""
    host = make_host(eager=False, backoff=0.0)
    interruptions: list[BaseException] = [KeyboardInterrupt()]

    @host.connect()
    def one(app: Flask, message: Any, **extra: Any) -> None:
        host.write("one")

    @host.connect()
    def two(app: Flask, message: Any, **extra: Any) -> None:
        host.write("two")
        host.db.session.commit()
        if interruptions:
            raise interruptions.pop()

    @host.connect()
    def three(app: Flask, message: Any, **extra: Any) -> None:
        host.write("three")

    host.ants.post(many(1))
    with pytest.raises(KeyboardInterrupt):
        bound_inbox(host.app).take()
    drain(host.app)
    assert host.effects == ["one", "two", "three"]


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_a_lease_that_ends_while_one_of_two_commits(make_host: MakeHost) -> None:
    """SQLite's one writer is the subscriber: the mark of its failure comes after its note."""
    host = make_host(eager=False, lease=0.2, backoff=0.0)
    waits = [True]

    @host.connect()
    def one(app: Flask, message: Any, **extra: Any) -> None:
        host.write("one")
        if waits.pop() if waits else False:
            wait_for(lambda: bound_inbox(host.app).blocked)

    @host.connect()
    def two(app: Flask, message: Any, **extra: Any) -> None:
        host.write("two")

    host.ants.post(many(1))
    inbox = bound_inbox(host.app)
    inbox.take()
    wait_for(lambda: not delivery._keeper._batches)
    inbox.blocked.clear()
    drain(host.app)
    assert sorted(host.effects) == ["one", "two"]


def test_a_context_within_the_turn_has_a_session_of_its_own(make_host: MakeHost) -> None:
    """What a helper commits there is not what the subscriber does: it takes no note along."""
    host = make_host(eager=False)

    class Killed(KeyboardInterrupt):
        pass

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        with app.app_context():
            host.write("within")
            host.db.session.commit()
        host.write("never")
        raise Killed

    host.ants.post(many(1))
    with pytest.raises(Killed):
        bound_inbox(host.app).take()
    assert host.effects == ["within"]
    assert counts(host.app) == {"pending": 1, "done": 0, "dead": 0}


def test_a_connection_that_is_lost_in_a_commit(make_host: MakeHost) -> None:
    """Whether it was done, nobody is told: the database knows."""
    host = make_host(backoff=0.0)
    lost = [True]

    @sa.event.listens_for(host.inbox_engine, "commit")
    def commit(connection: sa.Connection) -> None:
        if connection.info.pop("loses", False) and lost:
            lost.clear()
            driver_connection: Any = connection.connection.driver_connection
            driver_connection.commit()
            raise sa.exc.OperationalError("COMMIT", {}, OSError("the answer never came"))

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)
        host.db.session.connection().info["loses"] = True

    host.ants.post(many(1))
    drain(host.app)
    assert not lost
    assert host.effects == ["m0"]
    assert counts(host.app)["done"] == 1


def test_another_database_on_a_server(make_host: MakeHost, tmp_path: Path, postgresql: Any) -> None:
    """Of a host whose inbox is in SQLite."""
    db = SQLAlchemy()
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(session=db.session)),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/main.sqlite3",
        SQLALCHEMY_BINDS={"server": postgresql.get_uri("postgres", "psycopg")},
    )
    db.init_app(app)
    answers = []

    def subscriber(app: Flask, **extra: Any) -> None:
        server = {"bind": db.engines["server"]}
        answers.append(db.session.scalar(sa.text("SELECT 41 + 1"), bind_arguments=server))

    message_reported.connect(subscriber, sender=app)
    assert Ants(app.test_client()).post(many(1)).status_code == 200
    assert answers == [42]
    assert counts(app)["done"] == 1
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def test_a_teardown_that_fails_after_the_last(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """It is done all the same, and nobody is told that it is dead."""
    host = make_host(max_attempts=1, eager=False)
    dead: list[Any] = []
    host.connect(message_dead)(lambda app, **extra: dead.append(extra))

    @host.connect()
    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)

    @host.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        raise ZeroDivisionError

    with suppress(ZeroDivisionError):  # of the request's own context
        host.ants.post(many(1))
    bound_inbox(host.app).take()
    host.app.teardown_appcontext_funcs.remove(teardown)
    assert counts(host.app) == {"pending": 0, "done": 1, "dead": 0}
    assert not dead
    assert "after message 1 was done" in caplog.text


@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
def test_an_engine_that_commits_each_statement(inbox_url: str) -> None:
    engine = sa.create_engine(inbox_url, isolation_level="AUTOCOMMIT")
    session = scoped_session(sessionmaker(engine))
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(session=session)))
    bound_inbox(app).database.create_tables()
    response = Ants(app.test_client()).post(many(1))
    assert response.status_code == 503
    assert "AUTOCOMMIT" in response.text
    session.remove()
    engine.dispose()


@pytest.mark.parametrize("inbox_url", ["mariadb"], indirect=True)
def test_a_connection_that_cannot_send_every_text(make_host: MakeHost, inbox_url: str) -> None:
    url = sa.make_url(inbox_url).update_query_dict({"charset": "latin1"})
    host = make_host(url.render_as_string(hide_password=False))
    response = host.ants.post(many(1))
    assert response.status_code == 503
    assert "put charset=utf8mb4 into its URL" in response.text


@pytest.mark.parametrize("name", ["checkout", "begin"])
def test_an_engine_that_reads_before_each_transaction(make_host: MakeHost, name: str) -> None:
    host = make_host()
    calls = []

    def read(connection: Any, *others: Any) -> None:
        calls.append(connection)
        if name == "begin":
            connection.exec_driver_sql("SELECT count(*) FROM effects").scalar()
        else:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM effects")
            cursor.fetchall()
            cursor.close()

    @host.connect()
    def keep(sender: Flask, message: Any, **extra: Any) -> None:
        host.write(message.message_id)

    sa.event.listen(host.inbox_engine, name, read)
    assert host.ants.post(many(2)).status_code == 200
    assert calls
    assert host.effects == ["m0", "m1"]


@pytest.mark.parametrize("inbox_url", ["mariadb"], indirect=True)
def test_the_hosts_transaction_in_the_one_connection_is_not_committed(make_host: MakeHost) -> None:
    host = make_host(engine={"poolclass": sa.StaticPool})
    with host.app.app_context():
        host.write("unfinished")
        assert host.ants.post(many(1)).status_code == 503
        host.db.session.rollback()
    assert host.effects == []


@pytest.mark.slow(reason="waits for a lock")
@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_callback_that_was_cut_holds_nothing(make_host: MakeHost) -> None:
    """The server has given up what it waited for, too."""
    host = make_host(ledger=True, timeout=1, eager=False)
    host.ants.post(callback(detail(messageId="held")))
    with host.inbox_engine.begin() as connection:
        connection.execute(sa.update(ledger).values(reports=9).where(ledger.c.id == 1))
        status = {"name": "EXPIRED"}
        both = callback(detail(messageId="held", status=status), detail(messageId="new"))
        assert host.ants.post(both).status_code == 503
        new = callback(detail(messageId="new"))
        assert 200 in [host.ants.post(new).status_code for _ in range(5)]
    if host.inbox_engine.dialect.name == "mariadb":
        with host.app.app_context():
            chosen = sa.text("SELECT @@innodb_lock_wait_timeout, @@global.innodb_lock_wait_timeout")
            own, usual = host.db.session.execute(chosen).one()
        assert own == usual


def test_a_session_made_anew_each_time(inbox_url: str) -> None:
    engine = sa.create_engine(inbox_url)
    blueprint = DeliveryReportBlueprint(inbox=Inbox(session=sessionmaker(engine)))
    with pytest.raises(ValueError, match="not a new one each time"):
        make_app(blueprint)
    engine.dispose()


def test_a_coroutine_whose_session_is_its_threads(
    inbox_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that it writes would be committed."""
    engine = sa.create_engine(inbox_url)
    session = scoped_session(sessionmaker(engine))
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(session=session)))
    bound_inbox(app).database.create_tables()

    async def subscriber(app: Flask, **extra: Any) -> None:
        try:
            session.execute(sa.text("SELECT 1"))
        finally:
            session.remove()

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(1))
    wait_for(lambda: not delivery._keeper._batches)
    assert counts(app) == {"pending": 1, "done": 0, "dead": 0}
    assert "scope it to the application context" in caplog.text
    session.remove()
    engine.dispose()


@pytest.mark.parametrize("inbox_url", ["sqlite", "postgresql"], indirect=True)
def test_a_session_that_begins_nothing_itself(inbox_url: str) -> None:
    engine = sa.create_engine(inbox_url)
    session = scoped_session(sessionmaker(engine, autobegin=False))
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(session=session)))
    inbox = bound_inbox(app)
    inbox.database.create_tables()
    Base.metadata.create_all(engine)

    def subscriber(app: Flask, message: Any, **extra: Any) -> None:
        if message.message_id == "m1":
            with session.begin():
                session.add(Effect(of=message.message_id, by=""))

    message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(many(2))
    assert counts(app)["done"] == 2
    session.remove()
    engine.dispose()
