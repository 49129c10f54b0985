"""``flask ants-dr find`` and ``overdue``: what became of a message."""

from __future__ import annotations

from datetime import UTC
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any

import click

from ..models import DeliveryState
from .group import NUMBER
from .group import ago
from .group import as_json
from .group import cli
from .group import print_rows
from .group import with_inboxes

if TYPE_CHECKING:
    from ..inbox import BoundInbox
    from ..inbox import Entry

_values = click.option("--values", is_flag=True, help="Show phone numbers as they are.")
_limit = click.option("--limit", default=100, show_default=True, type=NUMBER, help="How many.")


@cli.command()
@click.option("--to", help="The phone number, in any notation.")
@click.option("--message", "message_id", help="The message's id.")
@click.option("--bulk", "bulk_id", help="The bulk's id.")
@click.option("--reference", help="What the application calls it.")
@click.option(
    "--state",
    type=click.Choice([one.value for one in DeliveryState], case_sensitive=False),
    help="What became of it.",
)
@click.option("--since", metavar="AGE", help="Changed since, e.g. 2h or 30d.")
@_limit
@_values
@as_json
@with_inboxes
def find(
    inboxes: list[BoundInbox],
    state: str | None,
    since: str | None,
    limit: int,
    values: bool,
    as_json: bool,
    **said: str | None,
) -> None:
    """Find what became of messages: those that all of this is true of, the latest first.

    The inbox has to keep a ledger: Inbox(ledger=True).
    """
    after = datetime.now(UTC) - ago(since) if since else None
    rows = [
        _row(inbox.source, entry, values)
        for inbox in with_ledger(inboxes)
        for entry in inbox.ledger.find(
            **said, state=DeliveryState(state) if state else None, since=after, limit=limit
        )
    ]
    print_rows(rows, as_json, "no such message")


@cli.command()
@click.option(
    "--after", metavar="AGE", default="15m", show_default=True, help="E.g. 90s, 15m or 2h."
)
@_limit
@_values
@as_json
@with_inboxes
def overdue(inboxes: list[BoundInbox], after: str, limit: int, values: bool, as_json: bool) -> None:
    """List messages that were sent, or reported, so long ago, and have no final state."""
    age = ago(after)
    rows = [
        _row(inbox.source, entry, values)
        for inbox in with_ledger(inboxes)
        for entry in inbox.ledger.overdue(age, limit=limit)
    ]
    print_rows(rows, as_json, "nothing is overdue")


def with_ledger(inboxes: list[BoundInbox]) -> list[BoundInbox]:
    found = [inbox for inbox in inboxes if inbox.options.ledger]
    if not found:
        raise click.ClickException("No inbox keeps a ledger: make it with Inbox(ledger=True).")
    return found


def _row(source: str, entry: Entry, values: bool) -> dict[str, Any]:
    """What is printed of a message."""
    to = entry.to if values or entry.to is None else f"***{entry.to[-4:]}"
    times = {
        name: moment and moment.isoformat(timespec="seconds")
        for name, moment in (
            ("expected_at", entry.expected_at),
            ("reported_at", entry.reported_at),
            ("done_date", entry.done_date),
        )
    }
    return {
        "source": source,
        "message": entry.message_id,
        "to": to,
        "state": entry.state and entry.state.value,
        "description": entry.status and entry.status.description,
        "bulk": entry.bulk_id,
        "reference": entry.reference,
        **times,
        "reports": entry.reports,
    }
