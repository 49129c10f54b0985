"""A process that drains inboxes: ``flask ants-dr work``."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait
from threading import Event

from ..errors import InboxUnavailable
from .inbox import BoundInbox

_logger = logging.getLogger(__name__)


def work(
    inboxes: Sequence[BoundInbox],
    *,
    concurrency: int,
    poll: float,
    once: bool,
    stop: Event,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Dispatch what is due until ``stop`` is set: then finish the messages in hand, and return.

    :param concurrency: how many threads do so.
    :param poll: seconds between looks at a database that has nothing due.
    :param once: return as soon as nothing is due.
    :param done: called with how many messages were dispatched.
    :raises InboxUnavailable: the database failed, with ``once``; otherwise it is tried again.
    """

    def drain() -> None:
        while not stop.is_set():
            count = 0
            for inbox in inboxes:
                try:
                    count += inbox.take(stop=stop.is_set)
                except InboxUnavailable:
                    if once:
                        raise
                    _logger.warning("%s: the database failed; trying again", inbox.source)
            done(count)
            if not count:
                if once:
                    return
                stop.wait(poll * random.uniform(0.5, 1.5))  # noqa: S311

    with ThreadPoolExecutor(concurrency, thread_name_prefix="ants-dr") as threads:
        drains = [threads.submit(drain) for _ in range(concurrency)]
        finished, _ = wait(drains, return_when=FIRST_EXCEPTION)
        stop.set()
        for result in finished:
            result.result()
