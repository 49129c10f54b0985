"""The database: an engine that commits durably, and failures as answers."""

from __future__ import annotations

import os
import random
import sqlite3
import time
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from functools import cached_property
from functools import partial
from socket import SHUT_RDWR
from socket import socket
from threading import Lock
from threading import Timer
from typing import Self
from typing import TypeVar

from sqlalchemy import URL
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import SQLAlchemyError

from ..errors import InboxUnavailable
from ..escaping import printable
from ..log import INBOX
from ..log import about
from .dialects import DIALECTS
from .dialects import Dialect
from .dialects import dialect_of
from .dialects import is_in_memory
from .migrations import WrongVersion
from .migrations import check_version
from .migrations import migrate

RETRY_AFTER = 30
"""Seconds."""

_NO_URL = (
    "must be an SQLAlchemy URL of SQLite in a file, of PostgreSQL, of MariaDB or of MySQL, such as"
    f" {DIALECTS['postgresql'].example}."
)

# How often a transaction is tried that fails because of others, and how long it pauses, at most.
_TRIES = 3
_PAUSE = 0.05

# Where the package that brings a driver, ready to use, has another name.
_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
}

_T = TypeVar("_T")


class WrongDatabase(ValueError):
    """It is none that an inbox can use. The text names the cure."""


class Database:
    """The database of an inbox, opened when it is first needed: after a server has forked.

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
        if dialect.name not in DIALECTS:
            raise ValueError(_NO_URL)
        if is_in_memory(self._url):
            raise ValueError(f"{_NO_URL} A database in memory keeps nothing.")
        if dialect.is_async:
            raise ValueError(
                f"names {self.url.drivername}, which is for asyncio, and an inbox works without:"
                f" take another, as in {DIALECTS[dialect.name].example}."
            )
        try:
            dialect.import_dbapi()
        except ImportError as error:
            module = error.name or dialect.driver
            package = _PACKAGES.get(module, module)
            raise ValueError(
                f"needs the driver {module}, which cannot be imported: pip install '{package}', or"
                f" take one that is installed, as in"
                f" {DIALECTS[dialect.name].example}."
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
    def dialect(self) -> Dialect:
        """What an inbox has to know of this kind of database."""
        return DIALECTS[self.url.get_backend_name()]

    @cached_property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @cached_property
    def is_in_memory(self) -> bool:
        """Whether it is one of SQLite's that ends with its process."""
        return is_in_memory(self.url)

    def create_tables(self) -> None:
        """Create the tables, or bring older ones up to this release's.

        :raises InboxUnavailable: the database cannot do it, or its tables are a newer release's.
        """
        with self.begin(is_current=False) as connection:
            migrate(connection)

    def prepare(self) -> None:
        """See to it that the tables are this release's, before the first use.

        :raises InboxUnavailable: they are not, or the database failed.
        """
        if not self._is_current:
            with self.begin(writes=False):
                pass

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
        with (
            self._answering(ends),
            self._transaction(
                ends, durable=durable, writes=writes, is_current=is_current
            ) as connection,
        ):
            yield connection

    def run(self, work: Callable[[Connection], _T], *, durable: bool = True) -> _T:
        """Do something in one transaction, as :meth:`begin` makes it, and return what it returns.

        Where it fails because of another transaction (a deadlock, of which a database ends one) it
        is done again, a few times within ``timeout``.
        """
        ends = time.monotonic() + self._timeout
        with self._answering(ends):
            for tries_left in reversed(range(_TRIES)):
                try:
                    with self._transaction(ends, durable=durable, writes=True) as connection:
                        return work(connection)
                except DBAPIError as error:
                    is_over = not tries_left or time.monotonic() >= ends
                    if is_over or not self.dialect.is_conflict(error):
                        raise
                time.sleep(random.uniform(0, _PAUSE))  # noqa: S311
        raise AssertionError  # it has returned or raised

    @contextmanager
    def _transaction(
        self, ends: float, *, durable: bool, writes: bool, is_current: bool = True
    ) -> Iterator[Connection]:
        engine = self.open() if is_current else self._make_engine(is_patient=True)
        if self.is_sqlite:
            self._check_file()
        if is_current and not self._is_current:
            self._make_current(engine, ends)
        begin = partial(self._begin, durable=durable, writes=writes, is_slow=not is_current)
        with _connected(engine, begin, ends if is_current else None) as connection:
            yield connection

    @contextmanager
    def _answering(self, ends: float) -> Iterator[None]:
        """What fails is told in the log, and answered with a 503."""
        try:
            yield
        except (WrongDatabase, WrongVersion) as error:
            INBOX.error("the inbox's database cannot be used: %s", error, extra=about(None))
            raise InboxUnavailable(str(error), headers={"Retry-After": str(RETRY_AFTER)}) from None
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._is_current = False  # it may have failed because they are another release's by now
            # Only the first line: what PostgreSQL writes below it can hold values.
            reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0][:200]
            if time.monotonic() >= ends:
                reason = f"no answer within {self._timeout:g} s ({reason})"
            name = type(error).__name__
            INBOX.error(
                "the inbox's database failed: %s: %s", name, printable(reason), extra=about(None)
            )
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
                self._engine = self._make_engine(is_patient=False)
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
            reading = partial(self._begin, durable=True, writes=False)
            with _connected(engine, reading, None if self.is_sqlite else ends) as connection:
                if reason := self.dialect.unfit(connection):
                    raise WrongDatabase(reason)
                check_version(connection)
        except WrongVersion:
            if not self.is_sqlite:
                raise
            # One machine and nothing to install: neither is there a step to forget.
            writing = partial(self._begin, durable=True, writes=True)
            with _connected(engine, writing, None) as connection:
                migrate(connection)
        if self.is_sqlite:
            self._file = self._identity()
        self._is_current = True

    def _make_engine(self, *, is_patient: bool) -> Engine:
        return self.dialect.make_engine(self.url, self._timeout, is_patient=is_patient)

    @contextmanager
    def _begin(
        self, connection: Connection, *, durable: bool, writes: bool, is_slow: bool = False
    ) -> Iterator[None]:
        """Begin a transaction that says itself all that it needs: the engine can be the host's."""
        dialect, timeout = self.dialect, self._timeout
        with dialect.settings(connection, timeout, durable=durable), connection.begin():
            dialect.begin(connection, timeout, durable=durable, writes=writes, is_slow=is_slow)
            yield


@contextmanager
def _connected(
    engine: Engine,
    begin: Callable[[Connection], AbstractContextManager[None]],
    ends: float | None,
) -> Iterator[Connection]:
    """A transaction that ends by a time, whatever the server does or does not.

    :param begin: begins it, and ends it.
    """
    for is_second in (False, True):
        started = time.monotonic()
        with ExitStack() as stack:
            connection = stack.enter_context(engine.connect())
            deadline = stack.enter_context(_Deadline(connection, ends))
            try:
                stack.enter_context(begin(connection))
            except DBAPIError as error:
                # One of the pool that the server has closed since. (A ping before each use would
                # cost a round trip, and wait for a server that does not answer.)
                is_stale = error.connection_invalidated and not deadline.is_over
                if is_second or not is_stale or time.monotonic() - started > 1:
                    raise
                continue
            yield connection
            return


class _Deadline:
    """Cuts the connection to a server that does not answer in time, on our side."""

    def __init__(self, connection: Connection, ends: float | None) -> None:
        self.is_over = False
        self._lock = Lock()
        self._has_ended = False
        driver_connection = connection.connection.driver_connection
        self._fileno = dialect_of(connection).fileno(driver_connection) if ends else None
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


def _close(engine: Engine, process: int) -> None:
    # What a fork has inherited is not its own to close.
    if process == os.getpid():
        engine.dispose()
