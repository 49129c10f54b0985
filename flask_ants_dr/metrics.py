"""What Prometheus scrapes of delivery reports (extra ``metrics``).

What happens is counted as it comes, from the signals of :mod:`.observation`. How it stands with an
inbox is read from its database when somebody scrapes.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from threading import Lock
from threading import Thread
from typing import TYPE_CHECKING
from typing import Any
from typing import cast
from weakref import ReferenceType
from weakref import WeakKeyDictionary
from weakref import ref

from flask import Flask
from flask import Response
from flask import current_app
from flask import request

try:
    import prometheus_client as _prometheus_client  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "flask_ants_dr.metrics needs prometheus-client: pip install 'Flask-ANTS-DR[metrics]'"
    ) from None

from prometheus_client import REGISTRY
from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import Histogram
from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .errors import REFUSALS
from .errors import InboxUnavailable
from .models import DeliveryReport
from .models import DeliveryState
from .models import MessageReport
from .observation import OUTCOMES
from .observation import callback_answered
from .observation import message_attempted
from .observation import messages_accepted
from .observation import subscriber_called
from .receive import count_problems
from .registration import registrations
from .schemas import MessageSchema
from .schemas import ReportSchema
from .schemas import StatusSchema
from .signals import Discard
from .signals import RetryLater

if TYPE_CHECKING:
    from .inbox.inbox import BoundInbox

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# The answers that there are of themselves; a host can give others.
_STATUSES = (200, *(kind.status for kind in REFUSALS), 500, InboxUnavailable.status)

# What a schema of the host's own has beside these, or makes of a sender's, is one more.
_MEMBERS = {
    prefix + (field.data_key or name)
    for prefix, schema in (("", ReportSchema), ("", MessageSchema), ("status.", StatusSchema))
    for name, field in schema().load_fields.items()
}
_OTHER_MEMBER = "other"

# Seconds. A message is valid for 48 hours, by default.
_OF_ANTS = (1, 2, 5, 10, 30, 60, 300, 3600, 6 * 3600, 48 * 3600)
_OF_WORKERS = (0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 3600)

_GAUGES = {
    "inbox_up": "Whether the inbox's database answered this scrape.",
    "pending_messages": "Messages that are not dispatched to all subscribers yet.",
    "retrying_messages": "Pending messages that a subscriber failed on, or is let rest from.",
    "dead_messages": "Messages that were given up, until somebody retries or discards them.",
    "oldest_pending_seconds": "The age of the oldest pending message; 0 where none is.",
    "quarantine_entries": "Callbacks and details that could not be read, and are kept.",
    "quarantine_bytes": "Their size.",
    "last_callback_timestamp_seconds": "When the last callback was answered with 200.",
    "workers": "Processes that dispatch what waits, and are alive.",
    "overdue_messages": "Messages without a final state for 15 minutes, as the ledger has them.",
    "last_reconcile_timestamp_seconds": "When Message Logs were asked last.",
    "mended_messages": "Messages whose final state came by no callback, in 48 hours.",
}
_MORE = {"retrying_messages": ["subscriber"], "workers": ["kind"]}


def init_app(app: Flask, registry: CollectorRegistry | None = None) -> None:
    """Count and measure what happens to an application's delivery reports.

    Call it when the blueprints are registered: what has not happened yet is there as 0 then.

    :param app: an application with one :class:`~flask_ants_dr.DeliveryReportBlueprint` or more.
    :param registry: where the metrics are, by default prometheus-client's own. Several
        applications can share one: metrics tell blueprints apart by their names.
    :raises ValueError: the registry has metrics of these names that are not ours, or
        ``PROMETHEUS_MULTIPROC_DIR`` names no directory.
    """
    if _is_multi_process() and not os.path.isdir(os.environ[_DIRECTORY]):
        raise ValueError(f"{_DIRECTORY} names no directory: make it, or leave the variable out.")
    registry = registry or REGISTRY
    if registry not in _metrics:
        _metrics[registry] = _Happened(registry), _Standing(registry)
    happened, standing = _metrics[registry]
    happened.listen(app)
    standing.add(app)
    app.extensions["ants_dr_metrics"] = registry


def exposed(app: Flask) -> CollectorRegistry:
    """What is to be shown to Prometheus: the registry that :func:`init_app` was given, or in
    prometheus-client's multi-process mode one of what all processes have counted together.

    :raises RuntimeError: :func:`init_app` has not been called.
    """
    registry: CollectorRegistry | None = app.extensions.get("ants_dr_metrics")
    if registry is None:
        raise RuntimeError(
            f"{app.name} has no metrics: call flask_ants_dr.metrics.init_app(app) first."
        )
    if not _is_multi_process():
        return registry
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    # Once: it is read from the database, whichever process is asked.
    together.register(_metrics[registry][1])
    return together


def view() -> Response:
    """The view that Prometheus scrapes: give it a route, with the access of your choosing.

    ::

        app.add_url_rule("/metrics", "metrics", metrics.view)
    """
    write, content_type = choose_encoder(request.headers.get("Accept", ""))
    text = write(exposed(current_app))
    return current_app.response_class(text, content_type=content_type)


def serve(app: Flask, *, host: str, port: int) -> None:
    """Show the metrics at an address of their own, from a thread, until the process ends.

    :param app: the application; where :func:`init_app` has not been called for it, it is now.
    :raises OSError: nothing can listen there.
    :raises ValueError: as :func:`init_app`.
    """
    if "ants_dr_metrics" not in app.extensions:
        init_app(app)
    start_http_server(port, host, exposed(app))


def _is_multi_process() -> bool:
    return _DIRECTORY in os.environ


class _Happened:
    """What is counted and measured as it comes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ants_dr_{name}", text, labels, registry=registry)

        def histogram(
            name: str,
            text: str,
            label: str = "source",
            buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
        ) -> Histogram:
            return Histogram(
                f"ants_dr_{name}_seconds", text, [label], buckets=buckets, registry=registry
            )

        self._callbacks = counter("callbacks", "Callbacks by their answer.", "source", "status")
        self._messages = counter("messages", "Messages that were taken.", "source", "state")
        self._invalid = counter("invalid_messages", "Messages that were refused.", "source")
        self._problems = counter(
            "member_problems",
            "Members of messages that were taken which could not be read.",
            "source",
            "member",
        )
        self._attempts = counter(
            "attempts", "Attempts to dispatch a stored message.", "source", "outcome"
        )
        self._errors = counter("subscriber_errors", "What subscribers raised.", "subscriber")
        self._callback_seconds = histogram("callback_duration", "Until a callback was answered.")
        self._subscriber_seconds = histogram(
            "subscriber_duration", "Until a subscriber returned or raised.", "subscriber"
        )
        self._sent_to_done = histogram(
            "sent_to_done",
            "From sending a message to its final state, as ANTS says.",
            buckets=_OF_ANTS,
        )
        self._done_to_received = histogram(
            "done_to_received",
            "From a message's final state to the callback that told of it.",
            buckets=_OF_ANTS,
        )
        self._received_to_attempted = histogram(
            "received_to_attempted",
            "From a callback to the end of the first attempt at its message.",
            buckets=_OF_WORKERS,
        )

        # As labels() does, which takes as long as the rest.
        self._of_subscriber: dict[str, tuple[Histogram, Counter]] = {}
        self._of_attempt: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    def listen(self, app: Flask) -> None:
        callback_answered.connect(self._count_answer, sender=app)
        messages_accepted.connect(self._count_messages, sender=app)
        subscriber_called.connect(self._count_call, sender=app)
        message_attempted.connect(self._count_attempt, sender=app)
        # A rate is of what was there before: the first refusal would be in none.
        for source, registration in registrations(app).items():
            self._invalid.labels(source)
            for status in _STATUSES:
                self._callbacks.labels(source, status)
            for state in DeliveryState:
                self._messages.labels(source, state.value)
            for outcome in OUTCOMES if registration.inbox else ():
                self._attempts.labels(source, outcome)

    def _count_answer(
        self, app: Flask, *, source: str, status: int, seconds: float, **extra: Any
    ) -> None:
        self._callbacks.labels(source, status).inc()
        self._callback_seconds.labels(source).observe(seconds)

    def _count_messages(
        self, app: Flask, *, report: DeliveryReport, messages: Sequence[MessageReport], invalid: int
    ) -> None:
        source = report.source
        states = [message.status.state for message in messages]
        for state, count in Counts(states).items():
            self._messages.labels(source, state.value).inc(count)
        if invalid:
            self._invalid.labels(source).inc(invalid)
        for name, count in count_problems(report, messages).items():
            member = name if name in _MEMBERS else _OTHER_MEMBER
            self._problems.labels(source, member).inc(count)
        sent_to_done, done_to_received = [], []
        for message, state in zip(messages, states, strict=True):
            sent, done = message.send_date, message.done_date
            if done is None or not state.is_final:
                continue
            if sent and sent <= done:
                sent_to_done.append((done - sent).total_seconds())
            if report.received_at:
                # ANTS's clock is not ours.
                done_to_received.append(max(0.0, (report.received_at - done).total_seconds()))
        _observe_all(self._sent_to_done.labels(source), sent_to_done)
        _observe_all(self._done_to_received.labels(source), done_to_received)

    def _count_call(
        self, app: Flask, *, subscriber: str, seconds: float, error: BaseException | None
    ) -> None:
        if subscriber not in self._of_subscriber:
            self._of_subscriber[subscriber] = (
                self._subscriber_seconds.labels(subscriber),
                self._errors.labels(subscriber),
            )
        duration, errors = self._of_subscriber[subscriber]
        duration.observe(seconds)
        if error is not None and not isinstance(error, Discard | RetryLater):
            errors.inc()

    def _count_attempt(
        self, app: Flask, *, source: str, outcome: str, waited: float | None
    ) -> None:
        if (source, outcome) not in self._of_attempt:
            self._of_attempt[source, outcome] = (
                self._attempts.labels(source, outcome),
                self._received_to_attempted.labels(source),
            )
        attempts, received_to_attempted = self._of_attempt[source, outcome]
        attempts.inc()
        # What is put off has not been attempted.
        if waited is not None and outcome != "later":
            received_to_attempted.observe(max(0.0, waited))


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """As ``observe()`` does, which for each of 500 messages would take as long as reading them."""
    if not values:
        return
    histogram._sum.inc(sum(values))
    bounds = histogram._upper_bounds
    for bucket, count in Counts(bisect_left(bounds, value) for value in values).items():
        histogram._buckets[bucket].inc(count)


class _Standing(Collector):
    """How it stands with the inboxes, as their databases say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._apps: list[ReferenceType[Flask]] = []
        self._readings: WeakKeyDictionary[BoundInbox, _Reading] = WeakKeyDictionary()
        self._lock = Lock()
        registry.register(self)

    def add(self, app: Flask) -> None:
        # A host's tests make many, which are not to be kept.
        others = [one for one in self._apps if one() not in (None, app)]
        self._apps = [*others, ref(app)]

    def describe(self) -> list[GaugeMetricFamily]:
        """Which metrics there are. Without it a registry would read the database to know."""
        return list(_gauges().values())

    def collect(self) -> list[GaugeMetricFamily]:
        """Read all inboxes, at the same time and for no longer than their timeouts."""
        started, gauges = time.monotonic(), _gauges()
        readings = {inbox: self._read(inbox) for inbox in self._inboxes()}
        for inbox, reading in readings.items():
            left = started + inbox.options.timeout - time.monotonic()
            reading.thread.join(max(0.0, left))
            _fill(gauges, inbox.source, reading.found)
        return list(gauges.values())

    def _inboxes(self) -> list[BoundInbox]:
        """Of each source one: of two applications of one name the later has it."""
        by_source = {
            source: cast("BoundInbox", registration.inbox)
            for app in [one() for one in self._apps]
            if app is not None
            for source, registration in registrations(app).items()
            if registration.inbox is not None
        }
        return list(by_source.values())

    def _read(self, inbox: BoundInbox) -> _Reading:
        with self._lock:
            reading = self._readings.get(inbox)
            if reading is None or not reading.thread.is_alive():
                reading = self._readings[inbox] = _Reading(inbox)
            return reading


class _Reading:
    """One look at an inbox, which scrapes share that come while it is under way.

    So a database that does not answer has one thread and one connection of each process waiting,
    however often it is scraped.
    """

    def __init__(self, inbox: BoundInbox) -> None:
        self.found: dict[str, Any] | None = None
        """``None`` while, and where, the database does not answer."""
        self.thread = Thread(target=self._read, args=[inbox], name="ants-dr-metrics", daemon=True)
        self.thread.start()

    def _read(self, inbox: BoundInbox) -> None:
        with suppress(InboxUnavailable):  # it is in the log
            self.found = inbox.status() | {"mended": inbox.reconciliation()["mended"]}


def _gauges() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(f"ants_dr_{name}", text, labels=["source", *_MORE.get(name, ())])
        for name, text in _GAUGES.items()
    }


def _fill(
    gauges: Mapping[str, GaugeMetricFamily], source: str, found: Mapping[str, Any] | None
) -> None:
    """Add what was found of an inbox."""
    from .inbox.workers import ALIVE

    def add(name: str, value: float | None, *labels: str) -> None:
        if value is not None:
            gauges[name].add_metric([source, *labels], value)

    add("inbox_up", found is not None)
    if found is None:
        return
    add("pending_messages", found["pending"])
    for one in found["retrying"]:
        add("retrying_messages", one["count"], one["failed_by"] or "")
    add("dead_messages", found["dead"])
    add("oldest_pending_seconds", found["oldest_pending_seconds"] or 0)
    add("quarantine_entries", found["quarantined"])
    add("quarantine_bytes", found["quarantined_bytes"])
    add("last_callback_timestamp_seconds", _timestamp(found["last_callback_at"]))
    alive = Counts(one["kind"] for one in found["workers"])
    for kind in ALIVE:
        add("workers", alive[kind], kind)
    add("overdue_messages", found["overdue"])
    if found["reconciled_at"]:
        add("last_reconcile_timestamp_seconds", _timestamp(found["reconciled_at"]))
        add("mended_messages", found["mended"])


def _timestamp(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if moment else None


_metrics: WeakKeyDictionary[CollectorRegistry, tuple[_Happened, _Standing]] = WeakKeyDictionary()
