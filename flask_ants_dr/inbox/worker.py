"""A process that drains inboxes: ``flask ants-dr work``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Event
from threading import Thread

from ..errors import InboxUnavailable
from ..errors import MessageLogsError
from ..log import RECONCILE
from ..log import WORKER
from ..log import about
from . import reconcile as reconciling
from .inbox import BoundInbox
from .pipeline import Pipeline
from .workers import SEEN
from .workers import SignOfLife

_JOINED = 0.1  # seconds
_MENDED = 5.0  # seconds between looks whether Message Logs are to be asked
_RETAINED = 60.0  # seconds between looks whether retention is due

BLOCKED = 75
"""The exit code of a process of which a subscriber has blocked a thread (``EX_TEMPFAIL``)."""


def work(
    inboxes: Sequence[BoundInbox],
    *,
    concurrency: int,
    poll: float,
    once: bool,
    stop: Event,
    reconcile: timedelta | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> bool:
    """Dispatch what is due until ``stop`` is set: then finish the messages in hand, and return.

    Beside that, what has been kept for long enough is deleted, when it is this process's turn.

    :param concurrency: how many threads do so.
    :param poll: seconds between looks at a database that has nothing due.
    :param once: return as soon as nothing is due.
    :param reconcile: how often ANTS's Message Logs are asked, by one of all processes.
    :param done: called with how many messages were dispatched.
    :return: whether a thread is blocked by a subscriber that took longer than the lease. Then the
        process is to end, and to be started again.
    :raises InboxUnavailable: the database failed, with ``once``; otherwise it is tried again.
    """
    errors: list[BaseException] = []

    def blocked() -> set[int]:
        return set().union(*(inbox.blocked for inbox in inboxes))

    def ends() -> bool:  # asked before each message
        return stop.is_set() or any(inbox.blocked for inbox in inboxes)

    def drain() -> None:
        with ExitStack() as stack:
            drain_each([(one, stack.enter_context(one.pipeline())) for one in inboxes])

    def drain_each(pipelines: Sequence[tuple[BoundInbox, Pipeline]]) -> None:
        while not ends():
            count = 0
            for inbox, pipeline in pipelines:
                try:
                    count += pipeline.take(ends)
                except InboxUnavailable:
                    if once:
                        raise
                    WORKER.warning(
                        "%s: the database failed; trying again",
                        inbox.source,
                        extra=about(inbox.source),
                    )
            done(count)
            if not count:
                if once:
                    return
                stop.wait(poll * random.uniform(0.5, 1.5))  # noqa: S311

    def pause(seconds: float) -> None:
        end = time.monotonic() + seconds
        while not ends() and time.monotonic() < end:
            stop.wait(_JOINED)

    def retain() -> None:
        while not ends():
            for inbox in inboxes:
                # Logged, and due again in an hour. What is dispatched does not depend on it.
                with suppress(InboxUnavailable):
                    inbox.retain(if_due=True, stop=ends)
            if once:
                return
            pause(_RETAINED)

    def mend() -> None:
        while reconcile is not None and not ends():
            reconcile_all(inboxes, reconcile, ends)
            pause(_MENDED)

    def live() -> None:
        sign = SignOfLife("work")
        while not ends() and not once:
            for inbox in inboxes:
                with suppress(InboxUnavailable):
                    inbox.database.run(partial(sign.give, source=inbox.source), durable=False)
            pause(SEEN)
        for inbox in inboxes:
            with suppress(InboxUnavailable):
                inbox.database.run(partial(sign.end, source=inbox.source), durable=False)

    def run(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
            stop.set()

    # Daemons, because one that is blocked for ever must not keep the process.
    actions = {f"ants-dr-{number}": drain for number in range(concurrency)}
    actions |= {
        "ants-dr-alive": live,
        "ants-dr-retention": retain,
        "ants-dr-reconcile": mend,
    }
    threads = [
        Thread(target=run, args=(action,), name=name, daemon=True)
        for name, action in actions.items()
    ]
    for thread in threads:
        thread.start()
    while going := [one for one in threads if one.is_alive() and one.ident not in blocked()]:
        going[0].join(_JOINED)
    if errors:
        raise errors[0]
    return bool(blocked())


def reconcile_all(
    inboxes: Sequence[BoundInbox], every: timedelta, stop: Callable[[], bool]
) -> None:
    """Reconcile those inboxes that have credentials for it, when it is this process's turn.

    What fails is logged, and tried again at the next turn.
    """
    for inbox in inboxes:
        if not reconciling.is_configured(inbox):
            continue
        try:
            found = inbox.reconcile(every=every, stop=stop)
        except MessageLogsError as error:
            RECONCILE.warning(
                "%s: Message Logs were not asked: %s",
                inbox.source,
                error,
                extra=about(inbox.source),
            )
        except InboxUnavailable:
            RECONCILE.warning(
                "%s: the database failed; trying again", inbox.source, extra=about(inbox.source)
            )
        else:
            if found.mended:
                RECONCILE.warning(
                    "%s: Message Logs had the final states of %d messages that no callback brought",
                    inbox.source,
                    found.mended,
                    extra=about(inbox.source),
                )
