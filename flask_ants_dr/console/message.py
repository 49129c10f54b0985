"""One message: what was reported of it, who has had it here, and what failed."""

from __future__ import annotations

from collections.abc import Callable

from flask import abort
from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..inbox import BoundInbox
from ..inbox import Entry
from ..inbox import Ledger
from ..inbox import Report
from ..inbox import State
from . import tables
from .access import note_asked
from .page import back
from .page import current_inbox
from .page import form_id
from .page import render

FAILED = (State.DEAD, State.WAITING)
"""Where a report stands that somebody can have tried again, or be done with."""

_DIGITS = 4
_ENTRIES = 1000
"""Of one identifier: a sender may give the same one to all messages of a bulk."""

ENTRY_COLUMNS: tables.Columns = {
    "state": lambda entry: entry.state or "",
    "message": lambda entry: entry.message_id,
    "to": lambda entry: entry.to and f"***{last_digits(entry.to)}",
    "sender": lambda entry: entry.sender,
    "bulk": lambda entry: entry.bulk_id,
    "reference": lambda entry: entry.reference,
    "sent": lambda entry: entry.send_date or entry.expected_at,
}
"""What a CSV has of a message as the ledger has it."""

REPORT_COLUMNS: tables.Columns = {
    "id": lambda report: report.id,
    "message": lambda report: report.message and report.message.message_id,
    "to": lambda report: (
        report.message and report.message.to and f"***{last_digits(report.message.to)}"
    ),
    "bulk": lambda report: report.bulk_id,
    "received": lambda report: report.received_at,
    "attempts": lambda report: report.attempts,
    "given_up": lambda report: report.finished_at,
    "next_attempt": lambda report: report.due_at,
    "error": lambda report: report.failures[-1].error if report.failures else "",
}
"""What a CSV has of a report."""


def show(*, has_texts: bool = False) -> str:
    """By its identifier and the last four digits of its number, as no number belongs in a URL."""
    inbox = current_inbox()
    id, end = request.args.get("id", ""), request.args.get("end") or None
    entry = None
    if inbox.options.ledger:
        entry = find_entry(inbox.ledger, id, end)
        reports = inbox.history(id, entry.to) if entry else []
    else:
        reports = _of_bulk(inbox, id, end)
    if entry is None and not reports:
        abort(404, "Nothing is known of this message any more, or never was.")
    return render(
        "message.html",
        id=id,
        end=end,
        entry=entry,
        took=entry and duration(entry),
        reports=reports,
        has_texts=has_texts,
    )


def show_texts() -> str:
    """The same with the texts, which may be one-time passwords."""
    shown = show(has_texts=True)
    note_asked("the texts of message", current_inbox().source, request.args.get("id", ""))
    return shown


def retry() -> AnyResponse:
    """Have one report of it tried again."""
    return _act(current_inbox().retry, "retried")


def discard() -> AnyResponse:
    """Be done with one report of it that failed."""
    return _act(current_inbox().discard, "discarded")


def find_entry(ledger: Ledger, message_id: str, end: str | None) -> Entry | None:
    """A message by its identifier and the last digits of its number."""
    found = ledger.find(message_id=message_id, limit=_ENTRIES)
    return next((entry for entry in found if last_digits(entry.to) == (end or None)), None)


def last_digits(number: str | None) -> str | None:
    """What is shown of a phone number."""
    return number[-_DIGITS:] if number else None


def duration(entry: Entry) -> float | None:
    """The seconds from send to done."""
    if entry.send_date is None or entry.done_date is None or not entry.is_final:
        return None
    return (entry.done_date - entry.send_date).total_seconds()


def _act(action: Callable[..., int], notice: str) -> AnyResponse:
    report, state = form_id("report"), request.form.get("state")
    if report is None or state not in FAILED:
        abort(400, "It is not said which report.")
    done = action([report], state=State(state))
    return back(".message", notice, done, of=request.args.get("id"))


def _of_bulk(inbox: BoundInbox, id: str, end: str | None) -> list[Report]:
    """Without a ledger, a message is found by its bulk, which has its number."""
    bulk = request.args.get("bulk", "")
    found = (report.message for report in inbox.of_bulk(bulk, limit=_ENTRIES))
    same = (one for one in found if one and one.message_id == id and last_digits(one.to) == end)
    message = next(same, None)
    return inbox.history(id, message.to) if message else []
