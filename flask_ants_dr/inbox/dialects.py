"""What differs between SQLite, PostgreSQL, MariaDB and MySQL: a class for each kind of them."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from functools import lru_cache
from functools import partial
from functools import wraps
from math import ceil
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any
from typing import ClassVar
from typing import Concatenate
from typing import ParamSpec
from typing import TypeVar

from sqlalchemy import JSON
from sqlalchemy import URL
from sqlalchemy import BigInteger
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import Integer
from sqlalchemy import MetaData
from sqlalchemy import NullPool
from sqlalchemy import Row
from sqlalchemy import Select
from sqlalchemy import StaticPool
from sqlalchemy import Table
from sqlalchemy import Text
from sqlalchemy import any_
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import column
from sqlalchemy import create_engine
from sqlalchemy import delete
from sqlalchemy import event
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import literal
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import SQLAlchemyError

from .tables import KEY_CHARACTERS
from .tables import LARGEST_ID
from .tables import metadata
from .tables import mysql_metadata

_HOUR = 3600

# Of SQLite's PRAGMA synchronous.
_NORMAL = 1
_FULL = 2

# Of MariaDB and MySQL: ER_CANT_CHANGE_TX_CHARACTERISTICS; ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK.
_IN_TRANSACTION = 1568
_CONFLICTS = {1205, 1213}

# Of MariaDB and MySQL: for how many seconds a lock of a row, and of a table, is waited for.
_WAITS = "innodb_lock_wait_timeout", "lock_wait_timeout"
_KEEP_WAITS = ", ".join(f"@ants_dr_{name} = @@{name}" for name in _WAITS)
_RESTORE_WAITS = ", ".join(f"SESSION {name} = @ants_dr_{name}" for name in _WAITS)

P = ParamSpec("P")
T = TypeVar("T")
Rows = Sequence[Row[Any]]
Changes = Callable[[Any], Mapping[str, ColumnElement[Any]]]


class Dialect(ABC):
    """What an inbox has to know of a kind of database."""

    insert: Any
    """An ``INSERT`` that a conflict can be handled in."""

    example: str
    """A URL."""
    metadata: ClassVar[MetaData] = metadata
    has_partial_indexes: ClassVar[bool] = True
    longest_value: ClassVar[int] = sys.maxsize
    """How many bytes of a body a statement can have."""

    def make_engine(self, url: URL, timeout: float, *, is_patient: bool) -> Engine:
        """An engine of whose connections no other part of the program has one.

        :param is_patient: for what takes its time: each answer is waited for as long as it takes.
        """
        options: dict[str, Any] = {"poolclass": NullPool} if is_patient else {}
        if not is_patient:
            options["pool_timeout"] = timeout
        arguments = self.connect_args(url.get_driver_name(), timeout, is_patient=is_patient)
        return create_engine(url, hide_parameters=True, connect_args=arguments, **options)

    @abstractmethod
    def connect_args(self, driver: str, timeout: float, *, is_patient: bool) -> dict[str, Any]:
        """What a driver is told when it connects."""

    @contextmanager
    def settings(self, connection: Connection, timeout: float, *, durable: bool) -> Iterator[None]:
        """Set for a transaction what cannot be said within it, and set it back at its end."""
        yield

    @abstractmethod
    def begin(
        self, connection: Connection, timeout: float, *, durable: bool, writes: bool, is_slow: bool
    ) -> None:
        """Say what a transaction needs, as its first statements, and of it alone."""

    @contextmanager
    def bounded(self, connection: Connection, timeout: float) -> Iterator[None]:
        """Have the server give up a transaction that waits for a lock when it is cut on our side,
        where a host's engine does not say so."""
        yield

    def unfit(self, connection: Connection) -> str | None:
        """Why an inbox cannot use this database, and the cure."""
        return None

    def fileno(self, driver_connection: Any) -> Callable[[], int] | None:
        """What gives the file descriptor of a connection's socket, where it has one."""
        return getattr(driver_connection, "fileno", None)

    def is_conflict(self, error: DBAPIError) -> bool:
        """Whether a transaction failed because of another one, and may succeed the next time."""
        return False

    @contextmanager
    def alone(self, connection: Connection) -> Iterator[None]:
        """While one process makes tables, others wait."""
        yield

    @contextmanager
    def written_through(self, connection: Connection) -> Iterator[None]:
        """What is written is written, and not kept in memory until the commit."""
        yield

    @abstractmethod
    def among(
        self, connection: Connection, column: ColumnElement[int], ids: Sequence[int]
    ) -> ColumnElement[bool]:
        """Whether a column is one of many numbers, of which no row need be able to have each."""

    def is_same(self, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
        """Whether a column is a text, blanks at its end included."""
        return column == text

    @abstractmethod
    def insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Mapping[str, tuple[int, str]],
        values: Mapping[str, Any],
    ) -> dict[str, int]:
        """Insert, in one statement, the rows whose key is not there, and return their ids by key.

        :param rows: the position and the status key of each, by its key.
        :param values: what is the same in all of them: a ``callback_id`` among it.
        """

    @abstractmethod
    def insert_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, int]:
        """Insert the rows of one callback whose key is not there, and return their ids by key."""

    @abstractmethod
    def upsertion(self, insertion: Any, changes: Changes) -> Any:
        """An ``INSERT`` that changes what is there."""

    def upsert(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        changes: Changes,
    ) -> None:
        """Insert rows, or change those whose key is there: the column ``key`` where rows have an
        ``id``, else the primary key.

        :param rows: all of the same columns, with values that JSON has.
        :param changes: makes the new values of columns from those that were to be inserted, without
            a parameter. MariaDB and MySQL see what stands before a column as changed already.
        """
        text, order = self._upsertion(connection.dialect, table, tuple(rows[0]), changes)
        # Not by SQLAlchemy's own statement, which looks at each value of each row.
        values = [tuple(row[name] for name in order) for row in rows] if order else list(rows)
        connection.exec_driver_sql(text, values)

    @lru_cache(maxsize=64)  # noqa: B019  there is one of each dialect, and SQLAlchemy's of each engine
    def _upsertion(
        self, dialect: Any, table: Table, names: tuple[str, ...], changes: Changes
    ) -> tuple[str, Sequence[str] | None]:
        """The text of a statement, and the order of its parameters where they have no names."""
        statement = self.upsertion(self.insert(table), changes)
        compiled = statement.compile(dialect=dialect, column_keys=names)
        return str(compiled), compiled.positiontup

    @abstractmethod
    def change(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        values: Mapping[str, Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        """Change rows, and return columns of them as they are now.

        :param chosen: the ids of the rows, ``FOR UPDATE``: what is to be done about those that
            another transaction has locked is the caller's to say. On MariaDB and MySQL that can be
            any which it has looked at.
        """

    @abstractmethod
    def remove(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        """Delete rows, and return columns of them.

        :param chosen: the ids of the rows, as with :meth:`change`.
        """


class _WithReturning(Dialect):
    """One that says what it has changed."""

    @abstractmethod
    def each(self, text: ColumnElement[str]) -> Any:
        """Rows ``key``, ``value`` of a mapping that is written as JSON."""

    def insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Mapping[str, tuple[int, str]],
        values: Mapping[str, Any],
    ) -> dict[str, int]:
        texts = {key: f"{status_key}{position}" for key, (position, status_key) in rows.items()}
        statement = self._insertion_of_new(table, tuple(values))
        # Not as SQLAlchemy's JSON: the serializer of a host's engine may put them in another order.
        return self._new(connection, statement, {**values, "texts": json.dumps(texts)})

    @cache  # noqa: B019  there is one of each dialect
    def _insertion_of_new(self, table: Table, names: tuple[str, ...]) -> Any:
        columns = [bindparam(name, type_=table.c[name].type) for name in names]
        # All rows are one parameter, so that it is one statement for any number of them.
        each = self.each(bindparam("texts", type_=Text)).table_valued("key", "value")
        status_key = func.substr(each.c.value, 1, KEY_CHARACTERS)
        position = cast(func.substr(each.c.value, KEY_CHARACTERS + 1), Integer)
        # An older release has stored what has no status key.
        old = table.alias()
        is_old = exists().where(old.c.status_key.is_(None), old.c.key == each.c.key)
        chosen = select(*columns, each.c.key, position, status_key).where(~is_old)
        insertion = self.insert(table).from_select(
            [*names, "key", "position", "status_key"], chosen
        )
        return self._unless_there(insertion, ["status_key", "key"])

    def insert_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, int]:
        return self._new(connection, self._unless_there(self.insert(table), ["key"]), rows)

    def upsertion(self, insertion: Any, changes: Changes) -> Any:
        table = insertion.table
        unique = ["key"] if "id" in table.c else list(table.primary_key)
        set_ = changes(insertion.excluded)
        return insertion.on_conflict_do_update(index_elements=unique, set_=set_)

    def _unless_there(self, insertion: Any, unique: Sequence[str]) -> Any:
        columns = insertion.table.c
        return insertion.on_conflict_do_nothing(index_elements=unique).returning(
            columns.key, columns.id
        )

    def _new(self, connection: Connection, insertion: Any, parameters: Any) -> dict[str, int]:
        return {row[0]: row[1] for row in connection.execute(insertion, parameters)}

    def change(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        values: Mapping[str, Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        statement = update(table).where(self._is_chosen(table, chosen)).values(values)
        return connection.execute(statement.returning(*returning)).all()

    def remove(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        statement = delete(table).where(self._is_chosen(table, chosen))
        return connection.execute(statement.returning(*returning)).all()

    def _is_chosen(self, table: Table, chosen: Select[Any]) -> ColumnElement[bool]:
        return table.c.id.in_(chosen)


class SQLite(_WithReturning):
    """SQLite, in a file."""

    example = "sqlite:////folder/inbox.sqlite3"
    insert = staticmethod(sqlite.insert)

    def make_engine(self, url: URL, timeout: float, *, is_patient: bool) -> Engine:
        if not (url.database or "").startswith("file:"):  # a URI of SQLite's own
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        engine = super().make_engine(url, timeout, is_patient=is_patient)
        event.listen(engine, "connect", partial(_connect_to_sqlite, timeout))
        return engine

    def connect_args(self, driver: str, timeout: float, *, is_patient: bool) -> dict[str, Any]:
        return {"timeout": timeout, "isolation_level": None}

    @contextmanager
    def settings(self, connection: Connection, timeout: float, *, durable: bool) -> Iterator[None]:
        driver_connection: Any = connection.connection.driver_connection
        cursor = driver_connection.cursor()
        settings = {
            "busy_timeout": round(timeout * 1000),
            "synchronous": _FULL if durable else _NORMAL,
        }
        before = {name: _pragma(cursor, name) for name in settings}
        changed = {name: value for name, value in settings.items() if before[name] != value}
        if driver_connection.in_transaction and is_in_memory(connection.engine.url):
            changed = {}  # it is another's, in the one connection that there is
        try:
            _set(driver_connection, cursor, changed)
            yield
        finally:
            _set(driver_connection, cursor, {name: before[name] for name in changed})

    def begin(
        self, connection: Connection, timeout: float, *, durable: bool, writes: bool, is_slow: bool
    ) -> None:
        begin_sqlite(connection, writes=writes)

    @contextmanager
    def written_through(self, connection: Connection) -> Iterator[None]:
        # It writes nothing before the commit, but for what its cache does not hold.
        connection.exec_driver_sql("PRAGMA cache_size = 1")
        try:
            yield
        finally:
            connection.exec_driver_sql("PRAGMA cache_size = -2000")  # as it comes

    def among(
        self, connection: Connection, column: ColumnElement[int], ids: Sequence[int]
    ) -> ColumnElement[bool]:
        each = func.json_each(json.dumps(list(ids))).table_valued("value")
        return column.in_(select(each.c.value))

    def each(self, text: ColumnElement[str]) -> Any:
        return func.json_each(text)


def is_in_memory(url: URL) -> bool:
    """Whether it is a database of SQLite's that ends with its process."""
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    return name.endswith(":memory:") or url.query.get("mode") == "memory"


def begin_sqlite(connection: Connection, *, writes: bool) -> None:
    """Begin what SQLAlchemy takes for begun, while the driver waits for the first write."""
    driver_connection: Any = connection.connection.driver_connection
    if driver_connection.in_transaction:
        if not writes or is_in_memory(connection.engine.url):
            return
        # By an event of a host's engine, or by the driver, as a reader.
        connection.exec_driver_sql("COMMIT")
    # At once a writer: a reader that becomes one while another writes fails without waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set(driver_connection: Any, cursor: Any, settings: Mapping[str, int]) -> None:
    if settings and driver_connection.in_transaction:
        cursor.execute("COMMIT")  # of an empty one: there are drivers that always have one
    for name, value in settings.items():
        cursor.execute(f"PRAGMA {name}={value}")


def _pragma(cursor: Any, name: str) -> int:
    cursor.execute(f"PRAGMA {name}")
    value: int = cursor.fetchone()[0]
    return value


def _connect_to_sqlite(timeout: float, connection: Any, record: object) -> None:
    ends = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except OperationalError:
            # For a new file SQLite does not wait until another process has done so.
            if time.monotonic() >= ends:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA foreign_keys=ON")


class PostgreSQL(_WithReturning):
    """PostgreSQL, also behind a pooler in transaction mode."""

    example = "postgresql+psycopg://host/database"
    insert = staticmethod(postgresql.insert)

    def connect_args(self, driver: str, timeout: float, *, is_patient: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if driver in {"psycopg", "psycopg2"}:
            arguments["connect_timeout"] = max(2, ceil(timeout))
        if driver == "psycopg":
            # A pooler in transaction mode hands the next transaction to another server process.
            arguments["prepare_threshold"] = None
        return arguments

    def begin(
        self, connection: Connection, timeout: float, *, durable: bool, writes: bool, is_slow: bool
    ) -> None:
        if is_slow:
            return
        milliseconds = round(timeout * 1000)
        # Of this transaction alone, because behind a pooler the connection is others', too.
        own = "" if durable else ", set_config('synchronous_commit', 'off', true)"
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{milliseconds}', true),"
            f" set_config('statement_timeout', '{milliseconds}', true){own}"
        )

    def unfit(self, connection: Connection) -> str | None:
        if connection.exec_driver_sql("SHOW server_encoding").scalar() == "UTF8":
            return None
        return (
            "The inbox's database has an encoding that not every text can be stored in: make it"
            " with ENCODING 'UTF8'."
        )

    def is_conflict(self, error: DBAPIError) -> bool:
        # Of psycopg and of psycopg2.
        found = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        return found in {"40001", "40P01"}  # serialization_failure, deadlock_detected

    @contextmanager
    def alone(self, connection: Connection) -> Iterator[None]:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('ants_dr'))")
        yield

    def among(
        self, connection: Connection, column: ColumnElement[int], ids: Sequence[int]
    ) -> ColumnElement[bool]:
        there = [id for id in ids if abs(id) <= LARGEST_ID]
        return column == any_(literal(there, postgresql.ARRAY(BigInteger)))

    def _is_chosen(self, table: Table, chosen: Select[Any]) -> ColumnElement[bool]:
        # A common table expression, because a subquery with LIMIT may be run more than once. And an
        # array of it, because where the statistics say that a table is empty which has grown since,
        # the two would be joined by comparing each row with each.
        rows = chosen.cte("chosen")
        return table.c.id == any_(func.array(select(rows.c.id).scalar_subquery()))

    def upsert(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        changes: Changes,
    ) -> None:
        # All rows are one parameter: the driver sends a list of them one by one.
        connection.execute(self._upsertion_of(table, tuple(rows[0]), changes), {"rows": rows})

    @cache  # noqa: B019  there is one of each dialect
    def _upsertion_of(self, table: Table, names: tuple[str, ...], changes: Changes) -> Any:
        rows = func.json_to_recordset(bindparam("rows", type_=JSON))
        each = rows.table_valued(*(column(name, table.c[name].type) for name in names))
        chosen = select(*each.render_derived(with_types=True).c)
        return self.upsertion(self.insert(table).from_select(names, chosen), changes)

    def each(self, text: ColumnElement[str]) -> Any:
        return func.json_each_text(cast(text, JSON))


class MySQL(Dialect):
    """MariaDB 10.6 and newer, and MySQL 8: without ``RETURNING``, which they have not both."""

    insert = staticmethod(mysql.insert)
    metadata = mysql_metadata
    has_partial_indexes = False
    # A statement is at most 16 MiB, if the server is as it comes, and PyMySQL writes two characters
    # for a byte.
    longest_value = 4 * 1024 * 1024

    def __init__(self, example: str) -> None:
        self.example = example

    def connect_args(self, driver: str, timeout: float, *, is_patient: bool) -> dict[str, Any]:
        if driver not in {"pymysql", "mysqldb"}:
            return {}
        seconds = max(1, ceil(timeout))
        arguments: dict[str, Any] = {"charset": "utf8mb4", "connect_timeout": seconds}
        if not is_patient:
            # The deadline of a transaction begins when it has its connection.
            arguments["read_timeout"] = arguments["write_timeout"] = seconds
            # The wait for a lock cannot be bounded for a transaction alone. Without a bound the
            # server does not notice for 50 s, or a day, that we have gone, and keeps what the
            # transaction has locked.
            arguments["init_command"] = f"SET {_bounds(seconds)}"
        return arguments

    @contextmanager
    def bounded(self, connection: Connection, timeout: float) -> Iterator[None]:
        # Set back at the end: the connection is the host's.
        bounds = _bounds(max(1, ceil(timeout)))
        connection.exec_driver_sql(f"SET {_KEEP_WAITS}, {bounds}")
        try:
            yield
        finally:
            try:
                connection.exec_driver_sql(f"SET {_RESTORE_WAITS}")
            except SQLAlchemyError:
                connection.invalidate()

    def unfit(self, connection: Connection) -> str | None:
        if connection.exec_driver_sql("SELECT @@character_set_connection").scalar() == "utf8mb4":
            return None
        return (
            "The connection to the inbox's database has a character set that not every text can be"
            " sent in: put charset=utf8mb4 into its URL."
        )

    def begin(
        self, connection: Connection, timeout: float, *, durable: bool, writes: bool, is_slow: bool
    ) -> None:
        # Of the next transaction alone.
        isolation = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
        try:
            connection.exec_driver_sql(isolation)
        except DBAPIError as error:
            # An event of a host's engine has read something. What it has written stays. But where
            # all share one connection, somebody else's transaction is not to be committed.
            is_shared = isinstance(connection.engine.pool, StaticPool)
            if is_shared or _number_of(error) != _IN_TRANSACTION:
                raise
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(isolation)

    def fileno(self, driver_connection: Any) -> Callable[[], int] | None:
        # PyMySQL has no method for it.
        return super().fileno(getattr(driver_connection, "_sock", driver_connection))

    def is_conflict(self, error: DBAPIError) -> bool:
        return _number_of(error) in _CONFLICTS

    @contextmanager
    def alone(self, connection: Connection) -> Iterator[None]:
        # Not until the commit, as elsewhere: a statement that makes a table is one.
        name = func.concat("ants_dr.", func.md5(func.database()))
        if not connection.scalar(select(func.get_lock(name, _HOUR))):
            raise TimeoutError("another process has been making tables for an hour")
        try:
            yield
            connection.exec_driver_sql("COMMIT")
        finally:
            connection.execute(select(func.release_lock(name)))

    def among(
        self, connection: Connection, column: ColumnElement[int], ids: Sequence[int]
    ) -> ColumnElement[bool]:
        return column.in_(ids)

    def is_same(self, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
        # To these, two texts are the same where one has nothing but blanks more.
        return (column == text) & (func.char_length(column) == len(text))

    def insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Mapping[str, tuple[int, str]],
        values: Mapping[str, Any],
    ) -> dict[str, int]:
        # An older release has stored what has no status key.
        is_old = table.c.status_key.is_(None) & table.c.key.in_(rows)
        old = set(connection.scalars(select(table.c.key).where(is_old)))
        each = [
            {**values, "key": key, "position": position, "status_key": status_key}
            for key, (position, status_key) in rows.items()
            if key not in old
        ]
        return self.insert_rows(connection, table, each)

    def insert_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, int]:
        if not rows:
            return {}
        of_callback = select(table.c.key, table.c.id).where(
            table.c.callback_id == rows[0]["callback_id"]
        )
        before = set(connection.scalars(of_callback))
        # Not IGNORE, which would ignore all that is wrong with a row.
        unless_there = mysql.insert(table).on_duplicate_key_update(key=table.c.key)
        connection.execute(unless_there, rows)
        return {key: id for key, id in connection.execute(of_callback) if key not in before}

    def upsertion(self, insertion: Any, changes: Changes) -> Any:
        return insertion.on_duplicate_key_update(list(changes(insertion.inserted).items()))

    def change(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        values: Mapping[str, Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        ids = connection.scalars(chosen).all()
        if not ids:
            return []
        these = table.c.id.in_(ids)
        connection.execute(update(table).where(these).values(values))
        return connection.execute(select(*returning).where(these)).all()

    def remove(
        self,
        connection: Connection,
        table: Table,
        chosen: Select[Any],
        *returning: ColumnElement[Any],
    ) -> Rows:
        ids = connection.scalars(chosen).all()
        if not ids:
            return []
        these = table.c.id.in_(ids)
        found = connection.execute(select(*returning).where(these)).all()
        connection.execute(delete(table).where(these))
        return found


def _number_of(error: DBAPIError) -> object:
    """The number of an error of MariaDB's or MySQL's."""
    return error.orig.args[0] if error.orig and error.orig.args else None


def _bounds(seconds: int) -> str:
    return ", ".join(f"SESSION {name} = {seconds}" for name in _WAITS)


DIALECTS: Mapping[str, Dialect] = {
    "sqlite": SQLite(),
    "postgresql": PostgreSQL(),
    "mysql": MySQL("mysql+pymysql://host/database"),
    "mariadb": MySQL("mariadb+pymysql://host/database"),
}
"""By SQLAlchemy's names."""


def dialect_of(connection: Connection | Engine) -> Dialect:
    """The dialect that a connection speaks."""
    return DIALECTS[connection.dialect.name]


def _by_connection(
    method: Callable[Concatenate[Any, Connection, P], T],
) -> Callable[Concatenate[Connection, P], T]:
    """A function that is this method of the dialect that its connection speaks."""

    @wraps(method)
    def call(connection: Connection, /, *arguments: P.args, **named: P.kwargs) -> T:
        own: Callable[..., T] = getattr(dialect_of(connection), method.__name__)
        return own(connection, *arguments, **named)

    return call


among = _by_connection(Dialect.among)
insert_new = _by_connection(Dialect.insert_new)
insert_rows = _by_connection(Dialect.insert_rows)
upsert = _by_connection(Dialect.upsert)
change = _by_connection(Dialect.change)
remove = _by_connection(Dialect.remove)
