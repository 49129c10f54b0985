"""What became of each message, and what was expected: one row, in whatever order it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.event import listens_for

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr.inbox import Entry
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import Ledger
from flask_ants_dr.inbox.tables import ledger as table
from kit import Ants
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import drain
from kit import make_app
from kit import many
from kit import run

NUMBER = "66812345678"
DONE = "2019-05-27T14:30:0{}.00"


def reported(app: Flask, *names: str, url: str = "/sms/callback", **members: Any) -> None:
    for name in names:
        body = callback(detail(to=NUMBER, status={"name": name}, **members))
        assert Ants(app.test_client()).post(body, url=url).status_code == 200


def of(app: Flask) -> Ledger:
    return bound_inbox(app).ledger


def entry(app: Flask, message_id: str = "1", to: str = NUMBER) -> Entry:
    found = of(app).get(message_id, to)
    assert found is not None
    return found


def test_what_a_report_says(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    before = datetime.now(UTC)
    body = callback(
        detail(
            to=NUMBER,
            sendDate=DONE.format(0),
            doneDate=DONE.format(1),
            credit="1.50",
            text="your code is 123456",
            status={"name": "DELIVERED", "code": "000", "description": "to the phone"},
            **{"from": "SHOP"},
        )
    )
    assert Ants(app.test_client()).post(body).status_code == 200
    found = entry(app)
    done = datetime(2019, 5, 27, 7, 30, 1, tzinfo=UTC)
    assert found.reported_at is not None
    assert before <= found.reported_at <= datetime.now(UTC)
    assert found == Entry(
        message_id="1",
        to=NUMBER,
        bulk_id="b",
        reference=None,
        state=DeliveryState.DELIVERED,
        status=found.status,
        sender="SHOP",
        credit=Decimal("1.50"),
        send_date=done - timedelta(seconds=1),
        done_date=done,
        expected_at=None,
        reported_at=found.reported_at,
        reports=1,
    )
    assert found.is_final
    assert found.status is not None
    assert (found.status.code, found.status.description) == ("000", "to the phone")
    assert NUMBER not in repr(found)
    assert repr(found) == "<Entry '1' to='***5678' state='DELIVERED'>"


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (["ACCEPTED", "PENDING"], "PENDING"),
        (["PENDING", "ACCEPTED"], "PENDING"),
        (["DELIVERED", "PENDING"], "DELIVERED"),
        (["PENDING", "DELIVERED", "ACCEPTED"], "DELIVERED"),
        (["BRAND_NEW", "EXPIRED"], "EXPIRED"),
        (["EXPIRED", "BRAND_NEW"], "EXPIRED"),
    ],
)
def test_a_final_state_stays(make_inbox_app: MakeApp, names: list[str], state: str) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    reported(app, *names)
    found = entry(app)
    assert found.state == state
    assert found.reports == len(names)
    assert bool(of(app).overdue(timedelta(0))) is not DeliveryState(state).is_final


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_final_states_the_later_counts(
    make_inbox_app: MakeApp, order: tuple[int, int]
) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    for second in order:
        name = {1: "EXPIRED", 2: "DELIVERED"}[second]
        reported(app, name, doneDate=DONE.format(second))
    assert entry(app).state is DeliveryState.DELIVERED


def test_a_repetition_is_no_report(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True)
    reported(app, "DELIVERED", "DELIVERED")
    assert entry(app).reports == 1


def test_two_reports_in_one_callback(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    both = [detail(to=NUMBER, status={"name": name}) for name in ("DELIVERED", "ACCEPTED")]
    Ants(app.test_client()).post(callback(*both))
    found = entry(app)
    assert (found.state, found.reports) == ("DELIVERED", 2)


def test_whichever_comes_first(make_inbox_app: MakeApp) -> None:
    """The sender and the report, which a phone number in any notation brings together."""
    app = make_inbox_app(ledger=True, eager=False)
    sent = datetime(2026, 1, 1, tzinfo=UTC)
    more: dict[str, Any] = {"bulk_id": "b", "reference": "order 41", "sent_at": sent}
    of(app).expect("1", "081 234 5678", **more)
    assert entry(app).state is None
    assert entry(app).reports == 0
    reported(app, "DELIVERED")
    reported(app, "DELIVERED", messageId="2")
    of(app).expect("2", "+66 81-234-5678", **more)
    first, second = entry(app), entry(app, "2", "0812345678")
    for found in (first, second):
        assert (found.expected_at, found.reference) == (sent, "order 41")
        assert (found.state, found.reports, found.to) == ("DELIVERED", 1, NUMBER)
    assert of(app).overdue(timedelta(0)) == []


def test_expect_many(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    pairs = [(f"m{number}", f"0812{number:06}") for number in range(500)]
    of(app).expect_many(pairs, bulk_id="campaign")
    of(app).expect_many([])
    assert len(of(app).find(bulk_id="campaign", limit=1000)) == 500
    assert of(app).count_overdue(timedelta(0)) == 500
    assert of(app).count_overdue(timedelta(hours=1)) == 0


@pytest.mark.parametrize(
    ("arguments", "more", "text"),
    [
        (("1", "hello"), {}, "to must be a phone number"),
        (("", NUMBER), {}, "message_id must not be empty"),
        (("1" * 201, NUMBER), {}, "message_id must have at most 200"),
        (("1", NUMBER), {"reference": "r" * 201}, "reference must have at most 200"),
        (("1", NUMBER), {"bulk_id": "r" * 201}, "bulk_id must have at most 200"),
        (("1", NUMBER), {"sent_at": datetime(2026, 1, 1)}, "sent_at must have a time zone"),
    ],
)
def test_what_cannot_be_expected(
    tmp_path: Path, arguments: tuple[str, str], more: dict[str, Any], text: str
) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True)),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path}/inbox.sqlite3",
    )
    with pytest.raises(ValueError, match=text):
        of(app).expect(*arguments, **more)
    bound_inbox(app).database.close()


def test_without_a_ledger(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    with pytest.raises(RuntimeError, match=r"Inbox\(ledger=True\)"):
        of(app)
    reported(app, "DELIVERED")
    with bound_inbox(app).database.begin(writes=False) as connection:
        assert connection.execute(table.select()).all() == []
    assert "Inbox(ledger=True)" in run(app, "find", "--to", NUMBER, code=1)


def test_find(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    client = Ants(app.test_client())
    client.post(callback(detail(to=NUMBER, messageId="a"), bulkId="one"))
    client.post(callback(detail(to="66899999999", messageId="b"), bulkId="one"))
    client.post(
        callback(detail(to=NUMBER, messageId="c", status={"name": "EXPIRED"}), bulkId="two")
    )
    of(app).expect("d", NUMBER, reference="order 41")

    def found(**said: Any) -> list[str]:
        return [one.message_id for one in of(app).find(**said)]

    assert found() == ["d", "c", "b", "a"]
    assert found(limit=2) == ["d", "c"]
    assert found(to="081-234-5678") == ["d", "c", "a"]
    assert found(message_id="b") == ["b"]
    assert found(bulk_id="one") == ["b", "a"]
    assert found(bulk_id="one", to=NUMBER) == ["a"]
    assert found(reference="order 41") == ["d"]
    assert found(state=DeliveryState.EXPIRED) == ["c"]
    assert found(state=DeliveryState.DELIVERED, to=NUMBER) == ["a"]
    assert found(since=datetime.now(UTC) - timedelta(minutes=1)) == ["d", "c", "b", "a"]
    assert found(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert of(app).get("a", "0899999999") is None


@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_what_goes_forward_while_it_is_looked_for_is_found_once(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    reported(app, "PENDING")
    engine = bound_inbox(app).database.open()
    names = iter(["DELIVERED"])

    @listens_for(engine, "after_cursor_execute")
    def deliver(connection: Any, cursor: Any, statement: str, parameters: Any, *said: Any) -> None:
        if statement.startswith("SELECT") and "PENDING" in str(parameters):
            reported(app, *names)

    assert [one.state for one in of(app).find()] == ["DELIVERED"]


def test_counts(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    nothing = dict.fromkeys((None, *DeliveryState), 0)
    assert of(app).counts() == nothing
    for message_id, names in (("1", ["PENDING", "DELIVERED"]), ("2", ["EXPIRED"]), ("3", ["NEW"])):
        reported(app, *names, messageId=message_id)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for message_id in ("4", "5"):
        of(app).expect(message_id, NUMBER, sent_at=noon)
    reports = {DeliveryState.DELIVERED: 1, DeliveryState.EXPIRED: 1, DeliveryState.UNKNOWN: 1}
    second = timedelta(seconds=1)
    assert of(app).counts() == nothing | reports | {None: 2}
    assert of(app).counts(since=noon) == nothing | reports | {None: 2}
    assert of(app).counts(since=noon + second) == nothing | reports
    assert of(app).counts(until=noon) == nothing
    assert of(app).counts(until=noon + second) == nothing | {None: 2}
    assert of(app).counts(since=noon + second, until=noon + 2 * second) == nothing


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_counts_read_the_index_alone(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    asked: list[tuple[str, Any]] = []
    with bound_inbox(app).database.begin(writes=False) as connection:
        engine = connection.engine

        @listens_for(engine, "before_cursor_execute")
        def note(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> None:
            if "count(*)" in statement:
                asked.append((statement, parameters))

    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    of(app).counts(since=noon, until=noon + timedelta(hours=1))
    ((statement, parameters),) = asked
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    searches = [step.detail for step in plan if "ants_dr_ledger" in step.detail]
    assert len(searches) == 1 + len(DeliveryState)
    for step in searches:
        assert "COVERING INDEX ix_ants_dr_ledger_state" in step
        assert "changed_at>? AND changed_at<?" in step


def test_tenants_have_nothing_in_common(inbox_url: str) -> None:
    app = make_app(
        DeliveryReportBlueprint(rule="/sms/<tenant>", inbox=Inbox(ledger=True)),
        ANTS_DR_INBOX_URL=inbox_url,
    )
    bound_inbox(app).database.create_tables()
    reported(app, "DELIVERED", url="/sms/a")
    of(app).expect("1", NUMBER, url_variables={"tenant": "b"})
    first = of(app).get("1", NUMBER, url_variables={"tenant": "a"})
    second = of(app).get("1", NUMBER, url_variables={"tenant": "b"})
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == ("DELIVERED", None)
    assert of(app).get("1", NUMBER) is None
    assert len(of(app).find(to=NUMBER)) == 2
    bound_inbox(app).database.close()


def test_identifiers_of_any_length(make_inbox_app: MakeApp) -> None:
    """An index takes no more than some hundred characters."""
    app = make_inbox_app(ledger=True, eager=False)
    long = "ก" * 20_000
    reported(app, "DELIVERED", messageId=long, **{"from": long})
    body = callback(detail(to=long, status={"name": "DELIVERED", "description": long}), bulkId=long)
    assert Ants(app.test_client()).post(body).status_code == 200
    assert len(of(app).find(message_id=long)) == 1
    assert len(of(app).find(bulk_id=long)) == 1
    found = of(app).get(long, NUMBER)
    assert found is not None
    assert found.sender == long


@pytest.mark.parametrize("odd", ["a\0b", "a\ud800b"])
def test_identifiers_that_no_database_can_store(make_inbox_app: MakeApp, odd: str) -> None:
    """They are found as they were sent."""
    app = make_inbox_app(ledger=True)
    said: dict[str, Any] = {"message_id": odd, "bulk_id": odd, "reference": odd}
    of(app).expect(to=NUMBER, **said)
    of(app).expect(message_id="x", to=NUMBER, reference="x" * 200)
    body = callback(detail(messageId=odd, to=NUMBER), bulkId=odd)
    assert Ants(app.test_client()).post(body).status_code == 200
    found = entry(app, odd)
    assert found.state is DeliveryState.DELIVERED
    assert of(app).find(**said) == [found]
    assert of(app).find(to=odd) == of(app).find(reference="x" * 201) == []
    inbox = bound_inbox(app)
    assert len(inbox.history(odd, NUMBER)) == len(inbox.of_bulk(odd)) == 1
    assert inbox.redeliver(bulk_id=odd).pending == 1
    assert inbox.troubles(failed_by=odd, error_key=odd) == []


def test_a_blank_more_is_another_identifier(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True)
    for one in ("a", "a "):
        of(app).expect(message_id=one, to=NUMBER, bulk_id=one, reference=one)
        body = callback(detail(messageId=one, to=NUMBER), bulkId=one)
        assert Ants(app.test_client()).post(body).status_code == 200
    for one in ("a", "a "):
        asked: list[dict[str, Any]] = [{"message_id": one}, {"bulk_id": one}, {"reference": one}]
        for each in asked:
            assert [found.message_id for found in of(app).find(**each)] == [one]
        assert len(bound_inbox(app).of_bulk(one)) == 1
        assert bound_inbox(app).redeliver(bulk_id=one).pending == 1
    # Whichever comes first.
    for message_id, (expected, said) in {"b": ("a", "a "), "c": ("a ", "a")}.items():
        of(app).expect(message_id=message_id, to=NUMBER, bulk_id=expected)
        body = callback(detail(messageId=message_id, to=NUMBER), bulkId=said)
        assert Ants(app.test_client()).post(body).status_code == 200
        assert entry(app, message_id).bulk_id == "a "


def test_it_is_right_the_moment_ants_has_its_answer(make_inbox_app: MakeApp) -> None:
    """Whatever subscribers do."""
    app = make_inbox_app(ledger=True)
    seen = []

    def subscriber(app: Flask, message: MessageReport, **extra: Any) -> None:
        seen.append(entry(app).state)
        raise ZeroDivisionError

    message_reported.connect(subscriber, sender=app)
    reported(app, "DELIVERED")
    assert seen == ["DELIVERED"]


def test_in_the_hosts_own_transaction(inbox_url: str) -> None:
    db = SQLAlchemy()
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(session=db.session, ledger=True)),
        SQLALCHEMY_DATABASE_URI=inbox_url,
    )
    db.init_app(app)
    bound_inbox(app).database.create_tables()
    with app.app_context():
        of(app).expect("1", NUMBER)
        db.session.rollback()
        assert of(app).find() == []
        of(app).expect("1", NUMBER)
        db.session.commit()
        assert entry(app).state is None
    calls: list[MessageReport] = []

    def subscriber(app: Flask, message: MessageReport, **extra: Any) -> None:
        of(app).expect(f"follow-up {len(calls)}", NUMBER)
        calls.append(message)
        if len(calls) == 1:
            raise ZeroDivisionError

    message_reported.connect(subscriber, sender=app)
    reported(app, "DELIVERED")
    with bound_inbox(app).database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_messages SET due_at = 0")
    drain(app)
    assert {one.message_id for one in of(app).find(to=NUMBER)} == {"1", "follow-up 1"}
    with app.app_context():
        db.engine.dispose()


def test_the_number_goes_and_the_key_stays(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, keep_days=1, keep_bodies_days=1)
    reported(app, "DELIVERED")
    reported(app, "PENDING", messageId="2")
    old = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.execute(update(table).values(changed_at=old))
    assert inbox.retain().numbers == 1
    assert inbox.retain().numbers == 0
    assert [one.message_id for one in of(app).find(to=NUMBER)] == ["2"]
    assert entry(app).to is None
    assert entry(app).state is DeliveryState.DELIVERED
    assert NUMBER in json.dumps([one.to for one in of(app).find()])


def test_all_numbers_of_one_callback_go(make_inbox_app: MakeApp) -> None:
    """They became final at the same moment, and are more than are forgotten at a time."""
    app = make_inbox_app(ledger=True, keep_days=1)
    Ants(app.test_client()).post(many(700, to=NUMBER))
    old = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    with bound_inbox(app).database.begin() as connection:
        connection.execute(update(table).values(changed_at=old))
    assert bound_inbox(app).retain().numbers == 700
    assert of(app).find(to=NUMBER) == []
    assert bound_inbox(app).retain().numbers == 0


def test_erase(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True)
    reported(app, "DELIVERED")
    Ants(app.test_client()).post(callback(detail(to="66899999999", messageId="2")))
    of(app).expect("3", NUMBER)
    inbox = bound_inbox(app)
    assert inbox.erase("0812345678", dry_run=True).numbers == 2
    assert len(of(app).find(to=NUMBER)) == 2
    said = run(app, "erase", "081 234 5678", "--dry-run")
    assert "ants_dr: 2 numbers in the ledger would be erased" in said
    assert inbox.erase("0812345678").numbers == 2
    assert of(app).find(to=NUMBER) == []
    assert [one.to for one in of(app).find()].count(None) == 2


def test_the_commands(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(ledger=True, eager=False)
    reported(app, "PENDING")
    text = run(app, "find", "--to", "081 234 5678")
    assert "state=PENDING" in text
    assert NUMBER not in text
    (row,) = json.loads(
        run(app, "find", "--state", "pending", "--since", "1h", "--values", "--json")
    )
    assert (row["to"], row["message"], row["reports"]) == (NUMBER, "1", 1)
    assert run(app, "find", "--message", "2") == "no such message\n"
    assert run(app, "overdue") == "nothing is overdue\n"
    with bound_inbox(app).database.begin() as connection:
        connection.execute(update(table).values(open_since=table.c.open_since - 3600))
    assert "to=***5678" in run(app, "overdue", "--after", "30m")


REPORTS = st.lists(
    st.tuples(
        st.sampled_from([*DeliveryState, "brand new"]),
        st.one_of(st.none(), st.integers(0, 3)),  # the second in which it was done
        st.sampled_from([None, "first", "second"]),  # the bulk
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True, eager=False)),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path_factory.mktemp('ledger')}/inbox.sqlite3",
    )
    yield app
    bound_inbox(app).database.close()


@pytest.mark.slow(reason="hundreds of examples, each with several transactions")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REPORTS, st.booleans(), st.randoms(use_true_random=False))
def test_any_order(
    shared: Flask,
    reports: list[tuple[str, int | None, str | None]],
    is_expected: bool,
    dice: Random,
) -> None:
    """Any order, any repetition, any mix of expecting and reporting gives the same row."""
    client = Ants(shared.test_client())

    def row(message_id: str, events: list[Any]) -> Entry:
        for event in events:
            if event is None:
                at = datetime(2026, 1, 1, tzinfo=UTC)
                of(shared).expect(
                    message_id, NUMBER, reference="order", sent_at=at, bulk_id="first"
                )
                continue
            name, second, bulk_id = event
            done = {} if second is None else {"doneDate": DONE.format(second)}
            one = detail(messageId=message_id, to=NUMBER, status={"name": name}, **done)
            assert client.post(callback(one, bulkId=bulk_id)).status_code == 200
        return entry(shared, message_id)

    events: list[Any] = [*reports, *([None] if is_expected else [])]
    other = [*events, *dice.choices(events, k=3)]
    dice.shuffle(other)
    number = next(IDS)
    first, second = row(f"a{number}", events), row(f"b{number}", other)
    for field in (
        "state",
        "done_date",
        "bulk_id",
        "reference",
        "expected_at",
        "reports",
        "is_final",
    ):
        assert getattr(first, field) == getattr(second, field), field
    finals = [
        (second or -1, name)
        for name, second, _ in reports
        if name in set(DeliveryState) and DeliveryState(name).is_final
    ]
    if finals:
        assert first.is_final
        latest = max(second for second, _ in finals)
        assert first.state in {name for second, name in finals if second == latest}
    else:
        assert not first.is_final


IDS = iter(range(1_000_000))
