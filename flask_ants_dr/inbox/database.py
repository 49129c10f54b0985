"""The database: an engine that commits durably, and failures as answers."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from functools import cached_property
from functools import partial
from math import ceil
from pathlib import Path
from socket import SHUT_RDWR
from socket import socket
from threading import Lock
from threading import Timer
from typing import Any
from typing import Self

from sqlalchemy import JSON
from sqlalchemy import URL
from sqlalchemy import BigInteger
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import Integer
from sqlalchemy import Table
from sqlalchemy import any_
from sqlalchemy import cast
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import func
from sqlalchemy import literal
from sqlalchemy import make_url
from sqlalchemy import select
from sqlalchemy import true
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import SQLAlchemyError

from ..errors import InboxUnavailable
from ..escaping import printable
from .migrations import WrongVersion
from .migrations import check_version
from .migrations import migrate

_logger = logging.getLogger(__name__)

# Of SQLite's PRAGMA synchronous.
_NORMAL = 1
_FULL = 2

RETRY_AFTER = 30
"""Seconds."""

#: A URL for each dialect that an inbox works with.
EXAMPLES = {
    "postgresql": "postgresql+psycopg://host/database",
    "sqlite": "sqlite:////folder/inbox.sqlite3",
}
_NO_URL = (
    "must be an SQLAlchemy URL of SQLite in a file or of PostgreSQL, such as"
    f" {EXAMPLES['postgresql']}."
)

# Where the package that brings a driver, ready to use, has another name.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}


class WrongDatabase(ValueError):
    """It is none that an inbox can use. The text names the cure."""


class Database:
    """SQLite or PostgreSQL, opened when it is first needed: after a server has forked.

    :param url: an SQLAlchemy URL.
    :param timeout: how long to wait for a lock or a connection, in seconds.
    :raises ValueError: it is no URL, or of another database, of one in memory or of an asyncio
        driver, or its driver is missing. The message begins with a verb and repeats nothing of it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            self._url = make_url(url)
            dialect = self._url.get_dialect()
        except Exception:  # what SQLAlchemy raises depends on what is wrong
            raise ValueError(_NO_URL) from None
        if dialect.name not in EXAMPLES:
            raise ValueError(_NO_URL)
        if _is_in_memory(self._url):
            raise ValueError(f"{_NO_URL} A database in memory keeps nothing.")
        if dialect.is_async:
            raise ValueError(
                f"names {self.url.drivername}, which is for asyncio, and an inbox works without:"
                f" take another, as in {EXAMPLES[dialect.name]}."
            )
        try:
            dialect.import_dbapi()
        except ImportError as error:
            module = error.name or dialect.driver
            package = _PACKAGES.get(module, module)
            raise ValueError(
                f"needs the driver {module}, which cannot be imported: pip install '{package}', or"
                f" take one that is installed, as in {EXAMPLES[dialect.name]}."
            ) from None
        self._set_up(timeout)

    def _set_up(self, timeout: float) -> None:
        self._timeout = timeout
        self._engine: Engine | None = None
        self._is_current = False
        self._file: tuple[int, int] | None = None
        self._opening = Lock()
        self._process = os.getpid()

    @property
    def url(self) -> URL:
        """Of the database, with its password."""
        return self._url

    @cached_property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @cached_property
    def is_in_memory(self) -> bool:
        """Whether it is one of SQLite's that ends with its process."""
        return _is_in_memory(self.url)

    def create_tables(self) -> None:
        """Create the tables, or bring older ones up to this release's.

        :raises InboxUnavailable: the database cannot do it, or its tables are a newer release's.
        """
        with self.begin(is_current=False) as connection:
            migrate(connection)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def begin(
        self, *, durable: bool = True, writes: bool = True, is_current: bool = True
    ) -> Iterator[Connection]:
        """One transaction.

        :param durable: ``False`` for what may be lost to a power failure, though not to the end of
            a process: marking what was dispatched.
        :param writes: ``False`` for reading, which on SQLite then waits for nobody and keeps nobody
            waiting.
        :param is_current: ``False`` for what makes the tables this release's, and takes its time.
        :raises InboxUnavailable: the database cannot do it within ``timeout``. Nothing of it is
            stored.
        """
        ends = time.monotonic() + self._timeout
        try:
            engine = self.open()
            if self.is_sqlite:
                self._check_file()
            if is_current and not self._is_current:
                self._make_current(engine, ends)
            with self._transaction(
                engine, None if not is_current else ends, durable=durable, writes=writes
            ) as connection:
                yield connection
        except (WrongDatabase, WrongVersion) as error:
            _logger.error("%s", error)
            raise InboxUnavailable(str(error), headers={"Retry-After": str(RETRY_AFTER)}) from None
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            # Only the first line: what PostgreSQL writes below it can hold values.
            reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0][:200]
            if time.monotonic() >= ends:
                reason = f"no answer within {self._timeout:g} s ({reason})"
            name = type(error).__name__
            _logger.error("the inbox's database failed: %s: %s", name, printable(reason))
            raise InboxUnavailable(
                "The delivery report cannot be stored at the moment; send it again later.",
                headers={"Retry-After": str(RETRY_AFTER)},
            ) from None

    def open(self) -> Engine:
        """The engine, which connects when it is first used.

        :raises WrongDatabase: it is none that an inbox can use.
        """
        with self._opening:
            if self._engine is None:
                self._engine = self._make_engine()
                # With its application, of which a host's tests make many: Python warns of
                # connections that nobody closes.
                closing = weakref.finalize(self, _close, self._engine, os.getpid())
                closing.atexit = False
            elif self._process != os.getpid():
                # Forked after it was used: the connections are the parent's.
                self._engine.dispose(close=False)
            self._process = os.getpid()
            return self._engine

    def _check_file(self) -> None:
        """:raises OSError: the file that was opened is no longer there."""
        if self._file is None or self._file == self._identity():
            return
        self._file, self._is_current = None, False
        if self._engine:
            self._engine.dispose()
        raise OSError("the file was deleted or exchanged while it was open")

    def _identity(self) -> tuple[int, int] | None:
        """What tells a file from another one of its name; ``None`` where it has no plain name."""
        try:
            found = os.stat(self.url.database or "")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _make_current(self, engine: Engine, ends: float) -> None:
        """Look whether the tables are this release's; SQLite's are made so.

        Not under a lock: whoever has to wait for the database waits beside the others.
        """
        try:
            with self._transaction(engine, ends, writes=False) as connection:
                check_version(connection)
        except WrongVersion:
            if not self.is_sqlite:
                raise
            # One machine and nothing to install: neither is there a step to forget.
            with self._transaction(engine, None) as connection:
                migrate(connection)
        if self.is_sqlite:
            self._file = self._identity()
        self._is_current = True

    def _make_engine(self) -> Engine:
        options: dict[str, Any] = {"hide_parameters": True, "pool_timeout": self._timeout}
        if self.is_sqlite:
            if not (self.url.database or "").startswith("file:"):  # a URI of SQLite's own
                Path(self.url.database or "").parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": self._timeout, "isolation_level": None}
            engine = create_engine(self.url, **options)
            event.listen(engine, "connect", partial(_connect_to_sqlite, self._timeout))
            return engine
        driver = self.url.get_driver_name()
        if driver in {"psycopg", "psycopg2"}:
            options["connect_args"] = {"connect_timeout": max(2, ceil(self._timeout))}
        if driver == "psycopg":
            # A pooler in transaction mode hands the next transaction to another server process.
            options["connect_args"]["prepare_threshold"] = None
        return create_engine(self.url, **options)

    @contextmanager
    def _transaction(
        self, engine: Engine, ends: float | None, *, durable: bool = True, writes: bool = True
    ) -> Iterator[Connection]:
        """A transaction that says itself all that it needs, because the engine can be the host's.

        :param ends: when it ends, whatever the server does or does not; ``None`` for what takes
            its time.
        """
        milliseconds = round(self._timeout * 1000)
        for is_second in (False, True):
            started = time.monotonic()
            connection = engine.connect()
            with connection, _Deadline(connection, ends) as deadline, ExitStack() as stack:
                if self.is_sqlite:
                    settings = _sqlite_settings(connection, milliseconds, durable=durable)
                    stack.enter_context(settings)
                transaction = stack.enter_context(connection.begin())
                try:
                    if self.is_sqlite:
                        _begin_sqlite(connection, writes=writes)
                    elif ends is not None:
                        _begin_postgresql(connection, milliseconds, durable=durable)
                except DBAPIError as error:
                    # One of the pool that the server has closed since. (A ping before each use
                    # would cost a round trip, and wait for a server that does not answer.)
                    is_stale = error.connection_invalidated and not deadline.is_over
                    if is_second or not is_stale or time.monotonic() - started > 1:
                        raise
                    transaction.rollback()
                    continue
                yield connection
                return


class _Deadline:
    """Cuts the connection to a server that does not answer in time, on our side."""

    def __init__(self, connection: Connection, ends: float | None) -> None:
        self.is_over = False
        self._lock = Lock()
        self._has_ended = False
        driver_connection: Any = connection.connection.driver_connection
        # SQLite, which waits for nobody but a lock, has none.
        self._fileno = getattr(driver_connection, "fileno", None) if ends else None
        left = max(0.0, (ends or 0.0) - time.monotonic())
        self._timer = Timer(left, self._cut) if self._fileno else None

    def __enter__(self) -> Self:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer:
            with self._lock:
                self._has_ended = True
            self._timer.cancel()

    def _cut(self) -> None:
        with self._lock:
            if self._has_ended or self._fileno is None:
                return
            self.is_over = True
            with suppress(OSError), socket(fileno=os.dup(self._fileno())) as connected:
                connected.shutdown(SHUT_RDWR)


def among(connection: Connection, column: ColumnElement[int], ids: Sequence[int]) -> Any:
    """Whether a column is one of many numbers, which are one parameter."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(list(ids))).table_valued("value")
        return column.in_(select(each.c.value))
    return column == any_(literal(list(ids), postgresql.ARRAY(BigInteger)))


def insertion(connection: Connection, table: Table) -> Any:
    """An ``INSERT`` that a conflict can be handled in."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def insert_new(
    connection: Connection, table: Table, positions: Mapping[str, int], values: Mapping[str, Any]
) -> dict[str, int]:
    """Insert, in one statement, the rows whose key is not there, and return their ids by key.

    :param positions: of the rows, by their keys.
    :param values: what is the same in all of them.
    """
    columns = [literal(value).label(name) for name, value in values.items()]
    # All keys are one parameter, so that it is one statement for any number of them.
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(positions)).table_valued("key", "value")
    else:
        each = func.json_each_text(literal(positions, JSON)).table_valued("key", "value")
    position = cast(each.c.value, Integer)
    chosen = select(*columns, each.c.key, position).where(true())
    statement = (
        insertion(connection, table)
        .from_select([*values, "key", "position"], chosen)
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(table.c.key, table.c.id)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def _is_in_memory(url: URL) -> bool:
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    return name.endswith(":memory:") or url.query.get("mode") == "memory"


def _close(engine: Engine, process: int) -> None:
    # What a fork has inherited is not its own to close.
    if process == os.getpid():
        engine.dispose()


def _connect_to_sqlite(timeout: float, connection: Any, record: object) -> None:
    ends = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            # For a new file SQLite does not wait until another process has done so.
            if time.monotonic() >= ends:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA foreign_keys=ON")


@contextmanager
def _sqlite_settings(connection: Connection, milliseconds: int, *, durable: bool) -> Iterator[None]:
    """What cannot be said within a transaction, until the connection is back with its owner."""
    cursor = connection.connection.cursor()
    settings = {"busy_timeout": milliseconds, "synchronous": _FULL if durable else _NORMAL}
    before = {name: cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in settings}
    changed = [name for name, value in settings.items() if before[name] != value]
    try:
        for name in changed:
            cursor.execute(f"PRAGMA {name}={settings[name]}")
        yield
    finally:
        for name in changed:
            cursor.execute(f"PRAGMA {name}={before[name]}")


def _begin_sqlite(connection: Connection, *, writes: bool) -> None:
    # SQLAlchemy takes it for begun, and the driver waits for the first write.
    driver_connection: Any = connection.connection.driver_connection
    if driver_connection.in_transaction:
        if not writes or _is_in_memory(connection.engine.url):
            return
        # By an event of a host's engine, as a reader.
        connection.exec_driver_sql("COMMIT")
    # At once a writer: a reader that becomes one while another writes fails without waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection, milliseconds: int, *, durable: bool) -> None:
    # Of this transaction alone, because behind a pooler the connection is others', too.
    own = "" if durable else ", set_config('synchronous_commit', 'off', true)"
    connection.exec_driver_sql(
        f"SELECT set_config('lock_timeout', '{milliseconds}', true),"
        f" set_config('statement_timeout', '{milliseconds}', true){own}"
    )
