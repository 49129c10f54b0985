"""``flask ants-dr``: what an operator does with the inbox."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC
from datetime import datetime
from functools import partial
from threading import Event
from typing import TYPE_CHECKING
from typing import Any

import click
from flask.cli import AppGroup

from ..decoding import decode
from ..errors import CallbackError
from ..errors import InboxUnavailable
from ..escaping import printable
from .group import NUMBER
from .group import PARTS
from .group import ago
from .group import as_json
from .group import cli
from .group import configured
from .group import current
from .group import finite
from .group import print_rows
from .group import seconds
from .group import show_part
from .group import with_inboxes

if TYPE_CHECKING:
    from ..inbox.inbox import BoundInbox

quarantine = AppGroup("quarantine", help="What could not be decoded or validated.")
cli.add_command(quarantine)

older_than = partial(click.option, "--older-than", metavar="AGE")
AGE = "E.g. 30d, 12h, 15m or 60s."


@cli.command("init-db")
@with_inboxes
def init_db(inboxes: list[BoundInbox]) -> None:
    """Create the inbox's tables, or bring those of an older release up to this one.

    For SQLite this happens by itself. With Alembic, add flask_ants_dr.inbox.metadata to your
    target_metadata, too, or for MariaDB and MySQL mysql_metadata.
    """
    for database in {inbox.database.url: inbox.database for inbox in inboxes}.values():
        database.create_tables()
        click.echo(f"The tables are in {database.url.render_as_string(hide_password=True)}.")


@cli.command()
@click.option("--once", is_flag=True, help="Return as soon as nothing is due.")
@click.option(
    "--concurrency", default=1, show_default=True, type=click.IntRange(1, 64), help="Threads."
)
@click.option(
    "--poll",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01),
    callback=finite,
    help="Seconds between looks at an inbox in which nothing is due.",
)
@click.option(
    "--reconcile",
    metavar="AGE",
    help="Also do what 'flask ants-dr reconcile' does, as often as this, e.g. 10m.",
)
@click.option(
    "--metrics-port",
    metavar="PORT",
    type=click.IntRange(1, 65_535),
    help="Also show Prometheus metrics there, at /metrics.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="The address that --metrics-port is of.",
)
@with_inboxes
def work(
    inboxes: list[BoundInbox],
    once: bool,
    concurrency: int,
    poll: float,
    reconcile: str | None,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Dispatch messages to the subscribers, until SIGTERM or SIGINT.

    Any number of these can run, on any number of machines unless the database is SQLite. At the
    signal each finishes the messages that it is dispatching and gives back what it has not begun.
    Exit code 75: a subscriber took longer than the lease and has not returned; start it again.
    """
    from ..inbox import worker

    if once and reconcile:
        raise click.UsageError("Give --once or --reconcile: 'flask ants-dr reconcile' is once.")
    every = ago(reconcile) if reconcile else None
    if every:
        configured(inboxes)
    if metrics_port:
        _show_metrics(metrics_host, metrics_port)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    total = 0

    def count(done: int) -> None:
        nonlocal total
        total += done
        if done:
            _progress(f"{total} messages dispatched")

    for inbox in inboxes:
        url = inbox.database.url.render_as_string(hide_password=True)
        click.echo(f"{inbox.source}: dispatching what is in {url}", err=True)
    is_blocked = worker.work(
        inboxes,
        concurrency=concurrency,
        poll=poll,
        once=once,
        stop=stop,
        reconcile=every,
        done=count,
    )
    _progress(f"{total} messages dispatched", last=True)
    for inbox in inboxes if once else ():
        if later := inbox.status()["pending"]:
            click.echo(f"{inbox.source}: {later} messages wait for later", err=True)
    if is_blocked:
        raise click.exceptions.Exit(worker.BLOCKED)


def _show_metrics(host: str, port: int) -> None:
    try:
        from .. import metrics

        metrics.serve(current(), host=host, port=port)
    except (ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise click.ClickException(f"Nothing can listen at {host}:{port}: {reason}.") from None


@cli.command()
@as_json
@with_inboxes
def status(inboxes: list[BoundInbox], as_json: bool) -> None:
    """Say how it stands with messages, callbacks and workers."""
    found = {inbox.source: inbox.status() for inbox in inboxes}
    if as_json:
        click.echo(json.dumps(found))
        return
    for source, values in found.items():
        click.echo(source)
        retrying, workers = values.pop("retrying"), values.pop("workers")
        for name, value in values.items():
            click.echo(f"  {name.replace('_', ' '):24}{'-' if value is None else value}")
        for one in retrying:
            click.echo(
                f"  {one['count']} wait for {printable(one['failed_by'] or 'another attempt')}, the"
                f" next at {one['next_attempt']}: {printable(one['error'])}"
            )
        for one in workers:
            process = f"{one['kind']} on {printable(one['host'])}, process {one['pid']}"
            click.echo(f"  alive: {process}, since {one['since']}, seen at {one['seen_at']}")


@cli.command()
@click.option("--limit", default=100, show_default=True, type=NUMBER, help="How many.")
@as_json
@with_inboxes
def dead(inboxes: list[BoundInbox], limit: int, as_json: bool) -> None:
    """List the messages that were set aside as dead, the latest first."""
    rows = [
        {
            "id": message.id,
            "source": message.source,
            "attempts": message.attempts,
            "failed_by": message.failed_by,
            "since": message.since.isoformat(timespec="seconds"),
            "error": message.error,
        }
        for inbox in inboxes
        for message in inbox.dead(limit)
    ]
    print_rows(rows, as_json, "no dead messages")


@cli.command()
@click.argument("ids", nargs=-1, type=NUMBER)
@click.option("--all", "all_", is_flag=True, help="All dead messages.")
@with_inboxes
def retry(inboxes: list[BoundInbox], ids: tuple[int, ...], all_: bool) -> None:
    """Make dead messages pending again: those with the given IDS, or all.

    A worker dispatches them; 'flask ants-dr work --once' does so now.
    """
    _check_selection(ids, all_)
    count = sum(inbox.retry(None if all_ else ids) for inbox in inboxes)
    click.echo(f"{count} messages are pending again")
    if ids and count < len(set(ids)):
        raise click.ClickException("The other IDs are not those of dead messages.")


@cli.command()
@click.argument("ids", nargs=-1, type=NUMBER)
@click.option("--all", "all_", is_flag=True, help="All dead messages.")
@with_inboxes
def discard(inboxes: list[BoundInbox], ids: tuple[int, ...], all_: bool) -> None:
    """Be done with dead messages without another attempt: those with the given IDS, or all."""
    _check_selection(ids, all_)
    count = sum(inbox.discard(None if all_ else ids) for inbox in inboxes)
    click.echo(f"{count} messages are done")
    if ids and count < len(set(ids)):
        raise click.ClickException("The other IDs are not those of dead messages.")


@cli.command()
@click.argument("ids", nargs=-1, type=NUMBER)
@click.option("--bulk", metavar="BULK_ID", help="Of this bulk.")
@click.option("--since", metavar="AGE", help=f"Done within this time. {AGE}")
@with_inboxes
def redeliver(
    inboxes: list[BoundInbox], ids: tuple[int, ...], bulk: str | None, since: str | None
) -> None:
    """Make done messages pending again, for all subscribers: with the given IDS, or by option.

    A worker dispatches them; 'flask ants-dr work --once' does so now. Those whose body has been
    erased cannot be dispatched again: their number is given.
    """
    if not ids and bulk is None and since is None:
        raise click.UsageError("Give IDS, --bulk or --since, or several of them.")
    after = None if since is None else datetime.now(UTC) - ago(since)
    found = [inbox.redeliver(ids or None, bulk_id=bulk, since=after) for inbox in inboxes]
    click.echo(f"{sum(one.pending for one in found)} messages are pending again")
    if erased := sum(one.erased for one in found):
        click.echo(f"{erased} messages cannot be: their bodies have been erased")


@cli.command()
@older_than(help=f"{AGE} Without it, what retention says.")
@click.option("--dead", "dead_", is_flag=True, help="Delete dead messages instead of done ones.")
@with_inboxes
def purge(inboxes: list[BoundInbox], older_than: str | None, dead_: bool) -> None:
    """Delete messages that were done before AGE.

    Without AGE, delete and erase what Inbox(keep_days=..., keep_bodies_days=...) says, as workers
    do once an hour. A callback that comes again after its messages were purged is new: choose an
    age after which ANTS repeats nothing.
    """
    if older_than is not None:
        age = seconds(older_than)
        total = sum(inbox.purge(age, dead=dead_) for inbox in inboxes)
        _progress(f"{total} messages purged", last=True)
        return
    if dead_:
        raise click.UsageError("Give --older-than: dead messages are kept until then.")
    found = [inbox.retain() for inbox in inboxes]
    deleted, bodies, entries = (
        sum(getattr(one, name) for one in found) for name in ("deleted", "bodies", "quarantined")
    )
    _progress(
        f"{deleted} messages purged, {bodies} bodies erased, {entries} entries of the quarantine"
        " purged",
        last=True,
    )


@cli.command()
@click.argument("number")
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would be.")
@with_inboxes
def erase(inboxes: list[BoundInbox], number: str, dry_run: bool) -> None:
    """Erase what is stored of a phone NUMBER, in any notation, such as 0812345678.

    In each stored body its messages are emptied: done and dead ones, and what is in quarantine.
    What is still to be dispatched is named, and left: erase again when it is done. A repetition of
    what was erased is still known, by hashes.
    """
    pending = False
    for inbox in inboxes:
        with click.progressbar(length=PARTS, label=inbox.source) as progress:
            show = partial(show_part, progress)
            try:
                erased = inbox.erase(number, dry_run=dry_run, progress=show)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="NUMBER") from None
        verb = "would be erased" if dry_run else "erased"
        click.echo(f"{inbox.source}: {erased.details} messages {verb}")
        if erased.bodies:
            click.echo(f"{inbox.source}: {erased.bodies} bodies that cannot be read {verb}")
        if erased.numbers:
            click.echo(f"{inbox.source}: {erased.numbers} numbers in the ledger {verb}")
        if erased.pending:
            pending = True
            click.echo(
                f"{inbox.source}: left, because they are pending: messages"
                f" {', '.join(map(str, erased.pending))}"
            )
    if pending:
        raise click.exceptions.Exit(1)


@quarantine.command("list")
@as_json
@with_inboxes
def list_(inboxes: list[BoundInbox], as_json: bool) -> None:
    """List what is in quarantine, the oldest first."""
    rows = [
        {
            "id": entry.id,
            "source": entry.source,
            "since": entry.since.isoformat(timespec="seconds"),
            "detail": entry.position,
            "bytes": entry.bytes,
            "content_type": entry.content_type,
            "error": entry.error,
        }
        for inbox in inboxes
        for entry in inbox.quarantined()
    ]
    print_rows(rows, as_json, "nothing in quarantine")


@quarantine.command()
@click.argument("id_", metavar="ID", type=NUMBER)
@click.option("--values", is_flag=True, help="Show the values: phone numbers and texts, too.")
@with_inboxes
def show(inboxes: list[BoundInbox], id_: int, values: bool) -> None:
    """Show one entry of the quarantine, with its values masked."""
    for inbox in inboxes:
        with suppress(LookupError):
            entry, envelope = inbox.show(id_)
            click.echo(json.dumps(entry.error))
            click.echo(f"{printable(entry.content_type)}, {entry.bytes} bytes")
            click.echo(_shown(envelope.body, entry.content_type, entry.position, values))
            return
    raise click.ClickException(f"There is no entry {id_} in quarantine.")


@quarantine.command()
@click.argument("ids", nargs=-1, type=NUMBER)
@click.option("--all", "all_", is_flag=True, help="The whole quarantine.")
@with_inboxes
def replay(inboxes: list[BoundInbox], ids: tuple[int, ...], all_: bool) -> None:
    """Put callbacks through again: those of the entries with the given IDS, or all.

    A callback is put through as a whole. What the schemas in force take is delivered; the rest is
    named, and stays in quarantine. Exit code 1 if anything was refused again.
    """
    _check_selection(ids, all_)
    unknown = set(ids)
    taken = refused = 0
    for inbox in inboxes:
        entries = inbox.quarantined()
        chosen = dict.fromkeys(one.callback_id for one in entries if all_ or one.id in unknown)
        unknown -= {one.id for one in entries}
        again: dict[int, str] = {}
        with click.progressbar(chosen, label=inbox.source) as progress:
            for callback_id in progress:
                try:
                    replayed = inbox.replay(callback_id)
                except InboxUnavailable:
                    raise
                except Exception as error:  # a host's schema can raise anything
                    reason = error.detail if isinstance(error, CallbackError) else ""
                    again[callback_id] = f": {printable(reason or type(error).__name__)}"
                else:
                    taken += replayed.taken
                    if replayed.refused:
                        again[callback_id] = ""
        left = [one for one in inbox.quarantined() if one.callback_id in again]
        refused += len(left)
        for one in left:
            detail = "" if one.position is None else f", detail {one.position}"
            click.echo(f"entry {one.id}{detail} is refused again{again[one.callback_id]}")
    click.echo(f"{taken} messages taken, {refused} entries refused again")
    if unknown:
        missing = ", ".join(map(str, sorted(unknown)))
        raise click.ClickException(f"There is no entry {missing} in quarantine.")
    if refused:
        raise click.exceptions.Exit(1)


@quarantine.command("purge")
@older_than(required=True, help=AGE)
@with_inboxes
def purge_quarantine(inboxes: list[BoundInbox], older_than: str) -> None:
    """Delete what was quarantined before AGE."""
    age = seconds(older_than)
    count = sum(inbox.purge_quarantine(age) for inbox in inboxes)
    click.echo(f"{count} entries purged")


def _progress(text: str, *, last: bool = False) -> None:
    """A line that grows on a terminal; elsewhere only its last state is written."""
    on_terminal = sys.stderr.isatty()
    if on_terminal or last:
        click.echo(("\r" if on_terminal else "") + text, nl=last, err=True)


def _check_selection(ids: Iterable[int], all_: bool) -> None:
    if bool(ids) == all_:
        raise click.UsageError("Give either IDS or --all.")


def _shown(body: bytes, content_type: str, position: int | None, values: bool) -> str:
    """A body for a terminal: its structure, and its values if they are asked for."""
    try:
        payload = decode(body, content_type)
    except CallbackError:
        text = body.decode("utf-8", "backslashreplace")
        shown = text if values else re.sub(r"\w|[^\0-\x7f]", "x", text)
    else:
        details = payload.get("details") if isinstance(payload, dict) else None
        if position is not None and isinstance(details, list) and position < len(details):
            payload = details[position]
        shown = payload if values else _masked(payload)
        shown = json.dumps(shown, indent=2, ensure_ascii=False, default=str)
    return "\n".join(map(printable, shown.split("\n")))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value if value is None else f"<{type(value).__name__}>"
