"""One file for each version; Alembic finds them by their `revision`."""
