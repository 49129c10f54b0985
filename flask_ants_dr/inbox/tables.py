"""The tables. A host with Alembic adds :data:`metadata` to its ``target_metadata``."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlalchemy import Column
from sqlalchemy import Float
from sqlalchemy import ForeignKey
from sqlalchemy import Index
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import MetaData
from sqlalchemy import Table
from sqlalchemy import Text
from sqlalchemy import literal_column

PENDING = "pending"
DONE = "done"
DEAD = "dead"

#: The inbox's tables. With Alembic, add it to your ``target_metadata``; otherwise
#: ``flask ants-dr init-db`` creates them.
metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")  # which numbers rows only by an INTEGER

#: What came, as it came: messages are read from it again when they are dispatched. Times are
#: seconds since 1970.
callbacks = Table(
    "ants_dr_callbacks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("url_variables", Text, nullable=False),  # JSON
    Column("query", Text, nullable=False),  # JSON
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Float(53), nullable=False),
)

#: A message that was accepted and what became of it here.
messages = Table(
    "ants_dr_messages",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("callback_id", _Id, ForeignKey("ants_dr_callbacks.id"), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("position", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # A pending message can be claimed from here on. A claim moves it to the end of its lease, so
    # one that is due and has a claim was left unfinished.
    Column("due_at", Float(53), nullable=False),
    Column("claim", Text),
    Column("error", Text),
    Column("finished_at", Float(53)),
)

# Literals, and no parameters, so that a database sees that the partial indexes below apply.
is_pending = messages.c.state == literal_column(f"'{PENDING}'")
is_waiting = is_pending & messages.c.claim.is_(None)
is_claimed = is_pending & messages.c.claim.is_not(None)
is_finished = messages.c.state != literal_column(f"'{PENDING}'")

for _name, _where, _columns in (
    ("waiting", is_waiting, ("source", "due_at", "callback_id", "position")),
    ("claimed", is_claimed, ("source", "due_at")),
    ("finished", is_finished, ("source", "state", "finished_at")),
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
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("position", Integer),  # among the details; NULL for the whole callback
    Column("error", Text, nullable=False),  # JSON: what the answer said
    Column("quarantined_at", Float(53), nullable=False),
)
