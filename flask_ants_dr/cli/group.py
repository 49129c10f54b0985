"""The group of commands, and what they have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING
from typing import Any

import click
from flask import Flask
from flask import current_app
from flask.cli import AppGroup

from ..errors import InboxUnavailable
from ..errors import MessageLogsError
from ..escaping import printable
from ..registration import registrations

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from ..inbox import BoundInbox

cli = AppGroup("ants-dr", help="Delivery reports of ANTS: try, check and look after them.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")

#: An identifier, or how many: not more than a database takes for a number.
NUMBER = click.IntRange(1, 2**63 - 1)

#: Of a progress bar.
PARTS = 1000

_LONGEST = 1_000_000
_LONGEST_AGE = 1000 * 365 * 86_400  # seconds, which a date can be before now
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Seconds, or how many a second: no NaN, and nothing that a clock cannot count."""
    if value is not None and not 0 < value <= _LONGEST:
        raise click.BadParameter(f"give a number above 0 and up to {_LONGEST:,}.")
    return value


def current() -> Flask:
    """The application itself."""
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]


def with_inboxes(command: Callable[..., None]) -> Callable[..., None]:
    """Hand the application's inboxes to a command, and turn their failures into one line."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        if not any(one.inbox for one in registrations(current()).values()):
            raise click.ClickException(
                "No blueprint of this application has an inbox: register"
                " DeliveryReportBlueprint(inbox=Inbox())."
            )
        from ..inbox import bound_inboxes
        from ..inbox.database import WrongDatabase

        try:
            command(bound_inboxes(current()), *args, **kwargs)
        except WrongDatabase as error:
            raise click.ClickException(str(error)) from None
        except InboxUnavailable:
            raise click.ClickException(
                "The inbox's database failed; the log says why. If its tables are missing, run"
                " 'flask ants-dr init-db'."
            ) from None

    return wrapper


def configured(inboxes: list[BoundInbox]) -> list[BoundInbox]:
    """The inboxes that Message Logs can be asked for."""
    from ..inbox import reconcile

    found = [inbox for inbox in inboxes if reconcile.is_configured(inbox)]
    try:
        for inbox in found or inboxes:
            reconcile.check_setup(inbox)
    except MessageLogsError as error:
        raise click.ClickException(str(error)) from None
    return found


def ago(age: str) -> timedelta:
    return timedelta(seconds=min(seconds(age), _LONGEST_AGE))


def seconds(age: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhd])", age)
    if not found:
        raise click.BadParameter("must be a number and s, m, h or d, such as 30d.")
    return int(found[1]) * _UNITS[found[2]]


def print_rows(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo("  ".join(f"{name}={printable(str(value))}" for name, value in row.items()))
    if not rows:
        click.echo(nothing)


def show_part(progress: ProgressBar[int], part: float) -> None:
    progress.update(round(part * PARTS) - progress.pos)
