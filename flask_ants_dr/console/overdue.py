"""Overdue messages, and asking ANTS's Message Logs for what no callback has brought."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from flask import abort
from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..inbox import reconcile as reconcile_
from . import tables
from .message import ENTRY_COLUMNS
from .message import last_digits
from .page import back
from .page import current_inbox
from .page import render

AFTER = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "48h": timedelta(hours=48),
}

_COLUMNS: tables.Columns = {
    **ENTRY_COLUMNS,
    "reported": lambda entry: entry.reported_at,
}


def show() -> str | AnyResponse:
    """The oldest first, with how far a reconciliation is."""
    inbox, after = current_inbox(), request.args.get("after", "15m")
    after = after if after in AFTER else "15m"
    page = None
    if inbox.options.ledger:
        fetch = partial(inbox.ledger.overdue, AFTER[after])
        if tables.wants_csv():
            return tables.as_csv("overdue", tables.every(fetch), _COLUMNS)
        page = tables.page(fetch)
    return render(
        "overdue.html",
        page=page,
        after=after,
        afters=list(AFTER),
        latest=inbox.reconciling(),
        prefix=inbox.registration.config_prefix,
        last_digits=last_digits,
    )


def reconcile() -> AnyResponse:
    """Begin to ask Message Logs, for all of the time that they go back."""
    inbox = current_inbox()
    if not reconcile_.is_configured(inbox):
        abort(400, "Message Logs are not configured.")
    is_started = inbox.start_reconcile(reconcile_.REACH)
    return back(".overdue", "started" if is_started else "running")
