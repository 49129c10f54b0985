"""Tables of older and newer releases."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy import create_engine
from sqlalchemy import inspect
from sqlalchemy import select
from sqlalchemy import text

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import ReportSchema
from flask_ants_dr.inbox import Erased
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import migrations
from flask_ants_dr.inbox.callbacks import by_key
from flask_ants_dr.inbox.tables import VERSION
from flask_ants_dr.inbox.tables import callbacks
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.inbox.tables import metadata
from flask_ants_dr.inbox.tables import mysql_metadata
from flask_ants_dr.inbox.tables import version
from flask_ants_dr.models import Envelope
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import many

pytestmark = pytest.mark.without_tables

# As the release made them that had no version yet.
FIRST = """
CREATE TABLE ants_dr_callbacks (
    id INTEGER NOT NULL PRIMARY KEY, source TEXT NOT NULL, content_type TEXT NOT NULL,
    url_variables TEXT NOT NULL, query TEXT NOT NULL, body BLOB NOT NULL, received_at FLOAT NOT NULL
);
CREATE TABLE ants_dr_messages (
    id INTEGER NOT NULL PRIMARY KEY, callback_id INTEGER NOT NULL REFERENCES ants_dr_callbacks (id),
    source TEXT NOT NULL, key TEXT NOT NULL UNIQUE, position INTEGER NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, due_at FLOAT NOT NULL, claim TEXT, error TEXT, finished_at FLOAT
);
CREATE INDEX ix_ants_dr_messages_callback_id ON ants_dr_messages (callback_id);
CREATE INDEX ix_ants_dr_messages_waiting ON ants_dr_messages (source, due_at, callback_id, position)
    WHERE state = 'pending' AND claim IS NULL;
CREATE INDEX ix_ants_dr_messages_claimed ON ants_dr_messages (source, due_at)
    WHERE state = 'pending' AND claim IS NOT NULL;
CREATE INDEX ix_ants_dr_messages_finished ON ants_dr_messages (source, state, finished_at)
    WHERE state != 'pending';
CREATE TABLE ants_dr_quarantine (
    id INTEGER NOT NULL PRIMARY KEY, callback_id INTEGER NOT NULL REFERENCES ants_dr_callbacks (id),
    source TEXT NOT NULL, key TEXT NOT NULL UNIQUE, position INTEGER, error TEXT NOT NULL,
    quarantined_at FLOAT NOT NULL
);
CREATE INDEX ix_ants_dr_quarantine_callback_id ON ants_dr_quarantine (callback_id);
"""


# What the release of version 0002 had more, or otherwise.
SECOND = """
CREATE TABLE ants_dr_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO ants_dr_version VALUES ('0002');
ALTER TABLE ants_dr_messages ADD COLUMN had_by TEXT;
ALTER TABLE ants_dr_messages ADD COLUMN failed_by TEXT;
DROP INDEX ix_ants_dr_messages_waiting;
DROP INDEX ix_ants_dr_messages_claimed;
DROP INDEX ix_ants_dr_messages_finished;
CREATE INDEX ix_ants_dr_messages_new ON ants_dr_messages (source, due_at, callback_id, position)
    WHERE state = 'waiting' AND attempts = 0;
CREATE INDEX ix_ants_dr_messages_retry ON ants_dr_messages (source, due_at, callback_id, position)
    WHERE state = 'waiting' AND attempts > 0;
CREATE INDEX ix_ants_dr_messages_claimed ON ants_dr_messages (source, due_at)
    WHERE state = 'claimed';
CREATE INDEX ix_ants_dr_messages_done ON ants_dr_messages (source, finished_at)
    WHERE state = 'done';
CREATE INDEX ix_ants_dr_messages_dead ON ants_dr_messages (source, finished_at)
    WHERE state = 'dead';
"""


def on_postgresql(statements: str) -> str:
    for sqlite, postgresql in {
        "INTEGER NOT NULL PRIMARY KEY": "BIGSERIAL PRIMARY KEY",
        "BLOB": "BYTEA",
        "FLOAT": "DOUBLE PRECISION",
        "callback_id INTEGER": "callback_id BIGINT",
    }.items():
        statements = statements.replace(sqlite, postgresql)
    return statements


def schema_of(connection: Connection) -> dict[str, Any]:
    """The columns and indexes of each table."""
    inspector = inspect(connection)
    return {
        table: (
            {one["name"]: str(one["type"]) for one in inspector.get_columns(table)},
            {
                one["name"]: (
                    one["column_names"],
                    bool(one["unique"]),
                    str(one.get("dialect_options", {}).get("sqlite_where")),
                )
                for one in inspector.get_indexes(table)
            },
            inspector.get_unique_constraints(table),
            inspector.get_pk_constraint(table)["constrained_columns"],
        )
        for table in inspector.get_table_names()
    }


def as_it_was(path: Path) -> None:
    """A database of the first release, with messages in every state, of a URL with a query."""
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(eager=False)),
        ANTS_DR_INBOX_URL=f"sqlite:///{path}.new",
    )
    Ants(app.test_client()).post(many(5))
    bound_inbox(app).database.close()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST)
        old.execute("ATTACH ? AS new", (f"{path}.new",))
        old.execute(
            "INSERT INTO ants_dr_callbacks SELECT id, source, content_type, url_variables, query,"
            " body, received_at FROM new.ants_dr_callbacks"
        )
        old.execute('UPDATE ants_dr_callbacks SET query = \'{"order": "41"}\'')
        old.execute(
            "INSERT INTO ants_dr_messages SELECT id, callback_id, source, key, position, 'pending',"
            " attempts, due_at, NULL, NULL, NULL FROM new.ants_dr_messages"
        )
        for position, change in enumerate(
            (
                "claim = NULL",
                "claim = 'of a dead process', due_at = 1.0",
                "attempts = 2, error = 'LookupError'",
                "state = 'done', attempts = 1, finished_at = 2.0",
                "state = 'dead', attempts = 20, finished_at = 3.0, error = 'LookupError'",
            )
        ):
            old.execute(f"UPDATE ants_dr_messages SET {change} WHERE position = {position}")
        old.commit()


def test_a_file_of_the_first_release_is_upgraded_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite3"
    as_it_was(path)
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(eager=False)), ANTS_DR_INBOX_URL=f"sqlite:///{path}"
    )
    heard = Heard(app)
    assert counts(app) == {"pending": 3, "done": 1, "dead": 1}
    drain(app)
    assert sorted(message.message_id for message in heard.messages) == ["m0", "m1", "m2"]
    assert bound_inbox(app).retry() == 1
    drain(app)
    assert heard.messages[-1].message_id == "m4"
    assert counts(app) == {"pending": 0, "done": 5, "dead": 0}
    with bound_inbox(app).database.begin(writes=False) as connection:
        migrations.check_version(connection)
        upgraded = schema_of(connection)
    bound_inbox(app).database.close()
    engine = create_engine(f"sqlite:///{tmp_path}/made.sqlite3")
    with engine.begin() as connection:
        metadata.create_all(connection)
        assert upgraded == schema_of(connection)
    engine.dispose()


@pytest.mark.parametrize("inbox_url", ["sqlite", "postgresql"], indirect=True)
def test_the_version_before(inbox_url: str, tmp_path: Path) -> None:
    """With messages in every state and one in quarantine: each goes on as it would have."""
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=inbox_url)
    database = bound_inbox(app).database
    body = json.dumps(many(5, to="66812345678")).encode()
    engine = create_engine(inbox_url)
    with engine.begin() as connection:
        for statements in (FIRST, SECOND):
            for statement in statements.split(";"):
                if statement.strip():
                    is_sqlite = connection.dialect.name == "sqlite"
                    connection.exec_driver_sql(statement if is_sqlite else on_postgresql(statement))
        own = {"source": "ants_dr", "content_type": "application/json", "now": time.time()}
        for content in (body, b"{ 66812345678"):
            connection.execute(
                text(
                    "INSERT INTO ants_dr_callbacks"
                    " (source, content_type, url_variables, query, body, received_at)"
                    " VALUES (:source, :content_type, '{}', '{}', :body, :now)"
                ),
                own | {"body": content},
            )
        came = Envelope(
            source="ants_dr",
            content_type="",
            url_variables={},
            query={},
            received_at=datetime.now(UTC),
            body=body,
        )
        report = ReportSchema().load(json.loads(body))
        for key, (position, state) in zip(
            by_key(came, report),
            enumerate(("waiting", "waiting", "claimed", "done", "dead")),
            strict=True,
        ):
            connection.execute(
                text(
                    "INSERT INTO ants_dr_messages (callback_id, source, key, position, state,"
                    " attempts, due_at, claim, error, finished_at) VALUES (1, :source, :key,"
                    " :position, :state, :attempts, 1.0, :claim, :error, :finished_at)"
                ),
                own
                | {
                    "key": key,
                    "position": position,
                    "state": state,
                    "attempts": position % 2,
                    "claim": "of a dead process" if state == "claimed" else None,
                    "error": "LookupError" if state == "dead" else None,
                    "finished_at": own["now"] if state in {"done", "dead"} else None,
                },
            )
        connection.execute(
            text(
                "INSERT INTO ants_dr_quarantine (callback_id, source, key, error, quarantined_at)"
                " VALUES (2, :source, 'k', '{}', :now)"
            ),
            own,
        )
    engine.dispose()
    database.create_tables()
    inbox = bound_inbox(app)
    heard = Heard(app)
    assert counts(app) == {"pending": 3, "done": 1, "dead": 1}
    drain(app)
    assert sorted(message.message_id for message in heard.messages) == ["m0", "m1", "m2"]
    assert inbox.redeliver(bulk_id="b").pending == 0  # which was not noted
    assert inbox.redeliver(since=datetime.fromtimestamp(0, UTC)).pending == 4
    drain(app)
    assert inbox.erase("0812345678") == Erased(details=5, bodies=1)
    assert counts(app) == {"pending": 0, "done": 5, "dead": 0}
    heard.calls.clear()
    Ants(app.test_client()).post(body)
    assert heard.calls == []  # by their keys all are known
    with database.begin(writes=False) as connection:
        migrations.check_version(connection)
        upgraded = schema_of(connection)
        made = create_engine(f"sqlite:///{tmp_path}/made.sqlite3")
        if connection.dialect.name == "sqlite":
            with made.begin() as other:
                metadata.create_all(other)
                assert upgraded == schema_of(other)
        made.dispose()
    database.close()


def test_the_version_is_the_latest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == VERSION


def test_autogenerate_sees_no_difference(make_inbox_app: MakeApp) -> None:
    with bound_inbox(make_inbox_app()).database.begin() as connection:
        mysql = connection.dialect.name in {"mysql", "mariadb"}
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, mysql_metadata if mysql else metadata) == []


@pytest.mark.parametrize("inbox_url", ["mariadb"], indirect=True)
def test_either_name_of_the_dialect(make_inbox_app: MakeApp, inbox_url: str) -> None:
    url = "mysql" + inbox_url.removeprefix(inbox_url.partition("+")[0])
    app = make_inbox_app(url=url)
    assert Ants(app.test_client()).post(many(3)).status_code == 200
    assert counts(app) == {"pending": 0, "done": 3, "dead": 0}
    with bound_inbox(app).database.begin() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, mysql_metadata) == []


def test_init_db_by_many_at_once(inbox_url: str) -> None:
    apps = [
        make_app(DeliveryReportBlueprint(inbox=Inbox(timeout=20)), ANTS_DR_INBOX_URL=inbox_url)
        for _ in range(4)
    ]
    databases = [bound_inbox(app).database for app in apps]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda database: database.create_tables(), databases))
    with databases[0].begin() as connection:
        assert connection.scalars(select(version.c.version_num)).all() == [VERSION]
    databases[0].close()


def test_init_db_goes_on_where_it_was_killed(inbox_url: str) -> None:
    """On MariaDB making tables is no transaction."""
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=inbox_url)
    database = bound_inbox(app).database
    with database.begin(is_current=False) as connection:
        made = [database.dialect.metadata.tables[one.name] for one in (callbacks, messages)]
        metadata.create_all(connection, tables=made)
    database.create_tables()
    assert Ants(app.test_client()).post(callback(detail(), {})).status_code == 200
    database.close()


@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
def test_init_db_upgrades_a_database_of_the_first_release(
    inbox_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(inbox_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(on_postgresql(FIRST))
    engine.dispose()
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=inbox_url)
    ants = Ants(app.test_client())
    assert ants.post(callback(detail())).status_code == 503
    assert "tables are of version 0001, and this release needs" in caplog.text
    bound_inbox(app).database.create_tables()
    assert ants.post(callback(detail())).status_code == 200
    assert counts(app) == {"pending": 0, "done": 1, "dead": 0}
    bound_inbox(app).database.close()


@pytest.mark.parametrize(
    ("inbox_url", "found", "cure"),
    [
        ("postgresql", "0001", "run 'flask ants-dr init-db'"),
        ("mariadb", "0001", "run 'flask ants-dr init-db'"),
        ("mariadb", "9999", "install that release here, too"),
        ("postgresql", "9999", "install that release here, too"),
        ("sqlite", "9999", "install that release here, too"),
    ],
    indirect=["inbox_url"],
)
def test_tables_of_another_version(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture, found: str, cure: str
) -> None:
    app = make_inbox_app()
    database = bound_inbox(app).database
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE ants_dr_version SET version_num = '{found}'")
    database._is_current = False  # as in a new process
    assert Ants(app.test_client()).post(callback(detail())).status_code == 503
    assert f"tables are of version {found}" in caplog.text
    assert cure in caplog.text


def test_an_upgrade_under_a_process_that_runs(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails because of it says so from the second time on."""
    app = make_inbox_app()
    assert Ants(app.test_client()).post(callback(detail())).status_code == 200
    with bound_inbox(app).database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_version SET version_num = '9999'")
        connection.exec_driver_sql("DROP TABLE ants_dr_messages")
    for _ in range(2):
        assert Ants(app.test_client()).post(callback(detail(messageId="2"))).status_code == 503
    assert "tables are of version 9999" in caplog.text


def test_every_version_is_known_by_what_it_has_added() -> None:
    """Also where nobody has noted it: a host's own Alembic makes the tables alone."""
    assert max(migrations._ADDED) == VERSION
    made = set().union(*migrations._MADE.values())
    assert made == metadata.tables.keys() - {version.name}
