"""The tables. A host with Alembic adds :data:`metadata` to its ``target_metadata``."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy import Column
from sqlalchemy import ColumnElement
from sqlalchemy import Double
from sqlalchemy import Float
from sqlalchemy import ForeignKey
from sqlalchemy import Index
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import MetaData
from sqlalchemy import String
from sqlalchemy import Table
from sqlalchemy import Text
from sqlalchemy import literal_column
from sqlalchemy import or_
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.dialects.mysql import LONGTEXT


class State(StrEnum):
    """Where a message stands."""

    WAITING = "waiting"
    """For its first attempt, or for the next one."""
    CLAIMED = "claimed"
    """By a request or a worker, which dispatches it."""
    DONE = "done"
    """Each of its subscribers has had it."""
    DEAD = "dead"
    """Set aside after its last attempt."""


#: The inbox's tables. With Alembic, add it to your ``target_metadata``; otherwise
#: ``flask ants-dr init-db`` creates them. For MariaDB and MySQL take :data:`mysql_metadata`.
metadata = MetaData()

#: The version of these tables; that of a database's is in its ``version``.
VERSION = "0007"

#: Of each key, and of a claim.
KEY_CHARACTERS = 32

#: Of a row.
LARGEST_ID = 2**63 - 1

_Id = BigInteger().with_variant(Integer, "sqlite")  # which numbers rows only by an INTEGER

# MariaDB's and MySQL's texts and bodies end at 64 KiB, unless they are long ones; what is in an
# index has a length; and a FLOAT of 53 bits is reflected as what it is. Names and keys are compared
# byte by byte, as SQLite does: by a language's rules it takes longer, and keys have no order.
_MYSQL = ("mysql", "mariadb")
_by_bytes = Text(collation="C")
_Text = Text().with_variant(LONGTEXT(), *_MYSQL)
_Name = Text().with_variant(String(255), *_MYSQL).with_variant(_by_bytes, "postgresql")
_Word = Text().with_variant(String(KEY_CHARACTERS), *_MYSQL).with_variant(_by_bytes, "postgresql")
_Body = LargeBinary().with_variant(LONGBLOB(), *_MYSQL)
_Time = Float(53).with_variant(Double(), *_MYSQL)

_OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in _MYSQL
    for option, value in {
        "engine": "InnoDB",
        "charset": "utf8mb4",
        "collate": "utf8mb4_bin",
    }.items()
}

version = Table(
    "ants_dr_version", metadata, Column("version_num", String(32), primary_key=True), **_OPTIONS
)

#: What came, as it came: messages are read from it again when they are dispatched. Times are
#: seconds since 1970.
callbacks = Table(
    "ants_dr_callbacks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", _Name, nullable=False),
    Column("content_type", _Text, nullable=False),
    Column("url_variables", _Text, nullable=False),  # JSON
    Column("query", _Text, nullable=False),  # JSON
    Column("body", _Body, nullable=False),
    Column("received_at", _Time, nullable=False),
    # Its first characters: an index takes no text of any length.
    Column("bulk_id", _Name),
    # When its body was erased, which is empty since.
    Column("erased_at", _Time),
    Index("ix_ants_dr_callbacks_bulk", "source", "bulk_id"),
    Index("ix_ants_dr_callbacks_kept", "source", "erased_at", "id"),
    **_OPTIONS,
)

#: A message that was accepted and what became of it here.
messages = Table(
    "ants_dr_messages",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("callback_id", _Id, ForeignKey("ants_dr_callbacks.id"), nullable=False, index=True),
    Column("source", _Name, nullable=False),
    Column("key", _Word, nullable=False),
    # What is the same however a status of a message is reported: a hash of the message, and then
    # one of the status.
    Column("status_key", _Word),
    Column("position", Integer, nullable=False),
    Column("state", _Word, nullable=False),
    Column("attempts", Integer, nullable=False),
    # One that waits can be claimed from here on. One that is claimed and not renewed by then was
    # left by a process that died.
    Column("due_at", _Time, nullable=False),
    Column("claim", _Word),
    # The names of the subscribers that need not be called again, where another one must.
    Column("had_by", _Text),  # JSON
    # The subscriber that failed last, and what it raised. One that is done has it where it was
    # discarded.
    Column("failed_by", _Text),
    Column("error", _Text),
    # What is the same for errors of one kind: see the table of errors.
    Column("error_key", _Word),
    # Its last attempts that failed.
    Column("failures", _Text),  # JSON
    Column("finished_at", _Time),
    # When it was erased from its callback's body, which it can no longer be read from.
    Column("erased_at", _Time),
    # One index for both, because each change of a message costs for each index. What is the same by
    # its key has one status key.
    Index("ix_ants_dr_messages_key", "status_key", "key", unique=True),
    **_OPTIONS,
)


def is_in(*states: State) -> ColumnElement[bool]:
    """Whether a message is in one of the states."""
    # Literals, and no parameters, so that a database sees that the partial indexes below apply.
    return or_(*(messages.c.state == literal_column(f"'{state}'") for state in states))


is_new = is_in(State.WAITING) & (messages.c.attempts == literal_column("0"))
is_retry = is_in(State.WAITING) & (messages.c.attempts > literal_column("0"))
is_claimed = is_in(State.CLAIMED)
is_done = is_in(State.DONE)
is_dead = is_in(State.DEAD)

for _name, _where, _columns in (
    ("new", is_new, ("source", "due_at", "callback_id", "position")),
    ("retry", is_retry, ("source", "due_at", "callback_id", "position")),
    ("claimed", is_claimed, ("source", "due_at")),
    ("done", is_done, ("source", "finished_at")),
    ("dead", is_dead, ("source", "finished_at")),
):
    Index(
        f"ix_ants_dr_messages_{_name}",
        *(messages.c[column] for column in _columns),
        postgresql_where=_where,
        sqlite_where=_where,
    )

#: What could not be decoded or validated: a whole callback, or one of its details.
quarantine = Table(
    "ants_dr_quarantine",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("callback_id", _Id, ForeignKey("ants_dr_callbacks.id"), nullable=False, index=True),
    Column("source", _Name, nullable=False),
    Column("key", _Word, nullable=False, unique=True),
    Column("position", Integer),  # among the details; NULL for the whole callback
    Column("error", _Text, nullable=False),  # JSON: what the answer said
    Column("quarantined_at", _Time, nullable=False),
    Index("ix_ants_dr_quarantine_age", "source", "quarantined_at"),
    **_OPTIONS,
)

#: The kinds of errors that subscribers have raised: where, the first time, without a value.
errors = Table(
    "ants_dr_errors",
    metadata,
    Column("source", _Name, primary_key=True),
    Column("key", _Word, primary_key=True),
    Column("trace", _Text, nullable=False),
    Column("first_at", _Time, nullable=False),
    **_OPTIONS,
)


def _span() -> tuple[Column[Any], ...]:
    """What is counted as it comes is so for spans of so many seconds: a minute, and an hour."""
    return (
        Column("source", _Name, primary_key=True),
        Column("width", Integer, primary_key=True),
        Column("start", BigInteger, primary_key=True),
    )


#: How many callbacks had which answer.
callback_counts = Table(
    "ants_dr_callback_counts",
    metadata,
    *_span(),
    Column("status", Integer, primary_key=True),
    Column("callbacks", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("seconds", _Time, nullable=False),  # of all together
    Column("slowest", _Time, nullable=False),
    Column("last_at", _Time, nullable=False),
    **_OPTIONS,
)

#: How many messages were reported, by sender, state and the time from send to done.
message_counts = Table(
    "ants_dr_message_counts",
    metadata,
    *_span(),
    Column("sender", _Name, primary_key=True),  # empty for none
    Column("state", _Word, primary_key=True),
    Column("took", Integer, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    **_OPTIONS,
)

#: The processes that dispatch what waits.
workers = Table(
    "ants_dr_workers",
    metadata,
    Column("source", _Name, primary_key=True),
    Column("worker", _Word, primary_key=True),
    Column("kind", _Word, nullable=False),
    Column("host", _Name, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("since", _Time, nullable=False),
    Column("seen_at", _Time, nullable=False),
    # Until when it counts as alive, unless it is seen again.
    Column("alive_until", _Time, nullable=False),
    **_OPTIONS,
)

#: What is done again and again, once for all processes that work on a source.
tasks = Table(
    "ants_dr_tasks",
    metadata,
    Column("source", _Name, primary_key=True),
    Column("name", _Name, primary_key=True),
    Column("due_at", _Time, nullable=False),
    Column("state", _Text),  # how far it came
    **_OPTIONS,
)

#: What became of each message, and what was expected: one row for each, whatever is purged.
ledger = Table(
    "ants_dr_ledger",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", _Name, nullable=False),
    Column("key", _Word, nullable=False, unique=True),
    Column("message_id", _Name, nullable=False),
    Column("to_number", _Name),
    Column("bulk_id", _Name),
    Column("reference", _Name),
    Column("state", _Word),
    Column("rank", _Name, nullable=False),  # the later of two reports has the higher one
    # JSON: what the latest said.
    Column("status", _Text),
    Column("report", _Text),
    Column("expected_at", _Time),
    Column("reported_at", _Time),
    Column("open_since", _Time),  # while it is not final
    Column("changed_at", _Time, nullable=False),
    Column("reports", Integer, nullable=False),
    Index("ix_ants_dr_ledger_to", "source", "to_number"),
    Index("ix_ants_dr_ledger_message", "source", "message_id"),
    Index("ix_ants_dr_ledger_bulk", "source", "bulk_id"),
    Index("ix_ants_dr_ledger_state", "source", "state", "changed_at"),
    **_OPTIONS,
)

for _name, _column in (("reference", ledger.c.reference), ("open", ledger.c.open_since)):
    # MariaDB and MySQL have them whole.
    Index(
        f"ix_ants_dr_ledger_{_name}",
        ledger.c.source,
        _column,
        postgresql_where=_column.is_not(None),
        sqlite_where=_column.is_not(None),
    )


def _without_partial_indexes() -> MetaData:
    copied = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(copied)
    table = copied.tables[messages.name]
    for index in list(table.indexes):
        if index.dialect_options["sqlite"]["where"] is not None:
            table.indexes.remove(index)
    for name, *columns in (
        ("due", "state", "source", "attempts", "due_at", "callback_id", "position"),
        ("finished", "state", "source", "finished_at"),
    ):
        Index(f"ix_ants_dr_messages_{name}", *(table.c[column] for column in columns))
    return copied


#: The same tables for MariaDB and MySQL, which have no partial indexes. (Alembic compares the
#: indexes of a metadata whatever the database: ``ddl_if`` is not heeded.)
mysql_metadata = _without_partial_indexes()
