"""Celery as the engine (extra ``celery``): identifiers go to the broker, never contents.

::

    from flask_ants_dr.inbox.celery import enqueue

    DeliveryReportBlueprint(inbox=Inbox(eager=False, enqueue=enqueue))

The tasks are shared tasks, so the host's Celery application has them as soon as this module is
imported, and run in its application context where it is set up as Flask's documentation says. Let
beat, or a ``work`` process, take up what was never enqueued and what failed::

    celery_app.conf.beat_schedule = {"ants-dr": {"task": "flask_ants_dr.sweep", "schedule": 30.0}}
    celery_app.conf.broker_transport_options = {
        "max_retries": 1, "interval_start": 0, "socket_connect_timeout": 1, "socket_timeout": 2
    }
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

try:
    from celery import shared_task
except ModuleNotFoundError:
    raise ImportError(
        "flask_ants_dr.inbox.celery needs Celery: pip install 'Flask-ANTS-DR[celery]'"
    ) from None
from flask import current_app

from ..errors import InboxUnavailable
from .delivery import BATCH
from .inbox import BoundInbox
from .inbox import bound_inboxes
from .worker import reconcile_all
from .workers import SignOfLife

_SWEEP = 10_000

# How many tasks take up what has been tried before, and for how many seconds each.
_DRAINS = 10
_DRAIN = 20.0

# Seconds. What lies in the broker for longer has been enqueued again by a sweep.
_EXPIRES = 300


def enqueue(source: str, ids: Sequence[int]) -> None:
    """Send the ids of messages to the broker, in batches.

    :param source: the name of the blueprint that received them.
    :param ids: the messages.
    :raises kombu.exceptions.OperationalError: the broker cannot be reached. A request waits for
        this: bound it with ``broker_transport_options``, as the module's description shows.
    """
    for start in range(0, len(ids), BATCH):
        arguments = (source, list(ids[start : start + BATCH]))
        dispatch.apply_async(arguments, retry=False, ignore_result=True, expires=_EXPIRES)


@shared_task(name="flask_ants_dr.dispatch", ignore_result=True)  # type: ignore[untyped-decorator]
def dispatch(source: str, ids: Sequence[int]) -> None:
    """Claim messages and dispatch them; what another worker has claimed is passed over."""
    for inbox in bound_inboxes(current_app):
        if inbox.source == source:
            _live(inbox)
            inbox.take(ids)


@shared_task(name="flask_ants_dr.drain", ignore_result=True)  # type: ignore[untyped-decorator]
def drain(source: str) -> None:
    """Dispatch what is due, for 20 seconds at most; what has been tried before one by one."""
    end = time.monotonic() + _DRAIN
    for inbox in bound_inboxes(current_app):
        if inbox.source == source:
            _live(inbox)
            while time.monotonic() < end and inbox.take():
                pass


@shared_task(name="flask_ants_dr.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Enqueue what is due: what the broker did not take, what failed, what a dead worker held.

    Then, once an hour, delete what has been kept for long enough.
    """
    inboxes = bound_inboxes(current_app)
    for inbox in inboxes:
        _live(inbox)
        enqueue(inbox.source, inbox.due(_SWEEP))
        # Not their ids, of which each sweep would enqueue those again that still wait.
        for _ in inbox.due(_DRAINS, alone=True):
            drain.apply_async((inbox.source,), retry=False, ignore_result=True, expires=_DRAIN)
    for inbox in inboxes:
        inbox.retain(if_due=True)


@shared_task(name="flask_ants_dr.reconcile", ignore_result=True)  # type: ignore[untyped-decorator]
def reconcile(every: float = 60.0) -> None:
    """Ask ANTS's Message Logs for what no callback has brought.

    :param every: unless any process has done so within so many seconds.
    """
    reconcile_all(bound_inboxes(current_app), timedelta(seconds=every), lambda: False)


_signs: list[SignOfLife] = []  # at most one, of this process


def _live(inbox: BoundInbox) -> None:
    """Give a sign of life, where this process has given none for a while."""
    if not _signs or _signs[0].pid != os.getpid():
        _signs[:] = [SignOfLife("celery")]
    sign = _signs[0]
    if sign.is_due(inbox.source):
        with suppress(InboxUnavailable):
            inbox.database.run(partial(sign.give, source=inbox.source), durable=False)
