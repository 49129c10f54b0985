"""What is the same however a status of a message is reported."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_WORD = sa.Text().with_variant(sa.String(32), "mysql", "mariadb")
_TABLE = "ants_dr_messages"


def upgrade() -> None:
    """Of what is stored already it is read when it is needed."""
    op.add_column(_TABLE, sa.Column("status_key", _WORD))
    op.create_index(f"ix_{_TABLE}_status_key", _TABLE, ["status_key"])
