"""The versions of the tables, by Alembic: ``flask ants-dr init-db`` creates and upgrades them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy import inspect
from sqlalchemy import select

from ..tables import VERSION
from ..tables import messages
from ..tables import metadata
from ..tables import version

_FIRST = "0001"


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
    found = _version(connection)
    if found is not None and found < VERSION:
        _upgrade(connection, found)
        return
    if found is not None:
        check_version(connection)
    metadata.create_all(connection)
    if _noted(connection) is None:  # also where a host's own Alembic has made them
        connection.execute(version.insert().values(version_num=VERSION))


def _version(connection: Connection) -> str | None:
    """The version of the tables, or ``None`` where there are none."""
    if (found := _noted(connection)) is not None:
        return found
    inspector = inspect(connection)
    if not inspector.has_table(messages.name):
        return None
    # Made before there were versions, or by a host's own Alembic.
    columns = {column["name"] for column in inspector.get_columns(messages.name)}
    return VERSION if columns >= set(messages.c.keys()) else _FIRST


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
    if not inspect(connection).has_table(version.name):
        command.stamp(config, found)
    command.upgrade(config, "head")
