"""The command that looks at an application before ANTS does."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..checks import check as check_application
from ..checks import quick as check_quickly
from ..registration import callback_path
from ..registration import registrations
from .group import ago
from .group import as_json
from .group import cli
from .group import current
from .simulate import check_url
from .simulate import local_url

_BODY = '{"details": [{"messageId": "1", "status": {"name": "DELIVERED"}}]}'


@cli.command()
@click.option("--url", help="The callback's external URL, where the application does not know it.")
@click.option(
    "--silent-after",
    metavar="AGE",
    help="Fail where no callback was taken for so long, e.g. 2h.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Only whether the inbox's database answers: for the health checks of an orchestrator.",
)
@as_json
def check(url: str | None, silent_after: str | None, quick: bool, as_json: bool) -> None:
    """Say what the application would do with delivery reports in production.

    Exit code 1 if it would lose some.
    """
    app = current()
    if url is not None:
        check_url(url)
    findings = (
        check_quickly(app)
        if quick
        else check_application(app, url, silent_after=ago(silent_after) if silent_after else None)
    )
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        blueprint = None
        for finding in findings:
            if finding.blueprint != blueprint:
                blueprint = finding.blueprint
                click.echo(blueprint)
            click.echo(f"  {finding.level:8} {finding.subject:18} {finding.text}")
        for registration in () if quick else registrations(app).values():
            try:
                target = url or local_url(callback_path(app, registration))
            except ValueError:
                continue
            prefix = f"FLASK_{registration.config_prefix}"
            click.echo(
                f'\nTry {registration.name} while it runs:\n  curl -u "${prefix}_USERNAME:'
                f'${prefix}_PASSWORD" -H "Content-Type: application/json"'
                f" -d '{_BODY}' {target}"
            )
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the callbacks, as JSON."""
    try:
        from ..openapi import openapi_document
    except ImportError:
        raise click.ClickException(
            "This needs apispec: pip install 'Flask-ANTS-DR[openapi]'."
        ) from None
    click.echo(json.dumps(openapi_document(current()), indent=2))
