"""A reconciliation that somebody has begun and does not wait for: how far it is stands in the
database, where every process sees it."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import TYPE_CHECKING
from typing import Any

from ..errors import InboxUnavailable
from ..errors import MessageLogsError
from ..log import RECONCILE
from ..log import about
from . import tasks
from .masking import trace
from .reconcile import Reconciled

if TYPE_CHECKING:
    from .inbox import BoundInbox

_TASK = "reconcile now"

# Seconds: how often it says how far it is, and after what silence its process has died.
_SAYS = 2.0
_SILENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """The last reconciliation that was begun so."""

    started_at: datetime
    """In UTC."""
    part: float
    """How much has been asked for, up to 1."""
    is_running: bool
    result: Reconciled | None = None
    """What was found; ``None`` while it runs, and where it failed."""
    error: str | None = None
    """Why it failed. With neither a result nor an error, its process has died."""


def start(inbox: BoundInbox, since: timedelta | None, overdue: timedelta | None) -> bool:
    """See :meth:`BoundInbox.start_reconcile`."""
    now = time.time()

    def take_turn(connection: Any) -> bool:
        is_first = tasks.take_turn(connection, inbox.source, _TASK, now=now, next_at=now + _SILENCE)
        if is_first:
            _note(connection, inbox, {"started_at": now, "part": 0.0}, now + _SILENCE)
        return is_first

    if not inbox.database.run(take_turn):
        return False
    run = _Run(inbox, now)
    threading.Thread(
        target=run, args=(since, overdue), name="ants-dr-reconcile", daemon=True
    ).start()
    return True


def latest(inbox: BoundInbox) -> Reconciling | None:
    """See :meth:`BoundInbox.reconciling`."""
    with inbox.database.begin(writes=False) as connection:
        state = tasks.state(connection, inbox.source, _TASK)
        is_running = tasks.due_at(connection, inbox.source, _TASK) > time.time()
    if state is None:
        return None
    said = json.loads(state)
    return Reconciling(
        started_at=datetime.fromtimestamp(said["started_at"], UTC),
        part=said["part"],
        is_running=is_running,
        result=Reconciled(**said["result"]) if "result" in said else None,
        error=said.get("error"),
    )


class _Run:
    """Runs one in a thread."""

    def __init__(self, inbox: BoundInbox, started_at: float) -> None:
        self._inbox = inbox
        self._state: dict[str, Any] = {"started_at": started_at, "part": 0.0}
        self._said_at = time.monotonic()

    def __call__(self, since: timedelta | None, overdue: timedelta | None) -> None:
        try:
            with self._inbox.app.app_context():
                found = self._inbox.reconcile(
                    since, overdue=overdue, stop=self._says, progress=self._progress
                )
        except (MessageLogsError, InboxUnavailable) as error:
            self._state["error"] = str(error)
        except Exception as error:
            self._state["error"] = type(error).__name__
            source = self._inbox.source
            RECONCILE.error(
                "%s: a reconciliation failed\n%s", source, trace(error), extra=about(source)
            )
        else:
            self._state |= {"part": 1.0, "result": asdict(found)}
        self._say(until=0.0)

    def _progress(self, part: float) -> None:
        self._state["part"] = part

    def _says(self) -> bool:
        """Asked whether to stop, which it never is: before each request, and while it waits."""
        if time.monotonic() - self._said_at >= _SAYS:
            self._say(until=time.time() + _SILENCE)
        return False

    def _say(self, until: float) -> None:
        self._said_at = time.monotonic()
        try:
            self._inbox.database.run(
                lambda connection: _note(connection, self._inbox, self._state, until)
            )
        except InboxUnavailable as error:
            source = self._inbox.source
            RECONCILE.warning(
                "%s: cannot say how far it is: %s", source, error, extra=about(source)
            )


def _note(connection: Any, inbox: BoundInbox, state: dict[str, Any], until: float) -> None:
    tasks.note_state(connection, inbox.source, _TASK, json.dumps(state), due_at=until)
