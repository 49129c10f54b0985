"""What needs somebody: messages that a subscriber fails on, by subscriber and kind of error."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from flask import abort
from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..inbox import State
from ..inbox.delivery import RESTS
from . import tables
from .message import FAILED
from .message import REPORT_COLUMNS
from .message import last_digits
from .page import back
from .page import current_inbox
from .page import form_id
from .page import render

# Fewer than elsewhere: each may be of another callback, the whole of which has to be read.
_ROWS = 25

_COLUMNS: tables.Columns = {
    "state": lambda trouble: trouble.state,
    "subscriber": lambda trouble: trouble.failed_by,
    "error": lambda trouble: trouble.error,
    "messages": lambda trouble: trouble.count,
    "first": lambda trouble: trouble.since,
    "last": lambda trouble: trouble.latest,
    "next_attempt": lambda trouble: trouble.next_attempt,
}


def show() -> str | AnyResponse:
    """The groups, the largest first."""
    state = request.args.get("state")
    found = current_inbox().troubles(state=State(state) if state in FAILED else None)
    if tables.wants_csv():
        return tables.as_csv("needs-you", found, _COLUMNS)
    return render("troubles.html", troubles=found, states=FAILED, rests=timedelta(seconds=RESTS))


def show_group() -> str | AnyResponse:
    """The messages of one group."""
    inbox, group = current_inbox(), _group(request.args)
    fetch = partial(inbox.failed, **group)
    if tables.wants_csv():
        return tables.as_csv("failed", tables.every(fetch), REPORT_COLUMNS)
    return render(
        "failed.html",
        page=tables.page(fetch, _ROWS),
        group=group,
        trouble=next(iter(inbox.troubles(**group)), None),
        last_digits=last_digits,
    )


def retry() -> AnyResponse:
    """Have one message, or all of a group, tried again."""
    return _act("retried")


def discard() -> AnyResponse:
    """Be done with one message, or all of a group."""
    return _act("discarded")


def _act(notice: str) -> AnyResponse:
    inbox, group, id = current_inbox(), _group(request.form), form_id("id")
    action = inbox.retry if notice == "retried" else inbox.discard
    count = action(None if id is None else [id], **group)
    of = request.form.get("message") if id is not None else None
    # A group that is gone is no page to come back to.
    if id is not None and inbox.failed(limit=1, **group):
        return back(".failed", notice, count, of=of, **group)
    return back(".troubles", notice, count, of=of)


def _group(said: Any) -> dict[str, Any]:
    """What a group has in common, as the address or a form has it."""
    state = said.get("state")
    if state not in FAILED or "failed_by" not in said or "error_key" not in said:
        abort(400, "It is not said which messages.")
    return {
        "state": State(state),
        "failed_by": said["failed_by"],
        "error_key": said["error_key"],
    }
