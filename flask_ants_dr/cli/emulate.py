"""The command that is a local ANTS."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from threading import Event
from threading import Thread
from typing import Any

import click
from werkzeug.serving import BaseWSGIServer
from werkzeug.serving import WSGIRequestHandler
from werkzeug.serving import make_server

from ..encoding import ENCODINGS
from ..loopback import is_loopback
from ..registration import configured_credentials
from ..registration import find_registration
from .group import cli
from .group import current
from .simulate import as_whom
from .simulate import mix
from .simulate import share_option

_POLLED = 0.1  # seconds


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Not at all: the query of Message Logs has phone numbers."""


Command = Callable[..., None]


def shares(**helps: str) -> Callable[[Command], Command]:
    """Options that are shares, by their names."""

    def add(command: Command) -> Command:
        for name, these in reversed(helps.items()):
            text = f"The share of the {these}, such as 0.05 or 5%."
            command = share_option(f"--{name}", text)(command)
        return command

    return add


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option(
    "--port",
    default=8900,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Where it listens; 0 is any that is free.",
)
@as_whom
@click.option(
    "--status",
    "statuses",
    default="DELIVERED",
    show_default=True,
    callback=mix,
    help="The final statuses and their weights, e.g. DELIVERED=90,EXPIRED=5,REJECTED=5.",
)
@click.option(
    "--follow/--only-final",
    default=True,
    show_default=True,
    help="Report ACCEPTED, then PENDING, then the final status; or that alone.",
)
@click.option(
    "--delay",
    default=1.0,
    show_default=True,
    type=float,
    help="About how many seconds pass from each status to the next.",
)
@shares(
    lose="callbacks that are never posted",
    repeat="callbacks that are posted twice",
    shuffle="callbacks that are posted after the one that follows them",
    malformed="callbacks before which a broken one is posted",
    odd="messages that have members as some senders write them wrong",
)
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    type=click.Choice(ENCODINGS),
    help="Of the callbacks. The last is what .NET programs send: UTF-8 that says it is UTF-16.",
)
@click.option(
    "--rate-limit",
    type=int,
    help="How often Message Logs answer in any 60 seconds before they say 429. Default: always.",
)
@click.option(
    "--any-notify-url", is_flag=True, help="Post callbacks to other machines than this, too."
)
@click.option(
    "--seed", type=int, help="Identifiers, statuses, delays and faults are the same again."
)
def emulate(
    host: str,
    port: int,
    username: str | None,
    password: str | None,
    blueprint: str | None,
    **behaviour: Any,
) -> None:
    """Be ANTS on this machine: take messages, report on them, answer for Message Logs.

    Send to POST /sms/send, ask GET /sms/loginfo. No message leaves this machine, and what was sent
    is kept in memory until Ctrl-C.
    """
    try:
        from .. import emulator
    except ImportError:
        raise click.ClickException(
            "This needs an HTTP client: pip install 'Flask-ANTS-DR[simulator]'."
        ) from None
    app = current()
    given = password is not None
    try:
        if username is None or password is None:
            registration = find_registration(app, blueprint)
            username, password = configured_credentials(app, registration, username, password)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    try:
        ants = emulator.create_app(
            username=username, password=password, tell=click.echo, **behaviour
        )
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    with closing(ants.extensions["ants_emulator"]):
        server = make_server(host, port, ants, threaded=True, request_handler=_QuietHandler)
        shown = f"[{host}]" if ":" in host else host
        who = "Only this machine" if is_loopback(host) else "Whoever reaches that address"
        whose = "of --password" if given else "that the application is configured with"
        click.echo(
            f"A local ANTS at http://{shown}:{server.port}: POST /sms/send, GET /sms/loginfo\n"
            f"Present the user name {username} and the password {whose}, as HTTP Basic; its"
            f" callbacks do, too.\n{who} reaches it. It keeps the latest"
            f" {emulator.LATEST_TRANSACTIONS:,} messages in memory. Ctrl-C ends it."
        )
        _serve(server)


def _serve(server: BaseWSGIServer) -> None:
    """Until Ctrl-C, which is no error."""
    # Not as a KeyboardInterrupt, which would come anywhere, and can leave a lock that nobody opens.
    stop = Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        serving = Thread(target=server.serve_forever, args=[_POLLED], daemon=True)
        serving.start()
        while serving.is_alive() and not stop.is_set():
            serving.join(_POLLED)
        server.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)
        server.server_close()
