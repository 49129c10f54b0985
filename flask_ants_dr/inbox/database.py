"""The database: an engine that commits durably, and failures as answers."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import URL
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import Table
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError

from ..errors import InboxUnavailable
from ..escaping import printable
from .tables import metadata

_logger = logging.getLogger(__name__)

RETRY_AFTER = 30
"""Seconds."""

_EXAMPLE = {
    "postgresql": "postgresql+psycopg://host/database",
    "sqlite": "sqlite:////folder/inbox.sqlite3",
}
_NO_URL = (
    "must be an SQLAlchemy URL of SQLite in a file or of PostgreSQL, such as"
    f" {_EXAMPLE['postgresql']}."
)

# Where the package that brings a driver, ready to use, has another name.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}


class Database:
    """SQLite or PostgreSQL, opened when it is first needed: after a server has forked.

    :param url: an SQLAlchemy URL.
    :param timeout: how long to wait for a lock or a connection, in seconds.
    :raises ValueError: it is no URL, or of another database, of one in memory or of an asyncio
        driver, or its driver is missing. The message begins with a verb and repeats nothing of it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            self.url = make_url(url)
            dialect = self.url.get_dialect()
        except Exception:  # what SQLAlchemy raises depends on what is wrong
            raise ValueError(_NO_URL) from None
        self.is_sqlite = dialect.name == "sqlite"
        if not self.is_sqlite and dialect.name != "postgresql":
            raise ValueError(_NO_URL)
        if self.is_sqlite and _is_in_memory(self.url):
            raise ValueError(f"{_NO_URL} A database in memory keeps nothing.")
        if dialect.is_async:
            raise ValueError(
                f"names {self.url.drivername}, which is for asyncio, and an inbox works without:"
                f" take another, as in {_EXAMPLE[dialect.name]}."
            )
        try:
            dialect.import_dbapi()
        except ImportError as error:
            module = error.name or dialect.driver
            package = _PACKAGES.get(module, module)
            raise ValueError(
                f"needs the driver {module}, which cannot be imported: pip install '{package}', or"
                f" take one that is installed, as in {_EXAMPLE[dialect.name]}."
            ) from None
        self._timeout = timeout
        self._engines: tuple[Engine, Engine] | None = None
        self._opening = Lock()
        self._process = os.getpid()

    def create_tables(self) -> None:
        """Create the tables that do not exist."""
        with self.begin() as connection:
            metadata.create_all(connection)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._engines is not None:
            for engine in self._engines:
                engine.dispose()

    @contextmanager
    def begin(self, *, durable: bool = True, writes: bool = True) -> Iterator[Connection]:
        """One transaction.

        :param durable: ``False`` for a single statement that may be lost to a power failure, though
            not to the end of a process: marking what was dispatched.
        :param writes: ``False`` for reading, which on SQLite then waits for nobody and keeps nobody
            waiting.
        :raises InboxUnavailable: the database cannot do it. Nothing of it is stored.
        """
        try:
            with self._opening:
                if self._engines is None:
                    self._engines = self._open()
                    # With its application, of which a host's tests make many: Python warns of
                    # connections that nobody closes.
                    closing = weakref.finalize(self, _close, self._engines, os.getpid())
                    closing.atexit = False
                elif self._process != os.getpid():
                    # Forked after it was used: the connections are the parent's.
                    for engine in self._engines:
                        engine.dispose(close=False)
                self._process = os.getpid()
            engine = self._engines[not (durable and writes)]
            with engine.execution_options(ants_dr_writes=writes).begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            # Only the first line: what PostgreSQL writes below it can hold values.
            reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0][:200]
            name = type(error).__name__
            _logger.error("the inbox's database failed: %s: %s", name, printable(reason))
            raise InboxUnavailable(
                "The delivery report cannot be stored at the moment; send it again later.",
                headers={"Retry-After": str(RETRY_AFTER)},
            ) from None

    def _open(self) -> tuple[Engine, Engine]:
        """The durable engine and the other one."""
        options: dict[str, Any] = {"hide_parameters": True, "pool_timeout": self._timeout}
        if self.is_sqlite:
            # One machine and nothing to install: neither is there a step to forget.
            Path(self.url.database or "").parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": self._timeout, "isolation_level": None}
            engines = (create_engine(self.url, **options), create_engine(self.url, **options))
            for engine, level in zip(engines, ("FULL", "NORMAL"), strict=True):
                event.listen(engine, "connect", partial(_set_up_sqlite, level))
                event.listen(engine, "begin", _begin_sqlite)
            with engines[0].begin() as connection:
                metadata.create_all(connection)
            return engines
        options["pool_pre_ping"] = True
        if self.url.get_driver_name() in {"psycopg", "psycopg2"}:
            options["connect_args"] = {"connect_timeout": max(2, ceil(self._timeout))}
        engines = (
            create_engine(self.url, **options),
            create_engine(self.url, isolation_level="AUTOCOMMIT", **options),
        )
        bounded = f"SET lock_timeout = {round(self._timeout * 1000)}"
        durable = f"SET statement_timeout = {round(self._timeout * 1000)}"
        for engine, own in zip(engines, (durable, "SET synchronous_commit = off"), strict=True):
            event.listen(engine, "connect", partial(_set_up_postgresql, (bounded, own)))
        return engines


def chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """A statement takes only so many parameters."""
    for start in range(0, len(ids), 1000):
        yield ids[start : start + 1000]


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    insertion = dialect.insert(table).on_conflict_do_nothing(index_elements=["key"])
    compiled = insertion.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    # Straight to the driver: SQLAlchemy's look at each value, of which none needs converting, takes
    # as long as the database does.
    parameters: Any = rows
    if compiled.positiontup:
        parameters = list(map(itemgetter(*compiled.positiontup), rows))
    connection.exec_driver_sql(str(compiled), parameters)


def _is_in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return name.endswith(":memory:") or url.query.get("mode") == "memory"


def _close(engines: tuple[Engine, Engine], process: int) -> None:
    # What a fork has inherited is not its own to close.
    if process == os.getpid():
        for engine in engines:
            engine.dispose()


def _set_up_sqlite(synchronous: str, connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA synchronous={synchronous}")


def _begin_sqlite(connection: Connection) -> None:
    # At once a writer: a reader that becomes one while another writes fails without waiting.
    writes = connection.get_execution_options().get("ants_dr_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_up_postgresql(statements: Iterable[str], connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()
    connection.commit()
