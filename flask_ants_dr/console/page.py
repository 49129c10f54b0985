"""What all pages share: whose inbox they show, their frame, and where they lead."""

from __future__ import annotations

from typing import Any

from flask import abort
from flask import current_app
from flask import g
from flask import redirect
from flask import render_template
from flask import request
from flask import url_for
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from ..errors import InboxUnavailable
from ..inbox import BoundInbox
from ..inbox import bound_inboxes
from ..inbox import reconcile
from ..inbox.tables import LARGEST_ID
from . import language

# What an address has that is of the moment, and a name that url_for() has for itself.
_PASSING = {"cursor", "format", "notice", "count", "of", "language", "endpoint"}


def inboxes() -> list[BoundInbox]:
    """Those of the application, in the order of their registration."""
    return bound_inboxes(current_app)


def current_inbox() -> BoundInbox:
    """The one that the address names, or the first.

    :raises NotFound: there is none.
    """
    known = {inbox.source: inbox for inbox in inboxes()}
    if not known:
        raise NotFound(
            "No blueprint of this application has an inbox: make one with"
            " DeliveryReportBlueprint(inbox=Inbox())."
        )
    found = known.get(request.args.get("source") or next(iter(known)))
    if found is None:
        raise NotFound("There is no blueprint of that name.")
    return found


def status() -> dict[str, Any]:
    """That of the inbox, read once for a request."""
    if "ants_dr_console_status" not in g:
        g.ants_dr_console_status = current_inbox().status()
    found: dict[str, Any] = g.ants_dr_console_status
    return found


def render(template: str, **context: Any) -> str:
    return render_template(f"ants_dr_console/{template}", **context)


def here(**changes: Any) -> str:
    """The address of this page with changes: ``None`` leaves a part of it out.

    A page of a list, a notice and the like are of the moment, and stay behind.
    """
    return url_for(request.endpoint or ".search", **(_filters() | changes))


def back(endpoint: str, notice: str, count: int | None = None, **changes: Any) -> AnyResponse:
    """To a page, with the filters that the form's address had, to say what has been done."""
    address = url_for(endpoint, **(_filters() | changes), notice=notice, count=count)
    return redirect(address, 303)


def form_id(name: str) -> int | None:
    """An id that a form has sent; ``None`` where it has none.

    :raises BadRequest: it is no id.
    """
    if name not in request.form:
        return None
    id = request.form.get(name, type=int)
    if id is None or not 0 < id <= LARGEST_ID:
        abort(400, "The form has an id that is none.")
    return id


def keep_source(endpoint: str, values: dict[str, Any]) -> None:
    """Have the links of a page lead to the same inbox."""
    if request and "source" in request.args and not endpoint.endswith(".static"):
        values.setdefault("source", request.args["source"])


def context() -> dict[str, Any]:
    """What each template can use."""
    return language.context() | {"here": here, "nav": _navigation}


def refused(error: HTTPException) -> tuple[str, int]:
    return render("error.html", error=error, status=error.code), error.code or 500


def unavailable(error: InboxUnavailable) -> tuple[str, int, dict[str, str]]:
    return render("error.html", error=None, status=503), 503, {"Retry-After": "10"}


def _filters() -> dict[str, Any]:
    """What the address says of what the page shows."""
    # Some names mean something to url_for(): with _scheme a link could lead anywhere.
    return {
        name: value
        for name, value in request.args.items()
        if name not in _PASSING and not name.startswith("_")
    }


def _navigation() -> dict[str, Any]:
    """What leads from page to page, with what waits there."""
    inbox, found = current_inbox(), status()
    return {
        "sources": [one.source for one in inboxes()],
        "source": inbox.source,
        "has_ledger": inbox.options.ledger,
        "needs_you": found["dead"] + sum(one["count"] for one in found["retrying"]),
        "dead": found["dead"],
        "quarantined": found["quarantined"],
        "overdue": found["overdue"],
        "can_reconcile": reconcile.is_configured(inbox),
    }
