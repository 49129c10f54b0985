"""Databases with an inbox's tables, made but once: to make them takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import NullPool
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from flask_ants_dr.inbox.database import Database
from flask_ants_dr.inbox.tables import VERSION
from flask_ants_dr.inbox.tables import metadata
from flask_ants_dr.inbox.tables import version

_TABLES = [one.name for one in reversed(metadata.sorted_tables)]
_WITH_ID = [one.name for one in metadata.sorted_tables if "id" in one.c]

# What is there: tables and indexes, and what they are of.
_SHAPE = {
    "postgresql": (
        "SELECT relname, reltablespace, attname, atttypid, attnotnull FROM pg_attribute"
        " JOIN pg_class ON attrelid = pg_class.oid"
        " WHERE relnamespace = current_schema()::regnamespace ORDER BY relname, attnum"
    ),
    "mysql": (
        "SELECT table_name, column_name, column_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = database() UNION ALL"
        " SELECT table_name, index_name, column_name, seq_in_index FROM"
        " information_schema.statistics WHERE table_schema = database() ORDER BY 1, 2, 3, 4"
    ),
}
# Whatever a test has left that still holds something: its database is not used again.
_PATIENCE = {
    "postgresql": ["SET lock_timeout = '2s'"],
    "mysql": ["SET SESSION innodb_lock_wait_timeout = 2, lock_wait_timeout = 2"],
}
_IDS_BEGIN_AT_1 = {
    "postgresql": "SELECT setval(pg_get_serial_sequence('{0}', 'id'), 1, false)",
    "mysql": "ALTER TABLE {0} AUTO_INCREMENT = 1",
}


class Databases:
    """Those of a server that no test uses at the moment.

    :param make: makes an empty database and returns its URL.
    """

    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make
        self._free: list[str] = []
        self._shape: Any = None

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of one that has the tables, and nothing in them."""
        url = self._free.pop() if self._free else self._new()
        yield url
        with suppress(SQLAlchemyError), _connected(url) as connection:
            if _shape(connection) == self._shape:
                _empty(connection)
                self._free.append(url)

    def _new(self) -> str:
        url = self.make()
        database = Database(url, timeout=60)
        database.create_tables()
        database.close()
        with _connected(url) as connection:
            self._shape = _shape(connection)
        return url


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        yield connection


def _kind(connection: Connection) -> str:
    return "postgresql" if connection.dialect.name == "postgresql" else "mysql"


def _shape(connection: Connection) -> list[Any]:
    return list(connection.exec_driver_sql(_SHAPE[_kind(connection)]))


def _empty(connection: Connection) -> None:
    kind = _kind(connection)
    deletions = [f"DELETE FROM {table}" for table in _TABLES]
    restarts = [_IDS_BEGIN_AT_1[kind].format(table) for table in _WITH_ID]
    for statement in (*_PATIENCE[kind], *deletions, *restarts):
        connection.exec_driver_sql(statement)
    connection.execute(version.insert().values(version_num=VERSION))
