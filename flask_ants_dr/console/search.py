"""Search: "did it arrive?", by number, message, bulk or reference."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from flask import redirect
from flask import request
from flask import url_for
from werkzeug.wrappers import Response as AnyResponse

from ..inbox import BoundInbox
from ..inbox import Entry
from ..inbox import Ledger
from ..inbox.callbacks import CHARACTERS
from ..inbox.phones import international
from ..models import DeliveryState
from . import tables
from .message import ENTRY_COLUMNS
from .message import REPORT_COLUMNS
from .message import duration
from .message import find_entry
from .message import last_digits
from .page import current_inbox
from .page import render

_SHORT_NUMBER = re.compile(r"[\s().+-]*(\d[\s().-]*){1,8}")
"""Fewer digits than a phone number has."""
_IDENTIFIERS = {"message": "message_id", "bulk": "bulk_id", "reference": "reference"}
"""What the address can name a message by, and what the ledger calls it."""

_NOTHING: tables.Page[Any] = tables.Page([], None, is_first=True)

_COLUMNS: tables.Columns = {
    **ENTRY_COLUMNS,
    "done": lambda entry: entry.done_date,
    "took_seconds": duration,
    "reports": lambda entry: entry.reports,
}


def results() -> str | AnyResponse:
    """The messages that the address tells of, those that changed last first."""
    inbox = current_inbox()
    if not inbox.options.ledger:
        return _of_bulk(inbox)
    filters = _filters(inbox.ledger)
    fetch = partial(inbox.ledger.find, **(filters or {}))
    if tables.wants_csv():
        return tables.as_csv(
            "messages", tables.every(fetch) if filters is not None else (), _COLUMNS
        )
    page = tables.page(fetch) if filters is not None else _NOTHING
    return _render(page, is_filtered=filters != {})


def find() -> AnyResponse | str:
    """Find out what has been typed in, and lead to it.

    It is posted, because logs of proxies and histories of browsers keep addresses, and a phone
    number is none of their business. The address that this leads to names a message that went to
    the number instead, and its last four digits; an identifier stands in it as it is.
    """
    inbox = current_inbox()
    text = request.form.get("q", "").strip()[:CHARACTERS]
    if not text:
        return redirect(url_for(".search"), 303)
    number = international(text)
    if found := (_found(inbox.ledger, text, number) if inbox.options.ledger else None):
        return redirect(found, 303)
    if not inbox.options.ledger and inbox.of_bulk(text, limit=1):
        return redirect(url_for(".search", bulk=text), 303)
    return _render(
        _NOTHING,
        is_filtered=True,
        is_short_number=bool(_SHORT_NUMBER.fullmatch(text)),
        nothing_of=None if number else text,
        nothing_to=last_digits(number),
    )


def _found(ledger: Ledger, text: str, number: str | None) -> str | None:
    """The address of what has been typed in."""
    if number and (sent := ledger.find(to=number, limit=2)):
        same: dict[str, Any] = {"with": sent[0].message_id, "end": last_digits(number)}
        return _address_of(sent, same)
    for name, parameter in _IDENTIFIERS.items():
        search: dict[str, Any] = {parameter: text, "limit": 2}
        if found := ledger.find(**search):
            return _address_of(found, {name: text})
    return None


def _address_of(found: list[Entry], filters: dict[str, Any]) -> str:
    if len(found) > 1:
        return url_for(".search", **filters)
    (entry,) = found
    return url_for(".message", id=entry.message_id, end=last_digits(entry.to))


def _filters(ledger: Ledger) -> dict[str, Any] | None:
    """What the address asks of the ledger; ``None`` where that can be nothing."""
    filters: dict[str, Any] = {
        parameter: request.args[name]
        for name, parameter in _IDENTIFIERS.items()
        if request.args.get(name)
    }
    if (state := request.args.get("state")) in list(DeliveryState):
        filters["state"] = DeliveryState(state)
    if same := request.args.get("with"):
        entry = find_entry(ledger, same, request.args.get("end"))
        if entry is None:
            return None
        filters["to"] = entry.to
    return filters


def _of_bulk(inbox: BoundInbox) -> str | AnyResponse:
    """Without a ledger: the stored reports of a bulk."""
    bulk = request.args.get("bulk")
    fetch = partial(inbox.of_bulk, bulk or "")
    if tables.wants_csv():
        return tables.as_csv("reports", tables.every(fetch) if bulk else (), REPORT_COLUMNS)
    return _render(tables.page(fetch) if bulk else _NOTHING, is_filtered=bool(bulk))


def _render(page: tables.Page[Any], **context: Any) -> str:
    return render(
        "search.html",
        page=page,
        states=list(DeliveryState),
        last_digits=last_digits,
        duration=duration,
        **context,
    )
