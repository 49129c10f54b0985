"""The ledger."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

_MYSQL = ("mysql", "mariadb")
_NAME = sa.Text().with_variant(sa.String(255), *_MYSQL)
_WORD = sa.Text().with_variant(sa.String(32), *_MYSQL)
_TIME = sa.Float(53).with_variant(sa.Double(), *_MYSQL)
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
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
_TABLE = "ants_dr_ledger"


def upgrade() -> None:
    """It begins with what comes from here on."""
    op.create_table(
        _TABLE,
        sa.Column("id", _ID, primary_key=True),
        sa.Column("source", _NAME, nullable=False),
        sa.Column("key", _WORD, nullable=False, unique=True),
        sa.Column("message_id", _NAME, nullable=False),
        *(sa.Column(name, _NAME) for name in ("to_number", "bulk_id", "reference")),
        sa.Column("state", _WORD),
        sa.Column("rank", _NAME, nullable=False),
        sa.Column("status", _TEXT),
        sa.Column("report", _TEXT),
        *(sa.Column(name, _TIME) for name in ("expected_at", "reported_at", "open_since")),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("reports", sa.Integer, nullable=False),
        **_OPTIONS,
    )
    for name, *columns in (
        ("to", "to_number"),
        ("message", "message_id"),
        ("bulk", "bulk_id"),
        ("state", "state", "changed_at"),
    ):
        op.create_index(f"ix_{_TABLE}_{name}", _TABLE, ["source", *columns])
    for name, column in (("reference", "reference"), ("open", "open_since")):
        is_there = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_{_TABLE}_{name}",
            _TABLE,
            ["source", column],
            postgresql_where=is_there,
            sqlite_where=is_there,
        )
