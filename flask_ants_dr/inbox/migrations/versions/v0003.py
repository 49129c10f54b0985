"""What was erased and when, the bulk of a callback, and whose turn it is to do what comes again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NAME = sa.Text().with_variant(sa.String(255), "mysql", "mariadb")


def upgrade() -> None:
    """Keep everything; the bulks of what is stored already are not known."""
    op.add_column("ants_dr_callbacks", sa.Column("bulk_id", _NAME))
    op.add_column("ants_dr_callbacks", sa.Column("erased_at", sa.Float(53)))
    op.add_column("ants_dr_messages", sa.Column("erased_at", sa.Float(53)))
    op.create_index("ix_ants_dr_callbacks_bulk", "ants_dr_callbacks", ["source", "bulk_id"])
    op.create_index("ix_ants_dr_callbacks_kept", "ants_dr_callbacks", ["source", "erased_at", "id"])
    op.create_index("ix_ants_dr_quarantine_age", "ants_dr_quarantine", ["source", "quarantined_at"])
    op.create_table(
        "ants_dr_tasks",
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("due_at", sa.Float(53), nullable=False),
        sa.Column("state", sa.Text),
    )
