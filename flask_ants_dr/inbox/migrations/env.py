"""What Alembic runs: in the transaction of whoever upgrades the tables."""

from alembic import context

from flask_ants_dr.inbox.tables import metadata
from flask_ants_dr.inbox.tables import version

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=version.name,
)
with context.begin_transaction():
    context.run_migrations()
