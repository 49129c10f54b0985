"""The processes that dispatch what waits: each says again and again that it is alive."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import select

from .dialects import upsert
from .tables import workers

SEEN = 10.0
"""Seconds from one sign of life to the next."""

_KEPT = 86_400.0
_HOST_CHARACTERS = 200

#: For how many seconds a process counts as alive after a sign of life. Celery's have one where
#: they have a task, and a sweep comes every 30 seconds.
ALIVE = {"work": 30.0, "celery": 90.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that dispatches what waits."""

    kind: str
    """``"work"`` or ``"celery"``."""
    host: str
    pid: int
    since: datetime
    """When it began, in UTC."""
    seen_at: datetime
    """When it last said that it is alive, in UTC."""


class SignOfLife:
    """That of one process.

    :param kind: of :data:`ALIVE`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._since = time.time()
        self.pid = os.getpid()
        self._worker = uuid4().hex
        self._given: dict[str, float] = {}

    def is_due(self, source: str) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._given.get(source, -SEEN) >= SEEN

    def give(self, connection: Connection, source: str) -> None:
        """Say that it is alive, and forget those that have not for a day."""
        self._given[source] = time.monotonic()
        now = time.time()
        row = {
            "source": source,
            "worker": self._worker,
            "kind": self._kind,
            "host": socket.gethostname()[:_HOST_CHARACTERS],
            "pid": self.pid,
            "since": self._since,
            "seen_at": now,
            "alive_until": now + ALIVE[self._kind],
        }
        upsert(connection, workers, [row], _seen)
        long_gone = (workers.c.source == source, workers.c.seen_at < now - _KEPT)
        connection.execute(delete(workers).where(*long_gone))

    def end(self, connection: Connection, source: str) -> None:
        """Say that it ends."""
        own = (workers.c.source == source, workers.c.worker == self._worker)
        connection.execute(delete(workers).where(*own))


def alive(connection: Connection, source: str) -> list[Worker]:
    """Those that are, the oldest first."""
    found = select(workers).where(workers.c.source == source, workers.c.alive_until > time.time())
    return [
        Worker(
            kind=row.kind,
            host=row.host,
            pid=row.pid,
            since=datetime.fromtimestamp(row.since, UTC),
            seen_at=datetime.fromtimestamp(row.seen_at, UTC),
        )
        for row in connection.execute(found.order_by(workers.c.since, workers.c.worker))
    ]


def _seen(new: Any) -> dict[str, Any]:
    return {"seen_at": new.seen_at, "alive_until": new.alive_until}
