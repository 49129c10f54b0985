"""What is counted, which workers there are, and which errors."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"

_MYSQL = ("mysql", "mariadb")
_NAME = sa.Text().with_variant(sa.String(255), *_MYSQL)
_WORD = sa.Text().with_variant(sa.String(32), *_MYSQL)
_TIME = sa.Float(53).with_variant(sa.Double(), *_MYSQL)
_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), *_MYSQL)
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in _MYSQL
    for option, value in {
        "engine": "InnoDB",
        "charset": "utf8mb4",
        "collate": "utf8mb4_bin",
    }.items()
}
_MESSAGES = "ants_dr_messages"


def upgrade() -> None:
    """They begin with what comes from here on."""
    for name, type_ in (("error_key", _WORD), ("failures", _TEXT)):
        op.add_column(_MESSAGES, sa.Column(name, type_))
    # It is made in another way since, and of what is stored already it is read when it is needed.
    op.execute(sa.table(_MESSAGES, sa.column("status_key")).update().values(status_key=None))
    op.create_table(
        "ants_dr_errors",
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("key", _WORD, primary_key=True),
        sa.Column("trace", _TEXT, nullable=False),
        sa.Column("first_at", _TIME, nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "ants_dr_callback_counts",
        *_span(),
        sa.Column("status", sa.Integer, primary_key=True),
        sa.Column("callbacks", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        *(sa.Column(name, _TIME, nullable=False) for name in ("seconds", "slowest", "last_at")),
        **_OPTIONS,
    )
    op.create_table(
        "ants_dr_message_counts",
        *_span(),
        sa.Column("sender", _NAME, primary_key=True),
        sa.Column("state", _WORD, primary_key=True),
        sa.Column("took", sa.Integer, primary_key=True),
        sa.Column("messages", sa.BigInteger, nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "ants_dr_workers",
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("worker", _WORD, primary_key=True),
        sa.Column("kind", _WORD, nullable=False),
        sa.Column("host", _NAME, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        *(sa.Column(name, _TIME, nullable=False) for name in ("since", "seen_at", "alive_until")),
        **_OPTIONS,
    )


def _span() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("width", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
    )
