"""Quarantine: what could not be read, its body, and another try."""

from __future__ import annotations

import re
from datetime import UTC
from datetime import datetime
from functools import partial

from flask import abort
from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..errors import InboxUnavailable
from ..escaping import printable
from ..inbox import Quarantined
from ..inbox.tables import LARGEST_ID
from . import ranges
from . import tables
from .access import note_asked
from .page import back
from .page import current_inbox
from .page import form_id
from .page import render

_KINDS = {"callback": True, "message": False}
"""What the address calls whole callbacks, and single messages of one."""

_SHOWN = 100_000  # bytes of a body

_COLUMNS: tables.Columns = {
    "id": lambda entry: entry.id,
    "callback": lambda entry: entry.callback_id,
    "position": lambda entry: entry.position,
    "since": lambda entry: entry.since,
    "content_type": lambda entry: entry.content_type,
    "bytes": lambda entry: entry.bytes,
    "error": lambda entry: "; ".join(reasons(entry)),
}

_LETTER_OR_DIGIT = re.compile(r"\w")


def show() -> str | AnyResponse:
    """What is in it, the newest first."""
    whole, range_ = _KINDS.get(request.args.get("kind", "")), ranges.chosen("")
    since = ranges.begin(range_, datetime.now(UTC)) if range_ else None
    fetch = partial(current_inbox().quarantined, newest=True, whole=whole, since=since)
    if tables.wants_csv():
        return tables.as_csv("quarantine", tables.every(fetch), _COLUMNS)
    return render(
        "quarantine.html",
        page=tables.page(fetch),
        kinds=list(_KINDS),
        range_names=ranges.RANGES,
        reasons=reasons,
    )


def show_entry(*, is_masked: bool = True) -> str:
    """One entry, and the shape of its body: letters and digits are masked."""
    try:
        entry, envelope = current_inbox().show(_id())
    except LookupError:
        abort(404, "It is no longer in quarantine.")
    # As latin-1 where it is no UTF-8: what it really is may be why it is here.
    body = envelope.body[:_SHOWN]
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    text = "\n".join(map(printable, text.splitlines()))
    return render(
        "quarantined.html",
        entry=entry,
        reasons=reasons(entry),
        body=_LETTER_OR_DIGIT.sub("•", text) if is_masked else text,
        is_masked=is_masked,
        is_cut=len(envelope.body) > _SHOWN,
    )


def show_body() -> str:
    """The same with the body as it came, which has texts and numbers."""
    shown = show_entry(is_masked=False)
    note_asked("the body of quarantine entry", current_inbox().source, _id())
    return shown


def replay() -> AnyResponse:
    """Put a callback through again, and lead to the reason where it is refused."""
    inbox, callback_id, id = current_inbox(), form_id("callback"), form_id("id")
    try:
        replayed = inbox.replay(callback_id or 0)
    except InboxUnavailable:
        raise
    except Exception as error:  # a host's schema can raise anything
        return _refused(id, "gone" if isinstance(error, LookupError) else "refused")
    if replayed.refused:
        return _refused(id)
    return back(".quarantine", "replayed", replayed.taken, id=None)


def delete() -> AnyResponse:
    """Delete an entry, with its body where nothing else needs it."""
    id = form_id("id")
    return back(".quarantine", "deleted", current_inbox().drop([id or 0]), id=None)


def reasons(entry: Quarantined) -> list[str]:
    """Why it could not be taken: in words that repeat no value."""
    detail, errors = entry.error.get("detail"), entry.error.get("errors")
    return ([str(detail)] if detail else []) + list(_flat(errors))


def _refused(id: int | None, otherwise: str = "refused") -> AnyResponse:
    """To the entry, which has the reason, or where another one of its callback was refused."""
    try:
        current_inbox().show(id or 0)
    except LookupError:
        return back(".quarantine", otherwise, id=None)
    return back(".quarantined", "refused", id=id)


def _flat(errors: object, path: str = "") -> list[str]:
    """marshmallow's messages with their paths in front."""
    if isinstance(errors, dict):
        return [
            line
            for name, inner in errors.items()
            for line in _flat(inner, f"{path}.{name}" if path else str(name))
        ]
    said = errors if isinstance(errors, list) else [errors] if errors else []
    return [f"{path}: {one}" if path else str(one) for one in said]


def _id() -> int:
    id = request.args.get("id", type=int)
    if id is None or not 0 < id <= LARGEST_ID:
        abort(404, "It is no longer in quarantine.")
    return id
