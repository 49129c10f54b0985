"""The group of commands, and what they have in common."""

from __future__ import annotations

import click
from flask import Flask
from flask import current_app
from flask.cli import AppGroup

cli = AppGroup("ants-dr", help="Delivery reports of ANTS: try, check and look after them.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


def current() -> Flask:
    """The application itself."""
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]
