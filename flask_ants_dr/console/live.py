"""Server-sent events: says when there is something new, and the page then fetches itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import cast

from flask import Response
from flask import current_app
from flask import request

from ..errors import InboxUnavailable
from ..inbox import BoundInbox
from .page import current_inbox

if TYPE_CHECKING:
    from .blueprint import Console

# Seconds: how often it looks whether something is new, after what time it says so in any case, and
# after what time another browser may have the place.
_POLL = 1.0
_QUIET = 10.0
_LENGTH = 300.0

# Seconds: a browser that goes to another page leaves its place, which is noticed at the next look.
_WAIT = 3.0


class Streams:
    """The streams of one process.

    :param most: how many there are at a time.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most) if most else None

    def open(self, inbox: BoundInbox) -> Iterator[str] | None:
        """What one writes; ``None`` where there are enough."""
        if self._free is None or not self._free.acquire(timeout=_WAIT):
            return None
        return _Stream(inbox, self._free)


def events() -> Response:
    """One for a browser, which its tabs share.

    Where the server has one thread, or enough have a stream, the answer is 204: a browser does not
    ask for events again then, and the page fetches itself every 10 seconds.
    """
    console = cast("Console", current_app.blueprints[request.blueprint or ""])
    stream = console.streams.open(current_inbox()) if request.environ["wsgi.multithread"] else None
    if stream is None:
        return Response(status=204)
    return Response(stream, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})


class _Stream(Iterator[str]):
    """Gives its place back when it is closed, also where nothing of it has been read."""

    def __init__(self, inbox: BoundInbox, place: threading.Semaphore) -> None:
        self._place: threading.Semaphore | None = place
        self._changes = _changes(inbox)

    def __next__(self) -> str:
        return next(self._changes)

    def close(self) -> None:
        place, self._place = self._place, None
        if place:
            place.release()

    __del__ = close  # an answer that nobody gets is not closed


def _changes(inbox: BoundInbox) -> Iterator[str]:
    """An event at the beginning, too: whoever lost the connection may have missed something."""
    seen, end, quiet_since = None, time.monotonic() + _LENGTH, time.monotonic()
    yield "retry: 2000\n\n"
    while time.monotonic() < end:
        try:
            found = inbox.version()
        except InboxUnavailable:
            return
        is_new = found != seen
        if is_new or time.monotonic() - quiet_since > _QUIET:
            seen, quiet_since = found, time.monotonic()
            # Nothing is written when something becomes overdue, or a worker is gone.
            yield "event: change\ndata: new\n\n"
        else:
            yield ":\n\n"  # and notice who is gone
        time.sleep(_POLL)
