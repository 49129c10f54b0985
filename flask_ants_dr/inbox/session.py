"""The host's session: what a subscriber writes, and the note that it has had a message, in one
transaction."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import nullcontext
from contextlib import suppress
from contextvars import ContextVar
from threading import get_ident
from typing import Any

from flask import Flask
from flask import g
from sqlalchemy import URL
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.orm import scoped_session
from sqlalchemy.util import ThreadLocalRegistry

from ..signals import Discard
from .database import Database
from .database import WrongDatabase
from .dialects import DIALECTS
from .dialects import begin_sqlite
from .tables import messages

#: A session, or what has the present one: a scoped session, or a function without parameters.
HostSession = Session | scoped_session[Any] | Callable[[], Session]


# What a session that has several databases is asked for its engine with.
_WRITES = update(messages)


class SessionNotReady(WrongDatabase):
    """It has no database, or not yet."""


class ClaimLost(Exception):
    """The message is another's by now: nothing of this attempt may be committed."""

    def __init__(self) -> None:
        super().__init__("the message was taken for left by a dead process, and is another's")


class Turn:
    """A subscriber's turn in the host's session.

    :param host: whose session it is.
    :param note: notes that the subscriber has had the message, and returns whether the claim still
        held. Whoever commits, writes it.
    """

    def __init__(
        self, host: HostDatabase, note: Callable[[Connection], bool] | None = None
    ) -> None:
        self._host = host
        self._note = note
        self._session: Session | None = None
        self._context: object = None
        self._thread = get_ident()
        self._noting: Session | None = None
        self.is_lost = False
        """Whether the claim had ended, so that nothing was committed."""
        self.is_noted = False
        """Whether the note was committed."""
        self.is_whole = False
        """Whether it was after the subscriber had returned: all that it did is committed."""
        self._has_returned = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What the subscriber does in the session: committed, or rolled back if it raises."""
        session, token = self._host.session, _turn.set(self)
        self._session, self._context = session(), g._get_current_object()
        try:
            try:
                yield
            except Discard:
                session().rollback()
                _commit(session())  # the note
                raise
            self._has_returned = True
            if self.is_noted and not session().in_transaction():
                self.is_whole = True  # by its own commit, which no other one that fails may undo
            else:
                _commit(session())
        except BaseException:
            with suppress(Exception):  # it may be what fails
                session().rollback()
            raise
        finally:
            _turn.reset(token)

    def begins(self, session: Session, connection: Connection) -> None:
        """See to it that a transaction is one, on SQLite, and that of the turn.

        :raises RuntimeError: the session is another one in this thread.
        """
        if not self._is_ours(session):
            return
        if self._host.is_thread_scoped and get_ident() != self._thread:
            raise RuntimeError(
                "an async subscriber runs in a thread of its own, where this session is another:"
                " scope it to the application context, as Flask-SQLAlchemy does"
            )
        is_joined = isinstance(session.bind, Connection) or connection.in_nested_transaction()
        if self._host.is_sqlite and connection.engine.url == self._host.url and not is_joined:
            # The driver waits for the first write, and would take a savepoint for a transaction;
            # and a reader cannot become a writer where another one has written meanwhile.
            begin_sqlite(connection, writes=True)

    def commits(self, session: Session) -> None:
        """Write the note.

        :raises ClaimLost: the claim had ended.
        """
        is_whole = self._is_ours(session) and not session.in_nested_transaction()
        if not is_whole or not self._note:
            return
        # Not by session.execute(), which would be told to whoever listens to the host's statements.
        if not self._note(_connection_of(session)):
            self.is_lost = True
            raise ClaimLost
        self._noting = session

    def has_committed(self, session: Session) -> None:
        """Only now the note stands: where a commit fails, nobody knows."""
        if session is self._noting and not session.in_nested_transaction():
            self.is_noted = True
            self.is_whole = self._has_returned

    def _is_ours(self, session: Session) -> bool:
        """Whether it is the session of the turn, or what a subscriber has exchanged it for.

        In a context within that of the turn the host's session is another one.
        """
        if session is self._session:
            return True
        is_here = bool(g) and g._get_current_object() is self._context
        if is_here and session is self._host.session():
            self._session = session
            return True
        return False


def _commits_each_statement(driver_connection: Any) -> bool:
    # PyMySQL has a method of that name that sets it, and another one that says so.
    says = getattr(driver_connection, "get_autocommit", None)
    return (says() if says else getattr(driver_connection, "autocommit", None)) is True


def _connection_of(session: Session) -> Connection:
    """That of the database that has the inbox's tables, in the session's transaction."""
    return session.connection(bind_arguments={"clause": _WRITES})


def _commit(session: Session) -> None:
    if not session.in_transaction():  # which not every session begins itself
        session.begin()
    session.commit()


_turn: ContextVar[Turn | None] = ContextVar("flask_ants_dr_turn", default=None)


@event.listens_for(Session, "after_begin")
def _after_begin(session: Session, transaction: object, connection: Connection) -> None:
    if turn := _turn.get():
        turn.begins(session, connection)


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    # Not before the subscriber is called: it could begin no transaction itself then, and where it
    # rolls back and goes on the note would be gone.
    if turn := _turn.get():
        turn.commits(session)


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    if turn := _turn.get():
        turn.has_committed(session)


class HostDatabase(Database):
    """The database of a host's session, by the session's own engine.

    :param app: whose session it is.
    :param session: what has the session of the present context.
    :param timeout: how long to wait for a lock, in seconds.
    :param url: what the inbox's own URL is configured as, if it is.
    :param key: the key of that in the configuration.
    """

    def __init__(
        self, app: Flask, session: HostSession, timeout: float, url: str | None, key: str
    ) -> None:
        self._app = app
        self._configured = url
        self._key = key
        self.session = session if callable(session) else lambda: session
        registry = session.registry if isinstance(session, scoped_session) else None
        self.is_thread_scoped = isinstance(registry, ThreadLocalRegistry)
        """Whether each thread has a session of its own."""
        self._set_up(timeout)

    @property
    def url(self) -> URL:
        return self.open().url

    def close(self) -> None:
        """Nothing: the connections are the host's."""

    def _make_engine(self, *, is_patient: bool) -> Engine:
        return self.open()

    def _make_current(self, engine: Engine, ends: float) -> None:
        super()._make_current(engine, ends)
        with engine.connect() as connection:
            if _commits_each_statement(connection.connection.driver_connection):
                self._is_current = False
                raise WrongDatabase(
                    "The engine of Inbox(session=...) commits each statement (AUTOCOMMIT), so that"
                    " nothing can be rolled back: take another isolation level."
                )

    @contextmanager
    def _begin(
        self, connection: Connection, *, durable: bool, writes: bool, is_slow: bool = False
    ) -> Iterator[None]:
        begin = super()._begin(connection, durable=durable, writes=writes, is_slow=is_slow)
        bounded = nullcontext() if is_slow else self.dialect.bounded(connection, self._timeout)
        with begin, bounded:
            yield

    def open(self) -> Engine:
        if self._engine is None:
            with self._opening:
                self._engine = self._engine or self._found()
        if self._process != os.getpid():
            # Forked since the application was made: what it connected before is the parent's.
            self._process = os.getpid()
            self._engine.dispose(close=False)
        return self._engine

    def _found(self) -> Engine:
        """:raises WrongDatabase: an inbox cannot use the session's database."""
        with self._app.app_context():
            try:
                session = self.session()
                is_session = isinstance(session, Session) and self.session() is session
                bind = session.get_bind(clause=_WRITES) if is_session else None
            except (RuntimeError, SQLAlchemyError):
                raise SessionNotReady(
                    "The session of Inbox(session=...) has no database: db.init_app(app) is"
                    " missing or, where it has binds, one for the inbox's tables."
                ) from None
        if bind is None:
            raise WrongDatabase(
                "Inbox(session=...) takes a Session of SQLAlchemy, a scoped_session (such as"
                " db.session of Flask-SQLAlchemy), or a function that returns the present Session,"
                " and not a new one each time."
            )
        engine = bind.engine if isinstance(bind, Connection) else bind
        if engine.dialect.name not in DIALECTS:
            raise WrongDatabase(
                f"The database of Inbox(session=...) is {engine.dialect.name}, which an inbox"
                " cannot use: leave session out, and configure one with " + self._key + "."
            )
        if self._configured and make_url(self._configured) != engine.url:
            raise WrongDatabase(
                f"{self._key} names another database than the one of Inbox(session=...), in which"
                " the inbox's tables are: leave it out."
            )
        return engine

    def connection(self) -> Connection:
        """The session's connection, in its transaction.

        :raises InboxUnavailable: the tables are missing, or another release's.
        """
        self.prepare()
        return _connection_of(self.session())

    def turn(self, note: Callable[[Connection], bool] | None = None) -> Turn:
        """A subscriber's turn in the session.

        :param note: notes that it has had a message.
        """
        return Turn(self, note)

    def transaction(self) -> AbstractContextManager[None]:
        """A subscriber's turn in which nothing is noted."""
        return self.turn().transaction()
