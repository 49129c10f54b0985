"""``flask ants-dr reconcile``: what ANTS's Message Logs know, and no callback has brought."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from ..errors import MessageLogsError
from .group import PARTS
from .group import ago
from .group import as_json
from .group import cli
from .group import configured
from .group import show_part
from .group import with_inboxes
from .ledger import with_ledger

if TYPE_CHECKING:
    from ..inbox import BoundInbox
    from ..inbox import Reconciled

_ROWS = {
    "asked": "requests to Message Logs",
    "found": "reports in their answers",
    "new": "new",
    "mended": "new, and final: lost callbacks",
    "known": "already there",
    "refused": "refused: in quarantine",
    "recent": "left, because their callback may still come",
}


@cli.command()
@click.option(
    "--since",
    metavar="AGE",
    help="What was sent within this time, e.g. 2h, at most 48h. Default: from where it came last.",
)
@click.option(
    "--overdue",
    metavar="AGE",
    help="Instead, what the ledger has as overdue for so long, e.g. 15m.",
)
@click.option(
    "--grace",
    metavar="AGE",
    default="5m",
    show_default=True,
    help="Leave what was done within this time, because its callback may still come.",
)
@click.option("--dry-run", is_flag=True, help="Hand on nothing, and say what would be.")
@as_json
@with_inboxes
def reconcile(
    inboxes: list[BoundInbox],
    since: str | None,
    overdue: str | None,
    grace: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ask ANTS's Message Logs for what no callback has brought, and hand it on as one would be.

    It goes through schemas, subscribers, ledger and quarantine. What is there with the same
    message, number and status is known. Exit code 1 if Message Logs cannot be asked.
    """
    chosen = configured(inboxes)
    if overdue is not None:
        chosen = with_ledger(chosen)
    found: dict[str, Reconciled] = {}
    failures: list[str] = []
    for inbox in chosen:
        with ExitStack() as stack:
            show = None
            if not as_json:
                bar = click.progressbar(length=PARTS, label=inbox.source)
                show = partial(show_part, stack.enter_context(bar))
            try:
                found[inbox.source] = inbox.reconcile(
                    ago(since) if since else None,
                    overdue=ago(overdue) if overdue else None,
                    grace=ago(grace),
                    dry_run=dry_run,
                    progress=show,
                )
            except MessageLogsError as error:
                failures.append(f"{inbox.source}: {error}")
    if as_json:
        click.echo(json.dumps({source: asdict(one) for source, one in found.items()}))
    else:
        for source, one in found.items():
            click.echo(f"{source}{' (nothing was changed)' if dry_run else ''}")
            for name, text in _ROWS.items():
                click.echo(f"  {text:44}{getattr(one, name):>9,}")
    if failures:
        raise click.ClickException("\n".join(failures))
