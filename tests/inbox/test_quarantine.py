"""What could not be taken is kept, and can be put through again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from marshmallow import post_load
from marshmallow import pre_load

from flask_ants_dr import CallbackError
from flask_ants_dr import DeliveryReport
from flask_ants_dr import ReportSchema
from flask_ants_dr.inbox import Quarantined
from flask_ants_dr.inbox import Replayed
from flask_ants_dr.inbox import messages
from flask_ants_dr.inbox import quarantine
from flask_ants_dr.inbox.tables import State
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import RenamedSchema
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import make_app
from kit import many
from kit import rows

MISSING = "Missing data for required field."


def entries(app: Flask) -> list[Quarantined]:
    return bound_inbox(app).quarantined()


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{", "application/json", 400),
        (b"\xff\x00\xff", "application/json", 400),
        ("<a>", "application/xml", 400),
        ("a,b", "text/csv", 415),
        ({"reports": []}, "application/json", 422),
        (callback({}), "application/json", 422),
        (callback(*[detail()] * 10_001), "application/json", 413),
    ],
)
def test_a_body_that_is_refused_is_kept(
    make_inbox_app: MakeApp, body: Any, content_type: str, status: int
) -> None:
    app = make_inbox_app()
    ants, heard = Ants(app.test_client()), Heard(app)
    for _ in range(2):
        assert ants.post(body, content_type).status_code == status
    assert heard.names == ["callback_rejected"] * 2
    (entry,) = entries(app)
    assert entry.position is None
    assert (rows(app), rows(app, "callbacks")) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [{"auth": None}, {"auth": ("ants", "wrong")}, {"content_type": "text/plain", "body": ""}],
)
def test_what_is_not_kept(make_inbox_app: MakeApp, options: dict[str, Any]) -> None:
    app = make_inbox_app()
    options = {"body": "{"} | options
    assert Ants(app.test_client()).post(**options).status_code >= 400
    assert rows(app, "callbacks") == 0


def test_a_format_change_costs_a_release_and_no_data(
    make_inbox_app: MakeApp, inbox_url: str
) -> None:
    before = make_inbox_app()
    ants = Ants(before.test_client())
    changed = {"id": "new", "status": {"name": "EXPIRED"}}
    assert ants.post({"reports": [changed, detail(messageId="a")]}).status_code == 422
    mixed = callback(detail(messageId="b"), changed | {"id": "c"}, {"never": "valid"})
    assert ants.post(mixed, url="/sms/callback?order=1").status_code == 200
    assert [entry.position for entry in entries(before)] == [None, 1, 2]
    with pytest.raises(CallbackError):
        bound_inbox(before).replay(entries(before)[0].callback_id)
    assert len(entries(before)) == 3

    after = make_inbox_app(schema=RenamedSchema)
    heard = Heard(after)
    callback_ids = dict.fromkeys(entry.callback_id for entry in entries(after))
    replayed = [bound_inbox(after).replay(callback_id) for callback_id in callback_ids]
    assert replayed == [Replayed(taken=2, refused=0), Replayed(taken=1, refused=1)]
    assert sorted(message.message_id for message in heard.messages) == ["a", "c", "new"]
    assert heard.arguments("message_failed")[1]["report"].url_params == {"order": "1"}
    assert [entry.position for entry in entries(after)] == [2]
    assert bound_inbox(after).replay(entries(after)[0].callback_id) == Replayed(0, 1)


def test_a_deferred_replay(make_inbox_app: MakeApp) -> None:
    Ants(make_inbox_app().test_client()).post({"reports": [detail()]})
    after = make_inbox_app(schema=RenamedSchema, eager=False)
    heard = Heard(after)
    bound_inbox(after).replay(entries(after)[0].callback_id)
    assert heard.names == ["report_received"]
    assert bound_inbox(after).take() == 1
    assert len(heard.messages) == 1


def test_a_stored_message_that_the_schema_in_force_does_not_take(make_inbox_app: MakeApp) -> None:
    """It is retried, and waits as a dead one for a schema that takes it."""

    class NoSchema(ReportSchema):
        @pre_load
        def refuse(self, data: Any, **kwargs: Any) -> Any:
            return {}

    Ants(make_inbox_app(eager=False).test_client()).post(callback(detail()))
    app = make_inbox_app(schema=NoSchema, max_attempts=1)
    assert bound_inbox(app).take() == 1
    (dead,) = bound_inbox(app).dead()
    assert dead.error == "LookupError: the configuration in force does not find it in its callback"
    assert bound_inbox(app).retry() == 1
    back = make_inbox_app()
    heard = Heard(back)
    bound_inbox(back).take()
    assert len(heard.messages) == 1


def test_it_is_bounded_by_bytes(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(quarantine_bytes=50_000)
    ants = Ants(app.test_client())
    for number in range(30):
        ants.post(f"{number}".ljust(4_000, "x"))
    kept = entries(app)
    assert 5 <= len(kept) <= 10
    assert kept[-1].id == max(entry.id for entry in kept)
    assert rows(app, "callbacks") == len(kept)
    ants.post("x" * 60_000)
    assert entries(app) == []


def test_without_room_nothing_is_kept(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(quarantine_bytes=0)
    ants = Ants(app.test_client())
    assert ants.post("{").status_code == 400
    assert ants.post(callback(detail(), {})).json == {
        "accepted": 1,
        "rejected": 1,
        "errors": {"1": {name: [MISSING] for name in ("messageId", "status")}},
    }
    assert (rows(app), rows(app, "quarantine"), rows(app, "callbacks")) == (1, 0, 1)


@pytest.mark.slow(reason="waits for an age in seconds")
def test_it_is_bounded_by_age(make_inbox_app: MakeApp) -> None:
    Ants(make_inbox_app().test_client()).post("old")
    app = make_inbox_app(quarantine_days=0.5 / 86_400)
    time.sleep(0.6)
    Ants(app.test_client()).post("new")
    assert len(entries(app)) == rows(app, "callbacks") == 1


def test_a_callback_is_kept_as_long_as_one_of_its_messages(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(callback(detail(), {}))
    with bound_inbox(app).database.begin() as connection:
        assert quarantine.purge(connection, "ants_dr", time.time() + 1) == 1
    assert rows(app, "callbacks") == 1
    with bound_inbox(app).database.begin() as connection:
        assert messages.purge(connection, "ants_dr", State.DONE, time.time() + 1, 10) == 1
    assert rows(app, "callbacks") == 0


def test_without_an_inbox_nothing_is_kept() -> None:
    app = make_app()
    assert Ants(app.test_client()).post("{").status_code == 400
    assert "ants_dr_databases" not in app.extensions


def test_a_body_on_which_the_hosts_schema_breaks(make_inbox_app: MakeApp) -> None:
    class BrokenSchema(ReportSchema):
        @pre_load
        def break_(self, data: Any, **kwargs: Any) -> Any:
            return data["no such member"]

    app = make_inbox_app(schema=BrokenSchema)
    assert Ants(app.test_client()).post(callback(detail(to="66898887777"))).status_code == 500
    (entry,) = entries(app)
    assert entry.error == {"detail": "KeyError"}
    back = make_inbox_app()
    heard = Heard(back)
    assert bound_inbox(back).replay(entry.callback_id) == Replayed(1, 0)
    assert len(heard.messages) == 1


def test_the_same_body_under_another_content_type(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    for content_type in ("text/plain", "application/json"):
        Ants(app.test_client()).post({"reports": [detail()]}, content_type)
    assert len(entries(app)) == 2


def test_replays_at_once_deliver_once(make_inbox_app: MakeApp) -> None:
    details = [detail(messageId=str(number)) for number in range(200)]
    Ants(make_inbox_app().test_client()).post({"reports": details})
    app = make_inbox_app(schema=RenamedSchema, timeout=30)
    heard = Heard(app)
    (entry,) = entries(app)
    with ThreadPoolExecutor(4) as threads:
        replayed = list(threads.map(bound_inbox(app).replay, [entry.callback_id] * 4))
    assert sorted(one.taken for one in replayed) == [0, 0, 0, 200]
    assert len(heard.messages) == 200


@pytest.mark.slow(reason="thousands of entries, from four threads")
def test_the_same_bad_details_in_another_order(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(timeout=60)
    bad = [{"id": number} for number in range(1000)]
    orders = [bad, bad[::-1]] * 4
    bodies = [callback(detail(messageId=f"m{n}"), *order) for n, order in enumerate(orders)]

    def post(body: Any) -> int:
        return Ants(app.test_client()).post(body).status_code

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(post, bodies)) == {200}
    assert len(entries(app)) == 1000


@pytest.mark.slow(reason="70,000 entries")
def test_more_expired_entries_than_a_statement_takes_parameters(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(timeout=60)
    inbox = bound_inbox(app)
    count = 70_000
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})"
    with inbox.database.begin() as connection:
        if connection.dialect.name == "mariadb":
            connection.exec_driver_sql(f"SET max_recursive_iterations = {count}")
        elif connection.dialect.name == "mysql":
            connection.exec_driver_sql(f"SET cte_max_recursion_depth = {count}")
        key = connection.dialect.identifier_preparer.quote_identifier("key")
        connection.exec_driver_sql(
            "INSERT INTO ants_dr_callbacks"
            " (id, source, content_type, url_variables, query, body, received_at)"
            f" {numbers} SELECT n, 'ants_dr', '', '{{}}', '{{}}', '', 0 FROM n"
        )
        connection.exec_driver_sql(
            "INSERT INTO ants_dr_quarantine"
            f" (callback_id, source, {key}, error, quarantined_at)"
            f" {numbers} SELECT n, 'ants_dr', CAST(n AS CHAR(9)), '{{}}', 0 FROM n"
        )
        if connection.dialect.name == "postgresql":
            for name in ("callbacks", "quarantine"):
                sequence = f"pg_get_serial_sequence('ants_dr_{name}', 'id')"
                connection.exec_driver_sql(f"SELECT setval({sequence}, {count})")
            # As autovacuum can at any time: for the planner the table is empty then.
            with inbox.database.begin() as other:
                other.exec_driver_sql("ANALYZE ants_dr_quarantine")
    assert Ants(app.test_client()).post(callback(detail(), {})).status_code == 200
    assert len(entries(app)) == 1
    assert rows(app, "callbacks") == 1


def test_what_an_operators_page_sees(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    inbox = bound_inbox(app)
    client = Ants(app.test_client())
    client.post("{", "application/json")
    client.post(callback(detail(), {"to": "1"}))
    whole, one = inbox.quarantined()
    assert (whole.source, whole.position, whole.bytes) == ("ants_dr", None, 1)
    assert "not JSON" in whole.error["detail"]
    missing = [MISSING]
    assert one.position == 1
    assert one.error == {"errors": {"messageId": missing, "status": missing}}
    assert abs((datetime.now(UTC) - one.since).total_seconds()) < 60
    assert inbox.quarantined(1) == [whole]
    with pytest.raises(CallbackError, match="not JSON"):
        inbox.replay(whole.callback_id)
    with pytest.raises(LookupError, match="no callback 12345"):
        inbox.replay(12345)


@pytest.mark.parametrize("id", [0, 2**63, -(2**70)])
def test_ids_that_no_row_can_have(make_inbox_app: MakeApp, id: int) -> None:
    app = make_inbox_app()
    inbox = bound_inbox(app)
    Ants(app.test_client()).post(many(1))
    with pytest.raises(LookupError, match=str(id)):
        inbox.show(id)
    with pytest.raises(LookupError, match=str(id)):
        inbox.replay(id)
    assert inbox.drop([id]) == inbox.retry([id]) == inbox.discard([id]) == 0
    assert inbox.retry([id], state=State.WAITING) == 0
    assert inbox.redeliver([id, 1]).pending == 1


def test_no_blueprint_replays_what_is_anothers(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    inbox = bound_inbox(app)
    Ants(app.test_client()).post("{", "application/json")
    (entry,) = inbox.quarantined()
    inbox.source = "another"
    with pytest.raises(LookupError, match="another blueprint's"):
        inbox.replay(entry.callback_id)


def test_a_replay_delivers_nothing_that_was_taken_and_purged(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard, inbox = Heard(app), bound_inbox(app)
    body = callback(detail(messageId="a"), {}, detail(messageId="b"), {"messageId": "c"})
    assert Ants(app.test_client()).post(body).status_code == 200
    assert inbox.purge(0) == 2
    first, second = entries(app)
    assert inbox.replay(first.callback_id) == Replayed(taken=0, refused=2)
    assert inbox.drop([first.id]) == 1
    assert inbox.replay(first.callback_id) == Replayed(taken=0, refused=1)
    assert [one.position for one in entries(app)] == [second.position] == [3]
    assert [message.message_id for message in heard.messages] == ["a", "b"]


def test_what_is_dropped_while_it_is_replayed(make_inbox_app: MakeApp) -> None:
    """Nothing is stored of a callback that is gone."""

    class Dropping(ReportSchema):
        @pre_load
        def drop(self, data: Any, **kwargs: Any) -> Any:
            inbox = bound_inbox(app)
            inbox.drop([one.id for one in inbox.quarantined()])
            return {**data, "details": [detail()]}

    before = make_inbox_app()
    assert Ants(before.test_client()).post({"reports": []}).status_code == 422
    (entry,) = entries(before)
    app = make_inbox_app(schema=Dropping)
    with pytest.raises(LookupError, match=f"no callback {entry.callback_id}"):
        bound_inbox(app).replay(entry.callback_id)
    assert (rows(app), rows(app, "callbacks")) == (0, 0)


def test_a_replay_where_messages_have_no_places(make_inbox_app: MakeApp) -> None:
    """A host's schema can drop some. Then what is stored tells what is new."""

    class Dropping(ReportSchema):
        @post_load
        def drop(self, report: DeliveryReport, **kwargs: Any) -> DeliveryReport:
            return replace(report, messages=report.messages[1:])

    before = make_inbox_app()
    body = callback(detail(messageId="a"), detail(messageId="b"), {"id": "c"}, {"messageId": "d"})
    assert Ants(before.test_client()).post(body).status_code == 200
    (entry, _) = entries(before)
    app = make_inbox_app(schema=Dropping)
    assert bound_inbox(app).replay(entry.callback_id) == Replayed(taken=0, refused=2)
