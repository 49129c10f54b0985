"""What subscribers failed on, in groups, and what an operator does about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flask_ants_dr import MessageReport
from flask_ants_dr import RetryLater
from flask_ants_dr import message_reported
from flask_ants_dr.inbox import BoundInbox
from flask_ants_dr.inbox import State
from flask_ants_dr.inbox.retention import DAY
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import drain

MakeApp = Callable[..., Flask]


def some(count: int, start: int = 0) -> dict[str, Any]:
    return callback(*[detail(messageId=str(start + number)) for number in range(count)])


def query(app: Flask, statement: str) -> Any:
    """The one value that the database itself answers."""
    with bound_inbox(app).database.begin() as connection:
        return connection.scalar(text(statement))


def fails(app: Flask, message: MessageReport, **extra: Any) -> None:
    """Fails in one of two lines."""
    if int(message.message_id) % 2:
        raise LookupError(f"no order for {message.to}")
    raise ConnectionError("the billing system does not answer")


def works(app: Flask, **extra: Any) -> None:
    """Does nothing."""


def make_failing(make_inbox_app: MakeApp, messages: int = 5, **options: Any) -> Flask:
    """An application whose messages have all failed."""
    app = make_inbox_app(backoff=0.0, **options)
    for subscriber in (fails, works):
        message_reported.connect(subscriber, sender=app)
    Ants(app.test_client()).post(some(messages))
    return app


def test_dead_messages_are_grouped_by_error_and_subscriber(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, max_attempts=1)
    before = datetime.now(UTC)
    first, second = bound_inbox(app).troubles()
    assert (first.count, second.count) == (3, 2)
    assert first.failed_by == second.failed_by == f"{__name__}.fails"
    assert first.state is second.state is State.DEAD
    assert first.error == "ConnectionError: the billing system does not answer"
    assert second.error == "LookupError: no order for None"
    assert first.error_key != second.error_key
    for trouble, line in ((first, "raise ConnectionError"), (second, "raise LookupError")):
        assert trouble.trace is not None
        assert line in trouble.trace
        assert trouble.since is not None
        assert trouble.latest is not None
        assert trouble.since <= trouble.latest <= before
        assert trouble.next_attempt is None


def test_what_waits_for_another_attempt_is_grouped_too(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, messages=2, max_attempts=9)
    inbox = bound_inbox(app)
    first, second = inbox.troubles()
    assert first.state is second.state is State.WAITING
    assert (first.count, second.count) == (1, 1)
    for trouble in (first, second):
        assert trouble.next_attempt is not None
        assert trouble.latest is None
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_errors SET first_at = 86400")
    assert {one.since for one in inbox.troubles()} == {datetime(1970, 1, 2, tzinfo=UTC)}


def test_those_of_a_subscriber_that_rests_are_a_group(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, messages=12, max_attempts=9)
    inbox = bound_inbox(app)
    assert inbox.breaker.rests(f"{__name__}.fails")
    (rests,) = [one for one in inbox.troubles() if not one.error_key]
    assert (rests.state, rests.failed_by) == (State.WAITING, f"{__name__}.fails")
    for one in inbox.troubles():
        assert inbox.troubles(failed_by=one.failed_by, error_key=one.error_key) == [one]
    assert inbox.troubles(state=State.DEAD) == inbox.troubles(failed_by="another") == []
    assert sum(one.count for one in inbox.troubles()) == 12
    group: dict[str, Any] = {"failed_by": rests.failed_by, "error_key": "", "state": State.WAITING}
    assert len(inbox.failed(**group)) == rests.count == 7
    assert inbox.retry([inbox.failed(**group)[0].id], **group) == 1
    assert inbox.discard(**group) == 6
    assert sum(one.count for one in inbox.troubles()) == 5


def test_one_that_asks_for_later_is_no_error(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()

    def waits(sender: Flask, **extra: Any) -> None:
        raise RetryLater(60)

    message_reported.connect(waits, sender=app)
    Ants(app.test_client()).post(some(1))
    (trouble,) = bound_inbox(app).troubles()
    assert (trouble.count, trouble.error, trouble.error_key, trouble.trace) == (1, "", "", None)
    assert query(app, "SELECT failures FROM ants_dr_messages") is None


def test_one_group_is_retried(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, max_attempts=1)
    inbox = bound_inbox(app)
    first, second = inbox.troubles()
    message_reported.disconnect(fails, sender=app)
    assert inbox.retry(failed_by=first.failed_by, error_key=first.error_key) == 3
    drain(app)
    assert inbox.troubles() == [second]
    assert inbox.retry(failed_by="another") == 0


def test_one_group_is_discarded(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, max_attempts=1)
    inbox = bound_inbox(app)
    first, second = inbox.troubles()
    assert inbox.discard(failed_by=second.failed_by, error_key=second.error_key) == 2
    assert inbox.troubles() == [first]
    assert inbox.status()["dead"] == 3
    assert query(app, "SELECT count(*) FROM ants_dr_messages WHERE state = 'done'") == 2
    # A repetition is known.
    assert Ants(app.test_client()).post(some(5)).status_code == 200
    assert inbox.troubles() == [first]
    assert inbox.discard([one.id for one in inbox.dead(2)]) == 2
    assert inbox.status()["dead"] == 1


@pytest.mark.parametrize("max_attempts", [1, 9])
def test_what_was_discarded_is_told_from_what_all_have_had(
    make_inbox_app: MakeApp, max_attempts: int
) -> None:
    app = make_failing(make_inbox_app, messages=1, max_attempts=max_attempts)
    inbox = bound_inbox(app)
    (trouble,) = inbox.troubles()
    assert inbox.discard(state=trouble.state) == 1
    (report,) = inbox.history("0", None)
    assert (report.state, report.failed_by) == (State.DONE, trouble.failed_by)
    assert report.had_by == (f"{__name__}.works",)
    assert inbox.troubles() == inbox.status()["retrying"] == []
    message_reported.disconnect(fails, sender=app)
    assert inbox.redeliver([report.id]).pending == 1
    (report,) = inbox.history("0", None)
    assert (report.state, report.failed_by) == (State.WAITING, None)
    drain(app)
    (report,) = inbox.history("0", None)
    assert (report.state, report.failed_by) == (State.DONE, None)


def test_what_was_discarded_stays_so_when_it_is_erased(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    message_reported.connect(fails, sender=app)
    Ants(app.test_client()).post(callback(detail(messageId="0", to="66812345678")))
    inbox = bound_inbox(app)
    assert inbox.discard() == 1
    assert inbox.erase("081 234 5678").details == 1
    (report,) = inbox.history("0", "66812345678")
    assert (report.message, report.failed_by) == (None, f"{__name__}.fails")


@pytest.mark.parametrize("died", [False, True])
def test_what_was_dead_and_is_erased_is_told_from_what_all_have_had(
    make_inbox_app: MakeApp, died: bool
) -> None:
    app = make_inbox_app(max_attempts=1, eager=not died)
    message_reported.connect(fails, sender=app)
    Ants(app.test_client()).post(callback(detail(messageId="0", to="66812345678")))
    inbox = bound_inbox(app)
    if died:
        _lose_worker(inbox)
    assert inbox.status()["dead"] == 1
    assert inbox.erase("081 234 5678").details == 1
    (report,) = inbox.history("0", "66812345678")
    assert (report.state, report.message) == (State.DONE, None)
    assert report.failed_by == ("" if died else f"{__name__}.fails")


def _lose_worker(inbox: BoundInbox) -> None:
    """As if the one that had claimed all messages had died for the last time."""
    with inbox.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE ants_dr_messages SET state = 'claimed', attempts = 1, due_at = 1"
        )
    inbox.take()


def test_what_its_process_did_not_survive_can_be_discarded(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, max_attempts=1)
    Ants(app.test_client()).post(some(1))
    inbox = bound_inbox(app)
    _lose_worker(inbox)
    assert [one.failed_by for one in inbox.troubles()] == [""]
    assert inbox.discard() == 1
    (report,) = inbox.history("0", None)
    assert report.failed_by == ""


def test_what_waits_is_hastened_or_discarded(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(backoff=3600.0)
    message_reported.connect(fails, sender=app)
    Ants(app.test_client()).post(some(4))
    inbox = bound_inbox(app)
    message_reported.disconnect(fails, sender=app)
    first, second = inbox.troubles()
    assert inbox.retry(error_key=first.error_key, state=State.WAITING) == 2
    drain(app)
    assert inbox.troubles() == [second]
    assert inbox.discard(state=State.WAITING) == 2
    assert inbox.troubles() == []
    assert inbox.status()["pending"] == 0


def test_pages_of_dead_messages_stay_still(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, messages=4, max_attempts=1)
    inbox = bound_inbox(app)
    whole = inbox.dead()
    assert len(whole) == 4
    page = inbox.dead(2)
    Ants(app.test_client()).post(some(1, start=100))  # which comes in front
    assert len(inbox.dead()) == 5
    found = page
    while page:
        page = inbox.dead(2, cursor=page[-1].cursor)
        found = [*found, *page]
    assert found == whole
    key = inbox.troubles()[0].error_key
    assert {one.error_key for one in inbox.dead(error_key=key)} == {key}


@pytest.mark.parametrize("cursor", ["", "x", "1", "1-x", "nan-1", "1--1", f"1-{2**63}", "-"])
def test_no_cursor(cursor: str, make_inbox_app: MakeApp) -> None:
    inbox = bound_inbox(make_inbox_app())
    for read in (inbox.dead, inbox.quarantined):
        with pytest.raises(ValueError, match="cursor must be"):
            read(cursor=cursor)


@pytest.mark.parametrize("state", [State.DEAD, State.WAITING])
def test_the_messages_that_failed_in_pages(make_inbox_app: MakeApp, state: State) -> None:
    app = make_failing(make_inbox_app, max_attempts=1 if state is State.DEAD else 9)
    inbox = bound_inbox(app)
    (_, odd) = inbox.troubles()
    assert odd.state is state
    found = []
    cursor = None
    while page := inbox.failed(
        1, state=state, failed_by=odd.failed_by, error_key=odd.error_key, cursor=cursor
    ):
        found += page
        cursor = page[-1].cursor
    assert {one.message and one.message.message_id for one in found} == {"1", "3"}
    assert len(found) == 2
    for one in found:
        assert one.state is state
        assert [failure.error for failure in one.failures] == ["LookupError: no order for None"]
    other = State.WAITING if state is State.DEAD else State.DEAD
    assert inbox.failed(state=other) == []
    assert len(inbox.failed(state=state)) == 5


def test_those_that_wait_stay_where_they_are(make_inbox_app: MakeApp) -> None:
    app = make_failing(make_inbox_app, messages=4, max_attempts=9)
    inbox = bound_inbox(app)
    failed = partial(inbox.failed, state=State.WAITING)
    order = [one.id for one in failed()]
    assert order == sorted(order)
    (first,) = failed(1)
    with inbox.database.begin() as connection:  # as attempts do
        connection.exec_driver_sql(
            f"UPDATE ants_dr_messages SET due_at = 9e9 WHERE id = {order[0]}"
        )
        connection.exec_driver_sql(f"UPDATE ants_dr_messages SET due_at = 1 WHERE id = {order[3]}")
    assert [one.id for one in failed()] == order
    assert [one.id for one in failed(cursor=first.cursor)] == order[1:]


def test_the_history_of_a_message(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(backoff=0.0, max_attempts=12)
    fails_first = True

    def works_at_last(sender: Flask, **extra: Any) -> None:
        if fails_first:
            raise LookupError("not yet")

    for subscriber in (works, works_at_last):
        message_reported.connect(subscriber, sender=app)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    to = {"messageId": "m", "to": "66812345678"}
    ants.post({"bulkId": "b", "details": [to | {"status": {"name": "PENDING"}}]})
    (report,) = inbox.history("m", "081 234 5678")
    assert report.message is not None
    assert report.message.status.name == "PENDING"
    assert (report.state, report.attempts, report.bulk_id) == (State.WAITING, 1, "b")
    assert report.had_by == (f"{__name__}.works",)
    (failure,) = report.failures
    assert (failure.attempt, failure.error) == (1, "LookupError: not yet")
    assert failure.subscriber.endswith("works_at_last")
    assert failure.trace is not None
    assert 'raise LookupError("not yet")' in failure.trace
    assert failure.at <= datetime.now(UTC)
    for _ in range(11):
        inbox.breaker.note(failure.subscriber, failed=False)
        inbox.take()
    (report,) = inbox.history("m", "66812345678")
    assert report.state is State.DEAD
    assert [one.attempt for one in report.failures] == list(range(3, 13))
    fails_first = False
    inbox.retry()
    drain(app)
    ants.post({"bulkId": "b", "details": [to | {"status": {"name": "DELIVERED"}}]})
    ants.post({"details": [to | {"to": "66812345679", "status": {"name": "DELIVERED"}}]})
    first, second = inbox.history("m", "66812345678")
    assert (first.state, second.state) == (State.DONE, State.DONE)
    assert (len(first.failures), second.failures) == (10, ())
    assert second.message is not None
    assert second.message.status.name == "DELIVERED"
    assert first.finished_at is not None
    assert "66812345678" not in repr(first)
    assert inbox.history("m", None) == inbox.history("n", "66812345678") == []


def test_the_history_has_unknown_names(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    Ants(app.test_client()).post({"details": [{"messageId": "m", "status": {"name": "NEW"}}]})
    (report,) = bound_inbox(app).history("m", None)
    assert report.message is not None
    assert report.message.status.name == "NEW"


def test_the_reports_of_a_bulk(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post(some(3) | {"bulkId": "x"})
    ants.post(some(2, start=10) | {"bulkId": "x"})
    ants.post(some(2, start=20) | {"bulkId": "y"})
    whole = inbox.of_bulk("x")
    assert len(whole) == 5
    assert {one.bulk_id for one in whole} == {"x"}
    first = inbox.of_bulk("x", limit=2)
    assert first + inbox.of_bulk("x", cursor=first[-1].cursor) == whole


def test_an_erased_body_leaves_a_history_without_messages(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(keep_bodies_days=1 / DAY, keep_days=None)
    Ants(app.test_client()).post({"details": [{"messageId": "m", "status": {"name": "DELIVERED"}}]})
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_messages SET finished_at = 1")
        connection.exec_driver_sql("UPDATE ants_dr_callbacks SET received_at = 1")
    assert inbox.retain().bodies == 1
    (report,) = inbox.history("m", None)
    assert report.message is None
    assert report.state is State.DONE


def test_entries_of_the_quarantine_are_paged_filtered_and_dropped(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    ants.post("not json")
    ants.post({"details": [{}, {"messageId": "m", "status": {"name": "PENDING"}}, {"to": "1"}]})
    newest = inbox.quarantined(newest=True)
    assert [one.position for one in newest] == [2, 0, None]
    assert newest == inbox.quarantined()[::-1]
    first = inbox.quarantined(1, newest=True)
    assert first + inbox.quarantined(newest=True, cursor=first[-1].cursor) == newest
    assert [one.position for one in inbox.quarantined(whole=True)] == [None]
    assert [one.position for one in inbox.quarantined(whole=False)] == [0, 2]
    assert inbox.drop([newest[2].id, 12345]) == 1
    assert query(app, "SELECT count(*) FROM ants_dr_callbacks") == 1
    assert len(inbox.quarantined()) == 2


def test_the_version_changes_with_whatever_happens(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, max_attempts=1, backoff=0.0, ledger=True)
    ants, inbox = Ants(app.test_client()), bound_inbox(app)
    seen = [inbox.version()]

    def is_new() -> bool:
        assert inbox.version() == inbox.version()
        seen.append(inbox.version())
        return seen[-1] not in seen[:-1]

    ants.post(some(1))
    assert is_new()
    drain(app)
    assert is_new()
    ants.post("not json")
    assert is_new()
    message_reported.connect(fails, sender=app)
    ants.post(some(1, start=5))
    assert is_new()
    drain(app)
    assert is_new()
    inbox.ledger.expect("x", "0812345678")
    assert is_new()


def test_where_errors_were_raised_is_forgotten_with_their_messages(
    make_inbox_app: MakeApp,
) -> None:
    app = make_failing(make_inbox_app, messages=2, max_attempts=1)
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_errors SET first_at = 1")
    inbox.retain()
    assert query(app, "SELECT count(*) FROM ants_dr_errors") == 2
    inbox.discard(error_key=inbox.troubles()[0].error_key)
    inbox.retain()
    assert query(app, "SELECT count(*) FROM ants_dr_errors") == 1


def test_the_reports_of_a_callback_that_has_a_message_twice(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    twice = callback(*(detail(messageId=id) for id in ("1", "1", "2", "3")))
    Ants(app.test_client()).post(twice)
    found = [str(one.message and one.message.message_id) for one in bound_inbox(app).of_bulk("b")]
    assert sorted(found) == ["1", "2", "3"]
