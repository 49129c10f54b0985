"""The versions of the tables, by Alembic: ``flask ants-dr init-db`` creates and upgrades them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy import inspect
from sqlalchemy import select

from ..dialects import dialect_of
from ..tables import VERSION
from ..tables import metadata
from ..tables import version

_FIRST = "0001"

# The tables that each version has made, and a column or an index that it has added, by which those
# are known that nobody has noted the version of.
_MADE = {
    _FIRST: {"ants_dr_callbacks", "ants_dr_messages", "ants_dr_quarantine"},
    "0003": {"ants_dr_tasks"},
    "0004": {"ants_dr_ledger"},
    "0006": {
        "ants_dr_callback_counts",
        "ants_dr_errors",
        "ants_dr_message_counts",
        "ants_dr_workers",
    },
}
_ADDED = {
    "0002": ("ants_dr_messages", "had_by"),
    "0003": ("ants_dr_messages", "erased_at"),
    "0004": ("ants_dr_ledger", "rank"),
    "0005": ("ants_dr_messages", "status_key"),
    "0006": ("ants_dr_messages", "error_key"),
    "0007": ("ants_dr_messages", "ix_ants_dr_messages_key"),
}


class WrongVersion(Exception):
    """The tables are not those of this release. Its text names the cure."""


def check_version(connection: Connection) -> None:
    """:raises WrongVersion: the tables are an older or a newer release's, or missing."""
    found = _version(connection)
    if found is None:
        raise WrongVersion("The inbox's tables are missing: run 'flask ants-dr init-db'.")
    if found < VERSION:
        raise WrongVersion(
            f"The inbox's tables are of version {found}, and this release needs {VERSION}: run"
            " 'flask ants-dr init-db'."
        )
    if found > VERSION:
        raise WrongVersion(
            f"The inbox's tables are of version {found}, of a newer release than this one, which"
            f" needs {VERSION}: install that release here, too."
        )


def migrate(connection: Connection) -> None:
    """Create the tables, or bring those of an older release up to this one's.

    :raises WrongVersion: they are a newer release's.
    """
    dialect = dialect_of(connection)
    with dialect.alone(connection):
        found = _version(connection)
        if found is not None and found < VERSION:
            _upgrade(connection, found)
            return
        if found is not None:
            check_version(connection)
        dialect.metadata.create_all(connection)
        if _noted(connection) is None:  # also where a host's own Alembic has made them
            connection.execute(version.insert().values(version_num=VERSION))


def _version(connection: Connection) -> str | None:
    """The version of the tables, or ``None`` where there are none, or not all of them."""
    if (found := _noted(connection)) is not None:
        return found
    # Made before there were versions, or by a host's own Alembic; or where making tables is no
    # transaction, and was cut off.
    inspector = inspect(connection)
    parts = {
        (table, part["name"])
        for table in metadata.tables
        if inspector.has_table(table)
        for part in (*inspector.get_columns(table), *inspector.get_indexes(table))
    }
    has = {table for table, _ in parts}
    found = max((one for one, added in _ADDED.items() if added in parts), default=_FIRST)
    is_whole = all(has >= tables for one, tables in _MADE.items() if one <= found)
    return found if is_whole else None


def _noted(connection: Connection) -> str | None:
    if not inspect(connection).has_table(version.name):
        return None
    found: str | None = connection.scalar(select(version.c.version_num))
    return found


def _upgrade(connection: Connection, found: str) -> None:
    # Here, because only an upgrade needs it, and importing it takes its time.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if _noted(connection) is None:
        command.stamp(config, found)
    command.upgrade(config, "head")
