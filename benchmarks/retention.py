"""Callbacks that come in while 10,000 others are erased and deleted by a process of its own.

Each callback is timed alone, and then while half of the others lose their bodies and the other half
goes altogether.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import quantiles
from typing import TypedDict

from sqlalchemy import insert

from flask_ants_dr.inbox import tables
from flask_ants_dr.inbox.inbox import BoundInbox

from .bodies import body
from .in_process import post_to
from .inbox import MESSAGES
from .inbox import envelope
from .inbox import inbox_at

CALLBACKS = 10_000
MESSAGES_OF_EACH = 10
ALONE = 400

_DAY = 86_400
_SWEEP = """
import sys
from benchmarks.inbox import inbox_at
with inbox_at(sys.argv[1]) as inbox:
    print(inbox.retain())
"""


class Times(TypedDict):
    """Of callbacks, in milliseconds."""

    count: int
    median: float
    most: float
    """What 19 of 20 take."""
    longest: float


class Measured(TypedDict):
    alone: Times
    meanwhile: Times
    seconds: float
    """How long the others took to go."""


def measure(url: str) -> Measured:
    with inbox_at(url) as inbox:
        fill(inbox)
        numbers = iter(range(1_000_000))
        for _ in range(20):
            post(inbox, next(numbers))
        alone = [post(inbox, next(numbers)) for _ in range(ALONE)]
        started = time.perf_counter()
        sweep = subprocess.Popen([sys.executable, "-c", _SWEEP, url], stdout=subprocess.PIPE)
        meanwhile = []
        while sweep.poll() is None:
            meanwhile.append(post(inbox, next(numbers)))
        seconds = time.perf_counter() - started
        said = sweep.communicate()[0].decode()
    half = CALLBACKS // 2
    assert f"deleted={half * MESSAGES_OF_EACH}, bodies={half}," in said, said
    return {"alone": times(alone), "meanwhile": times(meanwhile), "seconds": seconds}


def post(inbox: BoundInbox, number: int) -> float:
    """How long a callback takes, which has to be answered with 200."""
    action = post_to(inbox.app, body("json", MESSAGES, number), "json", MESSAGES, 0)
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def times(taken: list[float]) -> Times:
    parts = quantiles(taken, n=20)
    return {"count": len(taken), "median": parts[9], "most": parts[18], "longest": max(taken)}


def fill(inbox: BoundInbox) -> None:
    """Half of them done eight days ago, and half of them a month and a day."""
    came = envelope(-1)
    content = body("json", MESSAGES_OF_EACH, -1)
    now = time.time()
    with inbox.database.begin(is_current=False) as connection:
        for start in range(1, CALLBACKS + 1, 1000):
            chosen = range(start, start + 1000)
            finished = {id: now - (31 if id <= CALLBACKS // 2 else 8) * _DAY for id in chosen}
            connection.execute(
                insert(tables.callbacks),
                [
                    {
                        "source": came.source,
                        "content_type": came.content_type,
                        "url_variables": "{}",
                        "query": "{}",
                        "body": content,
                        "received_at": finished[id],
                    }
                    for id in chosen
                ],
            )
            connection.execute(insert(tables.messages), list(_messages(came.source, finished)))
    if not inbox.database.is_sqlite:
        with inbox.database.begin(is_current=False) as connection:
            analyze = "ANALYZE" if connection.dialect.name == "postgresql" else "ANALYZE TABLE"
            names = f"{tables.messages.name}, {tables.callbacks.name}"
            connection.exec_driver_sql(f"{analyze} {names}")


def _messages(source: str, finished: dict[int, float]) -> Iterator[dict[str, object]]:
    for id, finished_at in finished.items():
        for position in range(MESSAGES_OF_EACH):
            yield {
                "callback_id": id,
                "source": source,
                "key": f"{id:020x}{position:012x}",
                "position": position,
                "state": "done",
                "attempts": 1,
                "due_at": finished_at,
                "finished_at": finished_at,
            }
