"""For orchestrators and load balancers: whether the database answers."""

from __future__ import annotations

from ..errors import InboxUnavailable
from .page import inboxes


def show() -> tuple[dict[str, str], int]:
    try:
        for inbox in inboxes():
            inbox.ping()
    except InboxUnavailable:
        return {"status": "unavailable"}, 503
    return {"status": "ok"}, 200
