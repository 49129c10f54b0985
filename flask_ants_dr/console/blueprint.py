"""``Console``: the pages, their addresses, and what stands before them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint
from flask import abort
from flask import request
from flask.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from ..errors import InboxUnavailable
from . import access as access_
from . import figures
from . import health
from . import language
from . import live
from . import message
from . import now
from . import overdue
from . import page
from . import quarantine
from . import redeliver
from . import search
from . import troubles

# The address of each page and action, and its endpoint.
_PAGES: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("/", "search", search.results, "GET"),
    ("/", "find", search.find, "POST"),
    ("/message", "message", message.show, "GET"),
    ("/message", "texts", message.show_texts, "POST"),
    ("/message/retry", "retry_message", message.retry, "POST"),
    ("/message/discard", "discard_message", message.discard, "POST"),
    ("/now", "now", now.show, "GET"),
    ("/needs-you", "troubles", troubles.show, "GET"),
    ("/needs-you/messages", "failed", troubles.show_group, "GET"),
    ("/needs-you/retry", "retry", troubles.retry, "POST"),
    ("/needs-you/discard", "discard", troubles.discard, "POST"),
    ("/quarantine", "quarantine", quarantine.show, "GET"),
    ("/quarantine/entry", "quarantined", quarantine.show_entry, "GET"),
    ("/quarantine/entry", "body", quarantine.show_body, "POST"),
    ("/quarantine/replay", "replay", quarantine.replay, "POST"),
    ("/quarantine/delete", "delete", quarantine.delete, "POST"),
    ("/figures", "figures", figures.show, "GET"),
    ("/redeliver", "redeliver", redeliver.show, "GET"),
    ("/redeliver", "redeliver_now", redeliver.redeliver, "POST"),
    ("/overdue", "overdue", overdue.show, "GET"),
    ("/overdue/reconcile", "reconcile", overdue.reconcile, "POST"),
    ("/events", "events", live.events, "GET"),
    ("/health", "health", health.show, "GET"),
)

# What needs no access, as there is nothing of a message in it.
_OPEN = {"health", "static"}


class Console(Blueprint):
    """The operator's page: ``app.register_blueprint(Console(access=...))``.

    It shows the inboxes of all blueprints of the application.

    :param access: called in each request, without arguments. It answers ``True`` to let in,
        ``False`` to refuse (403), or a response: a redirect to the host's login, say. It may set
        ``flask.g.ants_dr_user``, which the log then names where somebody asks for a text.
        :func:`loopback_only` is for demos.
    :param streams: how many browsers get live events from one process, at most; the others ask
        again every 10 seconds. Each takes a thread of the server's, so keep it well below their
        number. With 0 there are none.
    :param blueprint_options: Flask's own.
    :raises ValueError: ``streams`` is no whole number of 0 or more; or, at registration,
        ``access`` is missing.
    """

    def __init__(
        self,
        name: str = "ants_dr_console",
        *,
        access: Callable[[], object] | None = None,
        streams: int = 2,
        url_prefix: str = "/ants-dr",
        **blueprint_options: Any,
    ) -> None:
        super().__init__(
            name,
            __name__,
            template_folder="templates",
            static_folder="static",
            url_prefix=url_prefix,
            **blueprint_options,
        )
        if type(streams) is not int or streams < 0:
            raise ValueError("streams must be a whole number of 0 or more.")
        self.access = access
        self.streams = live.Streams(streams)
        for rule, endpoint, view, method in _PAGES:
            self.add_url_rule(rule, endpoint, view, methods=[method])
        self.record(_check)
        self.before_request(self._admit)
        self.after_request(access_.protect)
        self.after_request(language.remember)
        self.url_defaults(page.keep_source)
        self.context_processor(page.context)
        self.register_error_handler(InboxUnavailable, page.unavailable)
        for status in (400, 403, 404):
            self.register_error_handler(status, page.refused)

    def _admit(self) -> AnyResponse | None:
        endpoint = (request.endpoint or "").rpartition(".")[2]
        if endpoint in _OPEN:
            return None
        if (answer := access_.answer(self.access)) is not None:
            return answer
        # PostgreSQL has no text with it, and fails on one.
        if any("\0" in value for value in request.values.values()):
            abort(400, "It has a NUL character.")
        return None


def _check(setup: BlueprintSetupState) -> None:
    if setup.blueprint.access is None:  # type: ignore[attr-defined]
        raise ValueError(
            "Console needs access, a function that answers whether a request is let in:"
            " Console(access=lambda: current_user.is_authenticated), or for a demo"
            " Console(access=loopback_only)."
        )
