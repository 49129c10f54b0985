"""Commands that play ANTS."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from threading import Event
from typing import TYPE_CHECKING
from typing import Any
from urllib.parse import urlsplit

import click

from ..encoding import ENCODINGS
from ..encoding import FORMATS
from ..escaping import printable
from ..registration import callback_path
from ..registration import configured_credentials
from ..registration import find_registration
from .group import as_json
from .group import cli
from .group import current
from .group import finite

if TYPE_CHECKING:
    from ..simulator import Plan
    from ..simulator import Summary

_INTERRUPTED = 130
_LARGEST = 1_000_000_000


def as_whom(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which credentials callbacks are posted with."""
    options = [
        click.option("--username", help="Default: what the application is configured with."),
        click.option("--password", help="Default: what the application is configured with."),
        click.option("--blueprint", help="The blueprint's name, where there are several."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def to_a_server(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the callbacks go, and as whom."""
    url = click.option("--url", help="The callback. Default: this application's, on this machine.")
    timeout = click.option(
        "--timeout",
        default=10.0,
        show_default=True,
        callback=finite,
        help="How long an answer is waited for, in seconds.",
    )
    return url(as_whom(timeout(command)))


def share(context: click.Context, option: click.Parameter, value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / (100 if "%" in value else 1)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise click.BadParameter("give a share from 0 to 1, or a percentage such as 5%.")
    return share


def share_option(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that is a share, such as 5% or 0.05.

    :param text: for the help.
    """
    return click.option(
        name, default="0", show_default=True, callback=share, metavar="SHARE", help=text
    )


def mix(context: click.Context, option: click.Parameter, value: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in value.split(","):
        name, _, weight = part.partition("=")
        try:
            weights[name.strip().upper()] = float(weight) if "=" in part else 1
        except ValueError:
            weights[""] = -1
    if "" in weights or min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
        raise click.BadParameter("give names with weights, such as DELIVERED=90,EXPIRED=10.")
    return weights


@cli.command()
@to_a_server
@click.option(
    "--messages",
    default=100,
    show_default=True,
    type=click.IntRange(1, _LARGEST),
    help="How many messages are reported on.",
)
@click.option(
    "--batch",
    default=10,
    show_default=True,
    type=click.IntRange(1, _LARGEST),
    help="How many of them are in one callback.",
)
@click.option("--format", "format_", default="json", show_default=True, type=click.Choice(FORMATS))
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    type=click.Choice(ENCODINGS),
    help="The last is what .NET programs send: UTF-8 that says it is UTF-16.",
)
@click.option(
    "--status",
    "statuses",
    default="DELIVERED",
    show_default=True,
    callback=mix,
    help="The final statuses and their weights, e.g. DELIVERED=90,EXPIRED=5,REJECTED=5. Names that"
    " ANTS does not have are sent as they are.",
)
@click.option(
    "--follow", is_flag=True, help="Report ACCEPTED, then PENDING, then the final status."
)
@share_option("--duplicates", "The share of the callbacks that come twice, such as 0.05 or 5%.")
@share_option("--malformed", "How many broken callbacks come besides, as a share of the others.")
@share_option(
    "--odd", "The share of the messages that have members as some senders write them wrong."
)
@click.option("--rate", type=float, callback=finite, help="Callbacks a second, at most.")
@click.option(
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Callbacks under way at a time.",
)
@click.option("--seed", type=int, help="Send the same again, with dates of 1 January 2026.")
@as_json
def simulate(
    url: str | None,
    username: str | None,
    password: str | None,
    blueprint: str | None,
    timeout: float,
    format_: Any,
    rate: float | None,
    concurrency: int,
    as_json: bool,
    **plan: Any,
) -> None:
    """Send delivery reports to a running server, as ANTS does.

    Exit code 1 if any answer was not the one that a receiver should give: 200 to what is good, with
    all of its messages counted as accepted, the --odd ones too, and 400, 415 and 422 to the
    --malformed ones. Ctrl-C stops it, with the table so far.
    """
    simulator = _simulator()
    url, auth = _target(url, username, password, blueprint)
    planned: Plan = simulator.Plan(format=format_, **plan)
    stop = Event()

    def interrupt(*_: object) -> None:
        if stop.is_set():  # pressed again: whoever does not wait
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with click.progressbar(
            length=planned.callbacks, label="Callbacks", file=sys.stderr, hidden=as_json
        ) as progress:
            summary: Summary = simulator.run(
                planned,
                url,
                auth,
                concurrency=concurrency,
                rate=rate,
                timeout=timeout,
                stop=stop,
                answered=lambda: progress.update(1),
            )
    except Exception as error:
        raise click.ClickException(f"It failed: {type(error).__name__}.") from None
    finally:
        signal.signal(signal.SIGINT, before)
    _show(summary, as_json)
    if ("no connection", False) in summary.answers:
        click.echo(f"There is no server at {url}: start it, or name it with --url.", err=True)
    elif not summary.as_expected:
        _say_where(url)
    if not summary.as_expected:
        raise SystemExit(1)
    if stop.is_set():
        raise SystemExit(_INTERRUPTED)


@cli.command("send-sample")
@to_a_server
def send_sample(
    url: str | None,
    username: str | None,
    password: str | None,
    blueprint: str | None,
    timeout: float,
) -> None:
    """Post the two example bodies of ANTS's specification to a running server.

    Exit code 1 if one of them is not taken, below what the answer says of why.
    """
    simulator = _simulator()
    url, auth = _target(url, username, password, blueprint)
    taken = True
    for name, content_type in (
        ("report.json", "application/json"),
        ("report.xml", "application/xml"),
    ):
        body = (files("flask_ants_dr") / "samples" / name).read_bytes()
        summary = simulator.send(body, content_type, url, auth, messages=2, timeout=timeout)
        ((answer, expected),) = summary.answers
        click.echo(f"{name}: {answer}, {summary.accepted} accepted, {summary.rejected} rejected")
        if summary.reason:
            click.echo(f"  {printable(summary.reason)}")
        taken = taken and expected
    if not taken:
        _say_where(url)
        raise SystemExit(1)


def _say_where(url: str) -> None:
    click.echo(f"The callback is {url}; a different one is named with --url.", err=True)


def _simulator() -> Any:
    try:
        from .. import simulator
    except ImportError:
        raise click.ClickException(
            "This needs an HTTP client: pip install 'Flask-ANTS-DR[simulator]'."
        ) from None
    return simulator


def _target(
    url: str | None, username: str | None, password: str | None, blueprint: str | None
) -> tuple[str, tuple[str, str]]:
    """Where to, and as whom."""
    app = current()
    if url is not None:
        check_url(url)
    try:
        if url is None:
            url = local_url(callback_path(app, find_registration(app, blueprint)))
        if username is None or password is None:
            username, password = configured_credentials(
                app, find_registration(app, blueprint), username, password
            )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    return url, (username, password)


def check_url(url: str) -> None:
    """:raises click.BadParameter: it is not the URL of a callback, or has credentials in it."""
    with suppress(ValueError):
        parts = urlsplit(url)
        is_web = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        if is_web and parts.username is None and url.isprintable() and " " not in url:
            return
    raise click.BadParameter(
        "give one such as http://127.0.0.1:5000/sms/callback, without credentials in it.",
        param_hint="--url",
    )


def local_url(path: str) -> str:
    """Where ``flask run`` serves a path, unless it is told otherwise."""
    host = os.environ.get("FLASK_RUN_HOST", "127.0.0.1")
    return f"http://{host}:{os.environ.get('FLASK_RUN_PORT', '5000')}{path}"


def _show(summary: Summary, as_json: bool) -> None:
    rates = {
        "callbacks_per_second": round(summary.callbacks / summary.seconds, 1),
        "messages_per_second": round(summary.messages / summary.seconds, 1),
    }
    if as_json:
        document = {
            "answers": [
                {"answer": answer, "expected": expected, "callbacks": number}
                for (answer, expected), number in sorted(summary.answers.items())
            ],
            "callbacks": summary.callbacks,
            "messages": summary.messages,
            "accepted": summary.accepted,
            "rejected": summary.rejected,
            "seconds": round(summary.seconds, 3),
            **rates,
            "latency_ms": {name: round(value, 1) for name, value in summary.latency().items()},
        }
        click.echo(json.dumps(document))
        return
    click.echo(f"{'answer':<26}{'callbacks':>10}")
    for (answer, expected), number in sorted(summary.answers.items()):
        click.echo(f"{answer:<26}{number:>10,}{'' if expected else '  unexpected'}")
    click.echo(
        f"{summary.callbacks:,} callbacks with {summary.messages:,} messages in"
        f" {summary.seconds:.1f} s: {rates['callbacks_per_second']:,.1f} callbacks and"
        f" {rates['messages_per_second']:,.1f} messages a second"
    )
    click.echo(f"The answers count {summary.accepted:,} accepted, {summary.rejected:,} rejected.")
    if latency := summary.latency():
        shown = ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items())
        click.echo(f"Time to answer: {shown}")
