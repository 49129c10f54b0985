"""The page: what became of every message, while it happens.

It has no login, so it answers on this machine only. The callback does not depend on it: that one
has credentials of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import cast
from urllib.parse import urlsplit

from flask import Blueprint
from flask import Response
from flask import abort
from flask import current_app
from flask import flash
from flask import redirect
from flask import render_template
from flask import request
from flask import stream_with_context
from flask import url_for
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as AnyResponse

from flask_ants_dr import CallbackError
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr.errors import InboxUnavailable
from flask_ants_dr.schemas import BANGKOK

from . import charts
from . import figures
from . import records
from . import simulation

page = Blueprint("page", __name__)

_LISTED = 10
"""How many dead messages are listed, and how many entries of the quarantine."""

_SHOWN = 500
"""How many messages are listed, at most."""

_LOOK = 0.3
_QUIET = 10.0
"""Seconds: how often the stream looks for something new, and after what time it says so anyway."""

_HERE = {"127.0.0.1", "::1", "localhost"}

_POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@page.before_request
def only_here() -> None:
    """Answer nobody but this machine's own browser, and no form of another site."""
    # The Host, too: a proxy that is asked from elsewhere is on this machine, and a name that an
    # attacker points at 127.0.0.1 leads here.
    if {request.remote_addr, urlsplit(request.host_url).hostname} - _HERE:
        raise Forbidden(
            "This page has no login, so it answers on its own machine only, under"
            " http://127.0.0.1. The callback answers everywhere."
        )
    if request.method == "POST" and request.origin not in {None, request.host_url.rstrip("/")}:
        raise Forbidden("This form was sent by another site.")


@page.after_request
def protect(response: Response) -> Response:
    response.headers.update(_POLICY)
    return response


@page.get("/")
def index() -> str:
    now = time.time()
    range_ = request.args.get("range", "5m")
    if range_ not in figures.RANGES:
        range_ = "5m"
    filters = {
        name: request.args[name] for name in ("state", "message", "bulk") if request.args.get(name)
    }
    if filters.get("state") not in list(DeliveryState):
        filters.pop("state", None)
    show = min(max(request.args.get("show", figures.PAGE, type=int), figures.PAGE), _SHOWN)
    # Before the numbers: whoever reads that it is over finds all of it in them.
    is_simulating, simulated = simulation.is_running(), simulation.latest()
    inbox = _blueprint().inbox
    found = figures.figures(
        inbox.ledger,
        now,
        range_=range_,
        state=DeliveryState(filters["state"]) if "state" in filters else None,
        message_id=filters.get("message"),
        bulk_id=filters.get("bulk"),
        show=show,
    )
    return render_template(
        "index.html",
        figures=found,
        groups=figures.GROUPS,
        group_of=figures.GROUP_OF,
        states=list(DeliveryState),
        ranges=list(figures.RANGES),
        range_=range_,
        filters=filters,
        show=show,
        shown=_SHOWN,
        page_size=figures.PAGE,
        listed=_LISTED,
        over_time=_over_time(found, range_),
        histogram=_histogram(found),
        inbox=inbox.status(),
        dead=inbox.dead(_LISTED),
        quarantined=inbox.quarantined(_LISTED),
        overdue=[
            figures.Message(one) for one in inbox.ledger.overdue(figures.OVERDUE, limit=_LISTED)
        ],
        overdue_after=round(figures.OVERDUE.total_seconds()),
        outage=records.setting("outage"),
        sizes=simulation.SIZES,
        shares=simulation.SHARES,
        is_simulating=is_simulating,
        simulated=simulated,
    )


@page.get("/message")
def message() -> str:
    """By its identifier and the last four digits of its number, as no number belongs in a URL."""
    said = request.args.get("id", ""), request.args.get("end", "")
    found = figures.message(_blueprint().inbox.ledger, *said)
    if found is None:
        abort(404)
    return render_template(
        "message.html",
        message=found,
        group_of=figures.GROUP_OF,
        back=_from_index() or url_for("page.index"),
    )


@page.get("/events")
def events() -> Response:
    """Says when there is something new; the page then fetches itself.

    It says so at the beginning, too: whoever lost the connection may have missed something.
    """
    return Response(
        stream_with_context(_changes()),
        mimetype="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


def _changes() -> Iterator[str]:
    with records.watch() as version:
        seen, quiet_since = None, time.monotonic()
        yield "retry: 1000\n\n"
        while True:
            if (found := version()) != seen:
                seen, quiet_since = found, time.monotonic()
                yield "event: change\ndata: look\n\n"
            elif time.monotonic() - quiet_since > _QUIET:
                quiet_since = time.monotonic()
                # Nothing is written when something becomes overdue.
                yield "event: change\ndata: look\n\n"  # and notice who is not there
            time.sleep(_LOOK)


@page.post("/simulate")
def simulate() -> AnyResponse:
    messages = request.form.get("messages", type=int)
    if messages not in simulation.SIZES:
        abort(400)
    lose = request.form.get("lose", type=int)
    if lose not in {None, *simulation.SHARES}:
        abort(400)
    wanted = simulation.Wanted(messages, lose, "broken" in request.form, "odd" in request.form)
    if not simulation.start(_blueprint(), wanted):
        flash("already")
    return _back()


@page.post("/outage")
def outage() -> AnyResponse:
    records.set_setting("outage", "yes" if "down" in request.form else "")
    return _back()


@page.post("/dead/retry")
def retry() -> AnyResponse:
    id = _id()
    flash("retried" if _blueprint().inbox.retry(None if id is None else [id]) else "gone")
    return _back()


@page.post("/quarantine/replay")
def replay() -> AnyResponse:
    inbox = _blueprint().inbox
    id = _id()
    ids = {entry.callback_id for entry in inbox.quarantined()} if id is None else {id}
    outcomes = set()
    for callback_id in ids:
        try:
            outcomes.add("refused" if inbox.replay(callback_id).refused else "replayed")
        except InboxUnavailable:
            raise
        except CallbackError:
            outcomes.add("refused")
        except LookupError:
            outcomes.add("gone")
    for outcome in sorted(outcomes):
        flash(outcome)
    return _back()


@page.errorhandler(InboxUnavailable)
def unavailable(error: InboxUnavailable) -> tuple[str, int]:
    return "The database does not answer at the moment.", 503


def _id() -> int | None:
    """What a form is about; ``None`` for all of them."""
    if "id" not in request.form:
        return None
    id = request.form.get("id", type=int)
    if id is None or not 0 < id < 2**63:
        abort(400)
    return id


def _blueprint() -> DeliveryReportBlueprint:
    return cast("DeliveryReportBlueprint", current_app.blueprints["ants_dr"])


def _back() -> AnyResponse:
    """To where the form was, with its filters."""
    return redirect(_from_index() or url_for("page.index"), 303)


def _from_index() -> str | None:
    """The list that this request came from, if it did, with its filters and its place."""
    came_from = request.referrer or ""
    here = urlsplit(came_from)
    is_index = came_from.startswith(request.host_url) and here.path == url_for("page.index")
    return came_from if is_index else None


def _over_time(found: figures.Figures, range_: str) -> dict[str, object]:
    width, bars = figures.RANGES[range_]
    starts = [datetime.fromtimestamp(found.start + bar * width, BANGKOK) for bar in range(bars)]
    labels = [start.strftime("%H:%M:%S" if width < 60 else "%H:%M") for start in starts]
    series = found.over_time
    return {
        "chart": charts.stacked_bars(labels, list(series.values()), every=6),
        "rows": list(zip(labels, zip(*series.values(), strict=True), strict=True)),
    }


def _histogram(found: figures.Figures) -> dict[str, object]:
    labels = [f"<{_short(edge)}" for edge in figures.EDGES]
    labels.append(f"≥{_short(figures.EDGES[-1])}")
    return {
        "chart": charts.stacked_bars(labels, [found.histogram]),
        "rows": list(zip(labels, found.histogram, strict=True)),
    }


def _short(seconds: int) -> str:
    """With the symbols of the units, which are the same in both languages."""
    for unit, symbol in ((3600, "h"), (60, "m")):
        if seconds % unit == 0:
            return f"{seconds // unit}{symbol}"
    return f"{seconds}s"
