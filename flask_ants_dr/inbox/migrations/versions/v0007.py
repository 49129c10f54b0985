"""One index of keys where there were two, and names and keys that are compared byte by byte."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TABLE = "ants_dr_messages"

# Of PostgreSQL.
_COLUMNS = {
    "ants_dr_callbacks": ("source", "bulk_id"),
    "ants_dr_messages": ("source", "key", "status_key", "state", "claim", "error_key"),
    "ants_dr_quarantine": ("source", "key"),
    "ants_dr_errors": ("source", "key"),
    "ants_dr_callback_counts": ("source",),
    "ants_dr_message_counts": ("source", "sender", "state"),
    "ants_dr_workers": ("source", "worker", "kind", "host"),
    "ants_dr_tasks": ("source", "name"),
    "ants_dr_ledger": (
        "source",
        "key",
        "message_id",
        "to_number",
        "bulk_id",
        "reference",
        "state",
        "rank",
    ),
}


def upgrade() -> None:
    """Keep everything."""
    op.create_index("ix_ants_dr_messages_key", _TABLE, ["status_key", "key"], unique=True)
    op.drop_index("ix_ants_dr_messages_status_key", _TABLE)
    match op.get_bind().dialect.name:
        case "sqlite":
            # It drops no constraint, so that the table is made anew.
            unnamed = {"uq": "of_%(column_0_name)s"}
            with op.batch_alter_table(_TABLE, naming_convention=unnamed) as table:
                table.drop_constraint("of_key", type_="unique")
        case "postgresql":
            op.drop_constraint("ants_dr_messages_key_key", _TABLE)
            for name, columns in _COLUMNS.items():
                for column in columns:
                    op.alter_column(name, column, type_=sa.Text(collation="C"))
        case _:
            op.drop_index("key", _TABLE)
