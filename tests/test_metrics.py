"""What Prometheus is shown: what has happened, and how it stands with the inboxes."""

from __future__ import annotations

import gc
import socket
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import metrics_campaign
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import Discard
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import RetryLater
from flask_ants_dr import message_reported
from flask_ants_dr import metrics
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox.workers import SignOfLife
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import String
from kit import Ants
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import run
from servers import wait_for

EARLIER = datetime.now(UTC) - timedelta(minutes=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def value(registry: CollectorRegistry) -> Callable[..., float | None]:
    """What a scrape says of a metric. Of one that has a source, by default the blueprint's."""

    def value(name: str, **labels: str) -> float | None:
        if "subscriber" not in labels or "source" in labels:
            labels = {"source": "ants_dr"} | labels
        return registry.get_sample_value(f"ants_dr_{name}", labels)

    return value


def test_callbacks_by_answer(registry: CollectorRegistry, value: Callable[..., Any]) -> None:
    app = make_app()
    metrics.init_app(app, registry)
    assert [value("callbacks_total", status=one) for one in ("200", "401", "503")] == [0, 0, 0]
    ants = Ants(app.test_client())
    for _ in range(2):
        ants.post(callback(detail()))
    ants.post(callback(detail()), auth=("ants", "wrong"))
    ants.post("not JSON")
    found = [value("callbacks_total", status=one) for one in ("200", "400", "401", "422")]
    assert found == [2, 1, 1, 0]
    assert value("callback_duration_seconds_count") == 4
    assert value("callback_duration_seconds_sum") > 0


def test_messages_by_state(registry: CollectorRegistry, value: Callable[..., Any]) -> None:
    app = make_app()
    metrics.init_app(app, registry)
    body = callback(detail(), detail(status={"name": "EXPIRED"}), detail(status={"name": "new"}), 1)
    assert Ants(app.test_client()).post(body).status_code == 200
    found = {state: value("messages_total", state=state) for state in ("DELIVERED", "UNKNOWN")}
    assert found == {"DELIVERED": 1, "UNKNOWN": 1}
    assert value("messages_total", state="EXPIRED") == 1
    assert value("messages_total", state="REJECTED") == 0
    assert value("invalid_messages_total") == 1


class HostMessage(MessageSchema):
    of_the_host = String(data_key="ofTheHost", load_default=None, tolerant=True)


class HostReport(ReportSchema):
    details = Details(HostMessage, attribute="messages", required=True)


def test_problems_by_member(registry: CollectorRegistry, value: Callable[..., Any]) -> None:
    app = make_app(DeliveryReportBlueprint(schema=HostReport))
    metrics.init_app(app, registry)
    odd = detail(doneDate="soon", status={"name": "DELIVERED", "code": []}, ofTheHost={})
    body = callback(odd, detail(doneDate="later"), bulkId={})
    assert Ants(app.test_client()).post(body).status_code == 200
    members = ("doneDate", "status.code", "bulkId", "ofTheHost", "other")
    found = {one: value("member_problems_total", member=one) for one in members}
    assert found == {"doneDate": 2, "status.code": 1, "bulkId": 1, "ofTheHost": None, "other": 1}


def test_how_long_messages_were_under_way(
    registry: CollectorRegistry, value: Callable[..., Any]
) -> None:
    """Of those that are final, and of which it can be said."""
    app = make_app()
    metrics.init_app(app, registry)

    def dates(sent: float, done: float) -> dict[str, str]:
        return {
            "sendDate": (EARLIER + timedelta(seconds=sent)).isoformat(),
            "doneDate": (EARLIER + timedelta(seconds=done)).isoformat(),
        }

    ants = Ants(app.test_client())
    ants.post(callback(detail(**dates(0, 5)), detail(**dates(0, 40))))
    ants.post(callback(detail(status={"name": "PENDING"}, **dates(0, 1)), detail()))
    assert value("sent_to_done_seconds_count") == 2
    assert value("sent_to_done_seconds_sum") == pytest.approx(45)
    assert value("sent_to_done_seconds_bucket", le="5.0") == 1
    assert value("done_to_received_seconds_count") == 2
    assert 60 + 60 - 45 <= value("done_to_received_seconds_sum") < 3600
    # By clocks that differ: it was done before it was sent, and is done later than now.
    ants.post(callback(detail(**dates(7200, 3600))))
    assert value("sent_to_done_seconds_count") == 2
    assert value("done_to_received_seconds_count") == 3
    assert value("done_to_received_seconds_bucket", le="1.0") == 1


def test_attempts_and_subscribers(
    registry: CollectorRegistry, value: Callable[..., Any], tmp_path: Path
) -> None:
    inbox = Inbox(backoff=0, max_attempts=2)
    app = make_app(
        DeliveryReportBlueprint(inbox=inbox), ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/inbox"
    )
    metrics.init_app(app, registry)
    outcomes = ("done", "retry", "later", "dead")
    assert [value("attempts_total", outcome=one) for one in outcomes] == [0, 0, 0, 0]
    waited: set[str] = set()

    @message_reported.connect_via(app)
    def subscriber(app: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "broken":
            raise LookupError
        if message.message_id == "discarded":
            raise Discard("of no interest")
        if message.message_id == "waits" and message.message_id not in waited:
            waited.add(message.message_id)
            raise RetryLater(0)

    ids = ("fine", "broken", "discarded", "waits")
    Ants(app.test_client()).post(callback(*(detail(messageId=one) for one in ids)))

    def is_over() -> bool:
        drain(app)
        return counts(app)["pending"] == 0

    wait_for(is_over)
    found = [value("attempts_total", outcome=one) for one in outcomes]
    assert found == [3, 1, 1, 1]
    name = f"{__name__}.test_attempts_and_subscribers.<locals>.subscriber"
    assert value("subscriber_duration_seconds_count", subscriber=name) == 6
    assert value("subscriber_errors_total", subscriber=name) == 2
    assert value("received_to_attempted_seconds_count") == 4
    bound_inbox(app).database.close()


def test_how_it_stands_with_an_inbox(
    make_inbox_app: MakeApp, registry: CollectorRegistry, value: Callable[..., Any]
) -> None:
    app = make_inbox_app(eager=False, backoff=3600, ledger=True)
    metrics.init_app(app, registry)
    inbox = bound_inbox(app)
    assert value("inbox_up") == 1
    assert value("pending_messages") == 0
    assert value("oldest_pending_seconds") == 0
    assert value("last_callback_timestamp_seconds") is None
    assert value("last_reconcile_timestamp_seconds") is None
    assert [value("workers", kind=kind) for kind in ("work", "celery")] == [0, 0]

    @message_reported.connect_via(app)
    def subscriber(app: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id == "broken":
            raise LookupError

    before = datetime.now(UTC).timestamp()
    ants = Ants(app.test_client())
    old = {"sendDate": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    ids = ("broken", "fine", "slow")
    bodies = [detail(messageId=one, **old) for one in ids]
    bodies[-1]["status"] = {"name": "PENDING"}
    ants.post(callback(*bodies))
    assert value("pending_messages") == 3
    inbox.take()
    ants.post("not JSON")
    inbox.database.run(lambda connection: SignOfLife("work").give(connection, inbox.source))
    name = f"{__name__}.test_how_it_stands_with_an_inbox.<locals>.subscriber"
    assert value("pending_messages") == 1
    assert value("retrying_messages", subscriber=name, source="ants_dr") == 1
    assert value("oldest_pending_seconds") >= 0
    assert value("last_callback_timestamp_seconds") >= int(before)
    assert value("workers", kind="work") == 1
    assert value("quarantine_entries") == 1
    assert value("quarantine_bytes") == len("not JSON")
    assert value("dead_messages") == 0
    assert value("overdue_messages") == inbox.status()["overdue"]


def test_only_what_there_is(
    make_inbox_app: MakeApp, registry: CollectorRegistry, value: Callable[..., Any]
) -> None:
    """A metric of what a host has not would be 0 for the wrong reason."""
    metrics.init_app(make_inbox_app(), registry)
    assert value("inbox_up") == 1
    assert value("overdue_messages") is None
    assert value("mended_messages") is None


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def readers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "ants-dr-metrics"]


@pytest.mark.slow(reason="waits for a server that does not answer")
def test_a_database_that_does_not_answer(
    registry: CollectorRegistry, value: Callable[..., Any], silent: int
) -> None:
    """The counters are there, and whoever scrapes meanwhile opens no connection of their own."""
    url = f"postgresql+psycopg://sms@127.0.0.1:{silent}/sms"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox(timeout=0.2)), ANTS_DR_INBOX_URL=url)
    metrics.init_app(app, registry)
    Ants(app.test_client()).post("not JSON", auth=None)
    with ThreadPoolExecutor(5) as scrapers:
        found = [*scrapers.map(lambda _: generate_latest(registry).decode(), range(5))]
        assert len(readers()) == 1
    for text in found:
        assert 'ants_dr_inbox_up{source="ants_dr"} 0.0\n' in text
        assert 'ants_dr_callbacks_total{source="ants_dr",status="401"} 1.0\n' in text
        assert "ants_dr_pending_messages{" not in text
    wait_for(lambda: not readers())


def test_a_database_that_comes_back(
    registry: CollectorRegistry, value: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    url = f"sqlite:///{folder}/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    metrics.init_app(app, registry)
    folder.write_text("in the way")
    assert value("inbox_up") == 0
    folder.unlink()
    folder.mkdir()
    assert value("inbox_up") == 1
    bound_inbox(app).database.close()


def test_several_inboxes_in_one_database(
    registry: CollectorRegistry, value: Callable[..., Any], tmp_path: Path
) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(eager=False)),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/inbox",
    )
    other = DeliveryReportBlueprint("other", rule="/other", inbox=Inbox(eager=False))
    app.register_blueprint(other)
    metrics.init_app(app, registry)
    ants = Ants(app.test_client())
    ants.post(callback(detail()))
    ants.post(callback(detail(), detail(messageId="2")), url="/other")
    assert value("pending_messages") == 1
    assert value("pending_messages", source="other") == 2
    assert value("messages_total", source="other", state="DELIVERED") == 2
    bound_inbox(app).database.close()


def test_applications_that_share_a_registry(
    registry: CollectorRegistry, value: Callable[..., Any], tmp_path: Path
) -> None:
    """As those of a host's tests do: none is kept, and no name is there twice."""

    def make(name: str) -> Flask:
        url = f"sqlite:///{tmp_path}/{name}"
        app = make_app(DeliveryReportBlueprint(inbox=Inbox(eager=False)), ANTS_DR_INBOX_URL=url)
        metrics.init_app(app, registry)
        metrics.init_app(app, registry)
        return app

    apps = [make("one"), make("two")]
    for app, count in zip(apps, (3, 2), strict=True):
        Ants(app.test_client()).post(callback(*(detail(messageId=f"{n}") for n in range(count))))
    assert value("messages_total", state="DELIVERED") == 5
    assert value("pending_messages") == 2
    text = generate_latest(registry).decode()
    assert text.count("\nants_dr_pending_messages{") == 1
    for app in apps:
        bound_inbox(app).database.close()
    del app, apps
    gc.collect()
    assert value("inbox_up") is None


def test_the_view(registry: CollectorRegistry) -> None:
    app = make_app()
    metrics.init_app(app, registry)
    app.add_url_rule("/metrics", "metrics", metrics.view)
    client = app.test_client()
    plain = client.get("/metrics")
    assert plain.status_code == 200
    assert plain.content_type.startswith("text/plain")
    families = [*text_string_to_metric_families(plain.text)]
    assert all(one.documentation for one in families)
    assert "ants_dr_callbacks" in {one.name for one in families}
    header = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert client.get("/metrics", headers=header).text.endswith("# EOF\n")


def test_without_init_app(app: Flask) -> None:
    with pytest.raises(RuntimeError, match="no metrics: call"):
        metrics.exposed(app)


def test_a_registry_with_such_names(registry: CollectorRegistry) -> None:
    Counter("ants_dr_callbacks", "Another's.", registry=registry)
    with pytest.raises(ValueError, match="ants_dr_callbacks"):
        metrics.init_app(make_app(), registry)


def test_a_directory_that_is_missing(monkeypatch: pytest.MonkeyPatch, app: Flask) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    with pytest.raises(ValueError, match="names no directory: make it"):
        metrics.init_app(app)


def test_no_value_of_a_body_is_shown(registry: CollectorRegistry, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/inbox"
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True, backoff=3600)), ANTS_DR_INBOX_URL=url
    )
    metrics.init_app(app, registry)

    @message_reported.connect_via(app)
    def subscriber(app: Flask, message: MessageReport, **extra: Any) -> None:
        raise LookupError(message.text)

    secrets = ("66812345678", "otp-1234", "MyBrand", "id-77", "bulk-88", "bad-date", "STATUS-99")
    to, text, sender, message_id, bulk_id, date, status = secrets
    members = {"to": to, "text": text, "from": sender, "doneDate": date, date: date}
    body = callback(detail(messageId=message_id, **members), {text: text}, bulkId=bulk_id)
    body["details"][0]["status"] = {"name": status, "code": {text: text}}
    assert Ants(app.test_client()).post(f"{body}").status_code == 400
    assert Ants(app.test_client()).post(body).status_code == 200
    shown = generate_latest(registry).decode()
    assert 'ants_dr_member_problems_total{member="doneDate",source="ants_dr"} 1.0\n' in shown
    assert not [one for one in secrets if one in shown]
    bound_inbox(app).database.close()


def test_the_extra_is_missing(make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "flask_ants_dr.metrics")
    monkeypatch.delattr("flask_ants_dr.metrics")
    said = run(make_inbox_app(), "work", "--once", "--metrics-port", "9101", code=1)
    assert "pip install 'Flask-ANTS-DR[metrics]'" in said


def test_a_port_that_is_in_use(make_inbox_app: MakeApp, registry: CollectorRegistry) -> None:
    app = make_inbox_app()
    metrics.init_app(app, registry)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = run(app, "work", "--once", "--metrics-port", f"{port}", code=1)
    assert f"Nothing can listen at 127.0.0.1:{port}: Address already in use." in said


@pytest.mark.slow(reason="waits for what is written and scraped at times")
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn")
def test_a_real_prometheus(tmp_path: Path) -> None:
    """It has what is in the database, of two processes of gunicorn and of a worker."""
    found = metrics_campaign.campaign(tmp_path, seconds=2, messages=10)
    assert {name: shown for name, (shown, _) in found.items()} == {
        name: is_so for name, (_, is_so) in found.items()
    }
