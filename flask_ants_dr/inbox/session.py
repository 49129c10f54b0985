"""The host's session: what a subscriber writes, and the note that it has had a message, in one
transaction."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from flask import Flask
from sqlalchemy import URL
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import Update
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.orm import scoped_session

from ..signals import Discard
from .database import Database
from .database import WrongDatabase
from .dialects import DIALECTS
from .tables import messages

#: A session, or what has the present one: a scoped session, or a function without parameters.
HostSession = Session | scoped_session[Any] | Callable[[], Session]


class SessionNotReady(WrongDatabase):
    """It has no database, or not yet."""


class ClaimLost(Exception):
    """The message is another's by now: nothing of this attempt may be committed."""

    def __init__(self) -> None:
        super().__init__("the message was taken for left by a dead process, and is another's")


class Turn:
    """A subscriber's turn in the host's session.

    :param host: whose session it is.
    :param note: makes what notes that the subscriber has had the message, where the claim still
        holds. Whoever commits, writes it.
    """

    def __init__(self, host: HostDatabase, note: Callable[[], Update] | None = None) -> None:
        self._host = host
        self._note = note
        self.is_lost = False
        """Whether the claim had ended, so that nothing was committed."""
        self.is_noted = False
        """Whether the note was written, though not whether it was committed."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What the subscriber does in the session: committed, or rolled back if it raises."""
        session, token = self._host.session, _turn.set(self)
        try:
            try:
                yield
            except Discard:
                session().rollback()
                session().commit()  # the note
                raise
            session().commit()
        except BaseException:
            with suppress(Exception):  # it may be what fails
                session().rollback()
            raise
        finally:
            _turn.reset(token)

    def begin(self, session: Session, connection: Connection) -> None:
        """Begin on SQLite, where the driver would take a savepoint for all of the transaction."""
        if not self._host.is_sqlite or session is not self._host.session():
            return
        driver_connection: Any = connection.connection.driver_connection
        if not driver_connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def commit(self, session: Session) -> None:
        """Write the note.

        :raises ClaimLost: the claim had ended.
        """
        is_whole = session is self._host.session() and not session.in_nested_transaction()
        if not is_whole or not self._note:
            return
        result: Any = session.execute(self._note())
        if result.rowcount != 1:
            self.is_lost = True
            raise ClaimLost
        self.is_noted = True


_turn: ContextVar[Turn | None] = ContextVar("flask_ants_dr_turn", default=None)


@event.listens_for(Session, "after_begin")
def _after_begin(session: Session, transaction: object, connection: Connection) -> None:
    if turn := _turn.get():
        turn.begin(session, connection)


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    # Not before the subscriber is called: it could begin no transaction itself then, and where it
    # rolls back and goes on the note would be gone.
    if turn := _turn.get():
        turn.commit(session)


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
        self._set_up(timeout)

    @property
    def url(self) -> URL:
        return self.open().url

    def close(self) -> None:
        """Nothing: the connections are the host's."""

    def _make_engine(self, *, is_patient: bool) -> Engine:
        return self.open()

    def open(self) -> Engine:
        if self._engine is None:
            with self._opening:
                self._engine = self._engine or self._found()
        return self._engine

    def _found(self) -> Engine:
        """:raises WrongDatabase: an inbox cannot use the session's database."""
        with self._app.app_context():
            try:
                session = self.session()
                bind = session.get_bind(clause=messages) if isinstance(session, Session) else None
            except (RuntimeError, SQLAlchemyError):
                raise SessionNotReady(
                    "The session of Inbox(session=...) has no database: with Flask-SQLAlchemy,"
                    " db.init_app(app) is missing."
                ) from None
        if bind is None:
            raise WrongDatabase(
                "Inbox(session=...) takes a Session of SQLAlchemy, a scoped_session (such as"
                " db.session of Flask-SQLAlchemy), or a function that returns the present Session."
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
        return self.session().connection(bind_arguments={"clause": messages})

    def turn(self, note: Callable[[], Update] | None = None) -> Turn:
        """A subscriber's turn in the session.

        :param note: makes what notes that it has had a message.
        """
        return Turn(self, note)

    def transaction(self) -> AbstractContextManager[None]:
        """A subscriber's turn in which nothing is noted."""
        return self.turn().transaction()
