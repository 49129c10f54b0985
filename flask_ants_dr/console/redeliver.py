"""Redeliver: have done messages dispatched to the subscribers again, by bulk or since a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..inbox.callbacks import CHARACTERS
from ..schemas import BANGKOK
from .page import back
from .page import current_inbox
from .page import render


def show() -> str:
    """The form, and the question whether what it says is meant."""
    chosen = _chosen()
    return render("redeliver.html", chosen=chosen, is_chosen=bool(chosen))


def redeliver() -> AnyResponse | str:
    """Do it, once it has been confirmed."""
    chosen = _chosen()
    if not chosen:
        return render("redeliver.html", chosen={}, is_chosen=False)
    done = current_inbox().redeliver(**chosen)
    if done.erased and not done.pending:
        return back(".redeliver", "erased", done.erased, bulk=None, since=None)
    return back(".redeliver", "redelivered", done.pending, bulk=None, since=None)


def _chosen() -> dict[str, Any]:
    """Which messages the address tells of; empty where it does of none."""
    chosen: dict[str, Any] = {}
    if bulk := request.args.get("bulk", "").strip():
        chosen["bulk_id"] = bulk[:CHARACTERS]
    try:
        # As a browser's field for a time writes it, in Bangkok.
        since = datetime.fromisoformat(request.args.get("since", ""))
    except ValueError:
        return chosen
    if since.tzinfo is None:
        since = since.replace(tzinfo=BANGKOK)
    return chosen | {"since": since}
