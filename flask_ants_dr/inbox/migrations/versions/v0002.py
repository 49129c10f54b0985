"""Waiting and claimed are states; who has had a message and who failed on it is noted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TABLE = "ants_dr_messages"
_INDEXES = {
    "new": ("state = 'waiting' AND attempts = 0", ("source", "due_at", "callback_id", "position")),
    "retry": (
        "state = 'waiting' AND attempts > 0",
        ("source", "due_at", "callback_id", "position"),
    ),
    "claimed": ("state = 'claimed'", ("source", "due_at")),
    "done": ("state = 'done'", ("source", "finished_at")),
    "dead": ("state = 'dead'", ("source", "finished_at")),
}


def upgrade() -> None:
    """Keep every message; what was claimed is found as left by a process that died."""
    for name in ("waiting", "claimed", "finished"):
        op.drop_index(f"ix_ants_dr_messages_{name}", _TABLE)
    op.add_column(_TABLE, sa.Column("had_by", sa.Text))
    op.add_column(_TABLE, sa.Column("failed_by", sa.Text))
    op.execute(
        "UPDATE ants_dr_messages SET state ="
        " CASE WHEN claim IS NULL THEN 'waiting' ELSE 'claimed' END WHERE state = 'pending'"
    )
    for name, (where, columns) in _INDEXES.items():
        op.create_index(
            f"ix_ants_dr_messages_{name}",
            _TABLE,
            columns,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )
