"""The group of commands, and what they have in common."""

from __future__ import annotations

import click
from flask import Flask
from flask import current_app
from flask.cli import AppGroup

cli = AppGroup("ants-dr", help="Delivery reports of ANTS: try, check and look after them.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")

#: An identifier, or how many: not more than a database takes for a number.
NUMBER = click.IntRange(1, 2**63 - 1)

_LONGEST = 1_000_000


def finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Seconds, or how many a second: no NaN, and nothing that a clock cannot count."""
    if value is not None and not 0 < value <= _LONGEST:
        raise click.BadParameter(f"give a number above 0 and up to {_LONGEST:,}.")
    return value


def current() -> Flask:
    """The application itself."""
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]
