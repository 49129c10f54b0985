"""What is kept, and for how long: messages, bodies, the quarantine; and what is erased before."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy import update

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import message_reported
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import encode
from flask_ants_dr.errors import CallbackError
from flask_ants_dr.errors import InboxUnavailable
from flask_ants_dr.inbox import Erased
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import Redelivered
from flask_ants_dr.inbox import Replayed
from flask_ants_dr.inbox import Retained
from flask_ants_dr.inbox import bound_inboxes
from flask_ants_dr.inbox import callbacks as stored
from flask_ants_dr.inbox import retention
from flask_ants_dr.inbox import tasks as turns
from flask_ants_dr.inbox.erasure import Number
from flask_ants_dr.inbox.tables import State
from flask_ants_dr.inbox.tables import callbacks
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.inbox.tables import tasks
from flask_ants_dr.inbox.worker import work
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import RenamedSchema
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import make_older
from kit import many
from kit import rows
from servers import wait_for

NUMBER = "66812345678"
OTHER = "66898887777"


def bodies(app: Flask) -> list[bytes]:
    with bound_inbox(app).database.begin(writes=False) as connection:
        chosen = select(callbacks.c.body).order_by(callbacks.c.id)
        return [bytes(body) for body in connection.scalars(chosen)]


def ids(app: Flask, *states: State) -> list[int]:
    with bound_inbox(app).database.begin(writes=False) as connection:
        chosen = select(messages.c.id).where(messages.c.state.in_(states or list(State)))
        return list(connection.scalars(chosen.order_by(messages.c.position)))


def fail_for(app: Flask, message_id: str) -> Callable[..., None]:
    def subscriber(sender: Flask, message: Any, **extra: Any) -> None:
        if message.message_id == message_id:
            raise LookupError("no such order")

    message_reported.connect(subscriber, sender=app)
    return subscriber


def test_bodies_go_first_and_then_the_messages(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    ants = Ants(app.test_client())
    url = "/sms/callback?order=41"
    ants.post(many(3, to=NUMBER), url=url)
    inbox = bound_inbox(app)
    make_older(app, 6.9)
    assert inbox.retain() == Retained()
    make_older(app, 0.2)
    assert inbox.retain() == Retained(bodies=1)
    assert bodies(app) == [b""]
    with inbox.database.begin(writes=False) as connection:
        row = connection.execute(select(callbacks)).one()
    assert (row.url_variables, row.query) == ("{}", "{}")
    assert inbox.retain() == Retained()
    # A repetition is still known.
    heard.calls.clear()
    assert ants.post(many(3, to=NUMBER), url=url).status_code == 200
    assert heard.calls == []
    assert rows(app) == 3
    assert rows(app, "callbacks") == 1
    make_older(app, 23)
    assert inbox.purge() == 3
    assert rows(app) == rows(app, "callbacks") == 0
    ants.post(many(3, to=NUMBER), url=url)
    assert len(heard.messages) == 3


def test_a_body_stays_as_long_after_a_redelivery(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(many(2))
    make_older(app, 8)
    inbox = bound_inbox(app)
    assert inbox.redeliver(ids(app)[:1]).pending == 1
    drain(app)
    assert inbox.retain() == Retained()
    make_older(app, 8)
    assert inbox.retain() == Retained(bodies=1)


def test_whoever_is_not_due_waits_for_no_writer(make_inbox_app: MakeApp) -> None:
    inbox = bound_inbox(make_inbox_app(timeout=1))
    assert retention.is_due(inbox)
    with inbox.database.begin() as connection:  # on SQLite that locks it
        if not inbox.database.is_sqlite:
            connection.execute(update(tasks).values(state=""))
        assert not retention.is_due(inbox)


def test_what_is_not_done_stays(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    subscriber = fail_for(app, "m1")
    ants = Ants(app.test_client())
    ants.post(many(2))
    ants.post(callback(detail(messageId="m2"), detail(messageId="")))  # one is in quarantine
    with bound_inbox(app).database.begin() as connection:
        found = stored.find(connection, 1)
        assert found
        stored.insert(connection, found)  # of nobody
    deferred = make_inbox_app(eager=False)
    Ants(deferred.test_client()).post(callback(detail(messageId="m3")))
    assert counts(app) == {"pending": 1, "done": 2, "dead": 1}
    inbox = bound_inbox(app)
    make_older(app, 8)
    assert inbox.retain() == Retained()
    assert [bool(body) for body in bodies(app)] == [True, True, True]
    assert rows(app, "callbacks") == 3  # without the one that was nobody's
    make_older(app, 30)
    assert inbox.retain() == Retained(deleted=2, quarantined=1)
    assert counts(app) == {"pending": 1, "done": 0, "dead": 1}
    assert rows(app, "callbacks") == 2
    assert inbox.retry() == 1
    drain(app)
    del subscriber


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"keep_days": None, "keep_bodies_days": None}, Retained()),
        ({"keep_days": None}, Retained(bodies=3)),
        ({"keep_bodies_days": None}, Retained(deleted=3)),
        ({"keep_days": 40.0, "keep_bodies_days": 32.0}, Retained()),
        ({"keep_days": 32.0, "keep_bodies_days": 30.5}, Retained(bodies=3)),
    ],
)
def test_for_how_long_is_configured(
    make_inbox_app: MakeApp, keep: dict[str, Any], expected: Retained
) -> None:
    app = make_inbox_app(**keep)
    for number in range(3):
        Ants(app.test_client()).post(callback(detail(messageId=str(number))))
    make_older(app, 31)
    assert bound_inbox(app).retain() == expected


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_more_than_one_page_in_many_pieces(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAGE", 7)
    monkeypatch.setattr(retention, "_SIZES_AT_ONCE", 3)
    monkeypatch.setattr(retention, "_BYTES", 200)
    monkeypatch.setattr(retention, "_LARGEST_SIZE", 2)
    monkeypatch.setattr(retention, "_LEAST_ROWS", 2)
    app = make_inbox_app()
    ants = Ants(app.test_client())
    for number in range(30):
        ants.post(callback(detail(messageId=str(number), to=NUMBER if number % 2 else OTHER)))
    inbox = bound_inbox(app)
    parts: list[float] = []
    assert inbox.erase(NUMBER, progress=parts.append) == Erased(details=15)
    assert parts == sorted(set(parts))
    assert parts[-1] == 1
    make_older(app, 8)
    assert inbox.retain() == Retained(bodies=30)
    make_older(app, 30)
    assert inbox.retain(stop=lambda: rows(app) <= 20).deleted == 10
    assert inbox.retain() == Retained(deleted=20)
    assert rows(app, "callbacks") == 0


def test_once_an_hour_for_all_processes(make_inbox_app: MakeApp) -> None:
    apps = [make_inbox_app() for _ in range(4)]
    Ants(apps[0].test_client()).post(many(1))
    make_older(apps[0], 31)
    inboxes = [bound_inbox(app) for app in apps]
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(retention.is_due, inboxes))
    assert sorted(taken) == [False, False, False, True]
    # Whoever took it died: it is due in an hour.
    assert inboxes[0].retain(if_due=True) == Retained()
    with inboxes[0].database.begin() as connection:
        (row,) = connection.execute(select(tasks))
        assert (row.source, row.name, row.state) == ("ants_dr", "retention", None)
        assert 3500 < row.due_at - time.time() <= 3600
        connection.execute(update(tasks).values(due_at=time.time() - 1))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda inbox: inbox.retain(if_due=True).deleted, inboxes))
    assert sorted(found) == [0, 0, 0, 1]


@pytest.mark.parametrize("inbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_turn_that_two_take_at_once(make_inbox_app: MakeApp) -> None:
    """Both find no row; the second one's is there already."""
    database = bound_inbox(make_inbox_app()).database
    entered = threading.Barrier(2, timeout=10)

    def take(source: str) -> bool:
        with database.begin() as connection:
            assert turns.due_at(connection, source, "t") == 0

            def wait(*_: Any) -> None:
                with suppress(threading.BrokenBarrierError):
                    entered.wait()

            event.listen(connection, "savepoint", wait)
            return turns.take_turn(connection, source, "t", now=1.0, next_at=2.0)

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(take, ["a", "a"])) == [False, True]


def test_a_worker_does_it(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(many(2))
    make_older(app, 31)
    stop = Event()
    inboxes = [bound_inbox(app)]
    work(inboxes, concurrency=1, poll=1, once=True, stop=stop)
    assert rows(app) == 0
    Ants(app.test_client()).post(many(2))
    make_older(app, 31)
    work(inboxes, concurrency=1, poll=1, once=True, stop=stop)
    assert rows(app) == 2  # not again within the hour
    with inboxes[0].database.begin() as connection:
        connection.execute(update(tasks).values(due_at=0))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, inboxes, concurrency=1, poll=1, once=False, stop=stop)
        try:
            wait_for(lambda: rows(app) == 0)
        finally:
            stop.set()
        assert running.result() is False


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_a_database_that_fails_ends_no_worker(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(many(2))
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.execute(text("DROP TABLE ants_dr_tasks"))
    with pytest.raises(InboxUnavailable):
        inbox.retain(if_due=True)
    work([inbox], concurrency=1, poll=1, once=True, stop=Event())
    assert "no such table: ants_dr_tasks" in caplog.text


def test_callbacks_come_in_while_others_go(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    ants = Ants(app.test_client())
    for number in range(10):
        ants.post(many(200, doneDate=f"2026-01-{number + 1:02}T00:00:00"))
    drain(app)
    make_older(app, 31)
    other = make_inbox_app(eager=False)
    gone: list[Retained] = []
    sweep = threading.Thread(target=lambda: gone.append(bound_inbox(other).retain()))
    sweep.start()
    statuses = []
    number = 0
    while sweep.is_alive() or number < 5:
        number += 1
        statuses.append(ants.post(many(100, callbackData=str(number), to=str(number))).status_code)
    sweep.join()
    assert set(statuses) == {200}
    assert gone[0].deleted == 2000
    assert rows(app) == 100 * number


# Redelivery.


def test_what_is_erased_cannot_be_redelivered(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    ants = Ants(app.test_client())
    ants.post(many(3, to=OTHER))
    make_older(app, 8)
    ants.post(callback(detail(to=NUMBER), detail(to=OTHER), bulkId="c"))
    inbox = bound_inbox(app)
    assert inbox.retain() == Retained(bodies=1)
    assert inbox.erase(NUMBER) == Erased(details=1)
    assert inbox.redeliver(ids(app)) == Redelivered(pending=1, erased=4)
    assert inbox.redeliver(bulk_id="c") == Redelivered(pending=0, erased=1)
    heard.calls.clear()
    drain(app)
    assert [one.to for one in heard.messages] == [OTHER]


def test_redelivery_of_a_bulk(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    ants = Ants(app.test_client())
    long = "l" * 300_000
    for bulk_id in ("campaign-1", "campaign-2", None, long):
        ants.post(callback(detail(), detail(messageId="2"), bulkId=bulk_id))
    inbox = bound_inbox(app)
    heard.calls.clear()
    assert inbox.redeliver(bulk_id="campaign-1").pending == 2
    assert inbox.redeliver(bulk_id="nobody's").pending == 0
    since = datetime.now(UTC) - timedelta(hours=1)
    assert inbox.redeliver(bulk_id=long, since=since).pending == 2
    drain(app)
    assert sorted(one["report"].bulk_id for one in heard.arguments("message_reported")) == [
        *2 * ["campaign-1"],
        *2 * [long],
    ]


def test_the_bulk_of_what_was_in_quarantine(make_inbox_app: MakeApp) -> None:
    before = make_inbox_app()
    Ants(before.test_client()).post(
        {"bulkId": "q", "reports": [{"id": "1", "status": {"name": "DELIVERED"}}]}
    )
    after = make_inbox_app(schema=RenamedSchema)
    inbox = bound_inbox(after)
    inbox.replay(inbox.quarantined()[0].callback_id)
    assert inbox.redeliver(bulk_id="q").pending == 1


def test_redelivery_waits_for_what_erases(make_inbox_app: MakeApp) -> None:
    """A message is never pending when its body is erased."""
    app = make_inbox_app()
    for number in range(40):
        Ants(app.test_client()).post(callback(detail(messageId=str(number))))
    make_older(app, 8)
    inbox = bound_inbox(app)
    with ThreadPoolExecutor(2) as threads:
        erasing = threads.submit(inbox.retain)
        again = inbox.redeliver(since=datetime.fromtimestamp(0, UTC))
        bodies_ = erasing.result().bodies
    assert again.pending + again.erased == 40
    assert bodies_ == 40 - again.pending
    assert drain(app) == again.pending
    assert counts(app) == {"pending": 0, "done": 40, "dead": 0}


# Erasing a number.


@pytest.mark.parametrize(
    ("format", "encoding"), [("json", "utf-8"), ("xml", "utf-16"), ("xml", "windows-874")]
)
def test_one_number_of_500_in_quarantine_is_erased(
    make_inbox_app: MakeApp, format: Any, encoding: str
) -> None:
    """And the 499 others can be replayed."""
    before = make_inbox_app()
    details = [
        {
            "id": f"m{number}",
            "to": NUMBER if number == 250 else f"66{number:09}",
            "text": "สวัสดี",
            "status": {"name": "DELIVERED"},
        }
        for number in range(500)
    ]
    is_thai = encoding == "windows-874"
    written: Encoding = "utf-16" if encoding == "utf-16" else "utf-8"
    body, content_type = encode(callback(*details), format, written)
    if is_thai:
        body = body.decode().replace("utf-8", encoding, 1).encode("cp874")
    assert Ants(before.test_client()).post(body, content_type).status_code == 422
    after = make_inbox_app(schema=RenamedSchema)
    heard = Heard(after)
    inbox = bound_inbox(after)
    assert inbox.erase("081-234-5678") == Erased(details=1)
    (entry,) = inbox.quarantined()
    assert inbox.replay(entry.callback_id) == Replayed(taken=499, refused=0)
    assert inbox.quarantined() == []
    expected = [(one["id"], one["to"], one["text"]) for one in details if one["to"] != NUMBER]
    assert [(one.message_id, one.to, one.text) for one in heard.messages] == expected


def test_done_and_dead_ones_are_erased_and_known(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    subscriber = fail_for(app, "dead")
    heard = Heard(app)
    body = callback(
        detail(to=NUMBER, text="one"),
        detail(messageId="dead", to="0812345678", text="two"),
        detail(messageId="other", to=OTHER, text="three"),
        detail(messageId="", to=NUMBER, text="four"),
    )
    ants = Ants(app.test_client())
    ants.post(body)
    inbox = bound_inbox(app)
    assert inbox.erase(NUMBER, dry_run=True) == Erased(details=3)
    assert counts(app) == {"pending": 0, "done": 2, "dead": 1}
    assert b"one" in bodies(app)[0]
    assert inbox.erase(NUMBER) == Erased(details=3)
    assert counts(app) == {"pending": 0, "done": 3, "dead": 0}
    (left,) = bodies(app)
    assert [word in left for word in (b"one", b"two", b"three", b"four", b"81")] == [
        *(False, False, True, False, False)
    ]
    assert inbox.erase(NUMBER) == Erased()
    heard.calls.clear()
    ants.post(body)
    assert heard.messages == []
    assert rows(app, "callbacks") == rows(app, "quarantine") == 1
    assert inbox.redeliver(ids(app)) == Redelivered(pending=1, erased=2)
    drain(app)
    assert [one.to for one in heard.messages] == [OTHER]
    del subscriber


def test_what_is_pending_is_left(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    ants = Ants(app.test_client())
    # Of the same message twice, one can go.
    ants.post(
        callback(
            *(detail(messageId=one, to=NUMBER) for one in ("done", "waiting", "waiting")),
            detail(to=OTHER),
        )
    )
    inbox = bound_inbox(app)
    by_position = ids(app)
    waiting = by_position[1]
    inbox.take([by_position[0]])
    assert inbox.erase(NUMBER, dry_run=True) == Erased(details=2, pending=(waiting,))
    assert inbox.erase(NUMBER) == Erased(details=2, pending=(waiting,))
    heard = Heard(app)
    drain(app)
    assert [one.message_id for one in heard.messages] == ["waiting", "1"]
    assert inbox.erase(NUMBER) == Erased(details=1)
    assert b"81234" not in bodies(app)[0]


@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_many_of_one_number_are_left_together(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(many(60, to=NUMBER))
    inbox = bound_inbox(app)
    inbox.take(ids(app)[:30])
    assert inbox.erase(NUMBER) == Erased(pending=tuple(sorted(ids(app)[30:])))


def test_what_the_configuration_in_force_does_not_find_is_left(make_inbox_app: MakeApp) -> None:
    before = make_inbox_app(schema=RenamedSchema, eager=False)
    Ants(before.test_client()).post(
        {"reports": [{"id": "1", "to": NUMBER, "status": {"name": "DELIVERED"}}]}
    )
    after = make_inbox_app()
    assert bound_inbox(after).erase(NUMBER) == Erased(pending=tuple(ids(after)))
    drain(before)
    assert bound_inbox(after).erase(NUMBER) == Erased(details=1)


def test_a_body_that_cannot_be_decoded(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    for number in ("+66 81 234-5678", OTHER):
        assert ants.post(f'{{"to": "{number}"').status_code == 400
    inbox = bound_inbox(app)
    assert inbox.erase(NUMBER, dry_run=True) == Erased(bodies=1)
    assert inbox.erase(NUMBER) == Erased(bodies=1)
    first, second = inbox.quarantined()
    assert (first.bytes > 0, second.bytes > 0) == (False, True)
    with pytest.raises(CallbackError) as raised:
        inbox.replay(first.callback_id)
    assert raised.value.detail == "The body has been erased."
    # It is still known.
    ants.post('{"to": "+66 81 234-5678"')
    assert len(inbox.quarantined()) == 2


def test_what_changes_meanwhile_is_looked_at_again(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(callback(detail(to=NUMBER), detail(messageId="2", to=OTHER)))
    inbox = bound_inbox(app)
    changes: list[Callable[[], object]] = [
        lambda: inbox.erase(OTHER),
        lambda: inbox.redeliver(ids(app)),
    ]
    plan = retention._plan

    def slow_plan(*arguments: Any) -> Any:
        planned = plan(*arguments)
        if changes:
            change, *later = changes
            changes.clear()  # of which the change itself is to see nothing
            change()
            changes.extend(later)
        return planned

    monkeypatch.setattr(retention, "_plan", slow_plan)
    assert inbox.erase(NUMBER) == Erased(pending=(ids(app)[0],))
    assert counts(app)["pending"] == 1
    assert b"88877" not in bodies(app)[0]


def test_a_callback_that_goes_meanwhile(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post(callback(detail(to=NUMBER)))
    inbox = bound_inbox(app)
    assert retention._erase_in(inbox, 4711, Number(NUMBER), dry_run=False) == Erased()


def test_no_other_sources_callbacks(inbox_url: str, make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    other = make_app(
        DeliveryReportBlueprint("other", inbox=Inbox(keep_days=0.5, keep_bodies_days=0.5)),
        ANTS_DR_INBOX_URL=inbox_url,
    )
    Ants(app.test_client()).post(callback(detail(to=NUMBER), bulkId="b"))
    make_older(app, 1)
    (inbox,) = bound_inboxes(other)
    assert inbox.retain() == Retained()
    assert inbox.erase(NUMBER) == Erased()
    assert inbox.redeliver(bulk_id="b") == Redelivered(pending=0, erased=0)
    inbox.database.close()


def test_show_reads_one_entry(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    for number in range(3):
        Ants(app.test_client()).post(f"{{ {number}")
    inbox = bound_inbox(app)
    inbox.status()
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT ants_dr"):
            statements.append(statement)

    event.listen(inbox.database.open(), "before_cursor_execute", note)
    expected = inbox.quarantined()[1]
    statements.clear()
    entry, envelope = inbox.show(expected.id)
    assert entry == expected
    assert envelope.body == b"{ 1"
    assert envelope.source == "ants_dr"
    assert len(statements) == 1
    with pytest.raises(LookupError, match="There is no entry"):
        inbox.show(4711)


def test_nothing_of_a_number_is_said(
    make_inbox_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    app = make_inbox_app()
    Ants(app.test_client()).post(json.dumps(callback(detail(to=NUMBER))))
    inbox = bound_inbox(app)
    assert NUMBER not in repr(inbox.erase("0812345678"))
    with pytest.raises(ValueError, match="no phone number") as raised:
        inbox.erase("planted")
    assert "planted" not in str(raised.value)
    assert "81234" not in caplog.text
    with pytest.raises(ValueError, match="Give older_than"):
        inbox.purge(dead=True)
