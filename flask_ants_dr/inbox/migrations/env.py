"""What Alembic runs: in the transaction of whoever upgrades the tables."""

from alembic import context

from flask_ants_dr.inbox.dialects import dialect_of
from flask_ants_dr.inbox.tables import version

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=dialect_of(connection).metadata,
    version_table=version.name,
)
with context.begin_transaction():
    context.run_migrations()
