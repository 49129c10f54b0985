"""What Message Logs know and no callback has brought, asked of real HTTP servers."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from flask import Flask
from flask import Response
from flask import redirect
from flask import request
from marshmallow import pre_load
from sqlalchemy import select
from sqlalchemy import update

from flask_ants_dr import DeliveryState
from flask_ants_dr.emulator import Emulator
from flask_ants_dr.emulator import create_app
from flask_ants_dr.inbox import BoundInbox
from flask_ants_dr.inbox import MessageLogsError
from flask_ants_dr.inbox import Reconciled
from flask_ants_dr.inbox import background
from flask_ants_dr.inbox import celery
from flask_ants_dr.inbox import message_logs
from flask_ants_dr.inbox import tasks
from flask_ants_dr.inbox import worker
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.schemas import BANGKOK
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import RenamedSchema
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import drain
from kit import make_older
from kit import rows
from kit import run
from servers import free_port
from servers import serving
from servers import wait_for

NUMBER = "66812345678"
PAIR = ("account", "s3cret-account")
NONE = timedelta(0)
ALL = timedelta(hours=48)


def ago(**past: float) -> str:
    moment = datetime.now(BANGKOK) - timedelta(**past)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")


def report(message_id: str = "1", name: str = "DELIVERED", **members: Any) -> dict[str, Any]:
    """A detail that was sent an hour ago, and done after a minute."""
    dates = {"sendDate": ago(minutes=60), "doneDate": ago(minutes=59)}
    return detail(messageId=message_id, to=NUMBER, status={"name": name}, **(dates | members))


class Logs:
    """A server of Message Logs that says what it is told to."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, str]], Any] = lambda query: []
        self.queries: list[dict[str, str]] = []
        self.url = ""

    def app(self) -> Flask:
        app = Flask(__name__)

        @app.get("/sms/loginfo")
        def loginfo() -> Any:
            assert request.authorization is not None
            assert (request.authorization.username, request.authorization.password) == PAIR
            self.queries.append(request.args.to_dict())
            answer = self.answer(self.queries[-1])
            if isinstance(answer, list):
                return Response(json.dumps(answer), content_type="application/json")
            return answer

        return app

    def say(self, *reports: Any) -> None:
        self.answer = lambda query: list(reports)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    monkeypatch.setattr(message_logs, "_BACKOFF", 0.001)
    logs = Logs()
    with serving(logs.app()) as url:
        logs.url = url.removesuffix("/sms/callback")
        yield logs


def of(url: str) -> dict[str, str]:
    """The configuration."""
    pair = {"ANTS_DR_API_USERNAME": PAIR[0], "ANTS_DR_API_PASSWORD": PAIR[1]}
    return {"ANTS_DR_API_URL": url, **pair}


@pytest.fixture
def app(make_inbox_app: MakeApp, logs: Logs) -> Flask:
    return make_inbox_app(ledger=True, config=of(logs.url))


@pytest.fixture
def inbox(app: Flask) -> BoundInbox:
    return bound_inbox(app)


def post(app: Flask, *details: Any, url: str = "/sms/callback", **envelope: Any) -> None:
    body = callback(*details, **envelope)
    assert Ants(app.test_client()).post(body, url=url).status_code == 200


def test_what_no_callback_brought(inbox: BoundInbox, logs: Logs, heard: Heard) -> None:
    logs.say(
        callback(report("1"), report("2", "EXPIRED"), bulkId="many"),
        {"details": [report("3", "PENDING")]},
    )
    found = inbox.reconcile()
    assert found == Reconciled(asked=1, found=3, new=3, mended=2)
    (start, end) = (logs.queries[0][name] for name in ("senddate_start", "senddate_end"))
    shape = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.00")
    assert shape.fullmatch(start)
    assert shape.fullmatch(end)
    assert start < ago(hours=47.9)
    assert ago() < end
    assert {one.message_id: one.status.state for one in heard.messages} == {
        "1": DeliveryState.DELIVERED,
        "2": DeliveryState.EXPIRED,
        "3": DeliveryState.PENDING,
    }
    told = heard.arguments("message_reported")
    assert [one["report"].bulk_id for one in told] == ["many", "many", None]
    assert all(one["report"].url_params == {} for one in told)
    entry = inbox.ledger.get("2", NUMBER)
    assert entry is not None
    assert (entry.state, entry.bulk_id, entry.reports) == ("EXPIRED", "many", 1)
    again = inbox.reconcile(ALL)
    assert again == Reconciled(asked=1, found=3, known=3)
    assert len(heard.messages) == 3


@pytest.mark.parametrize(
    "members",
    [
        {"doneDate": ago(minutes=59)[:-4]},
        {"doneDate": None},
        {"to": "081 234 5678"},
        {"status": {"name": "DELIVERED\u200b"}},
        {"status": [{"name": "DELIVERED", "code": "000"}]},
    ],
)
def test_what_a_callback_brought_otherwise(
    make_inbox_app: MakeApp, logs: Logs, members: dict[str, Any]
) -> None:
    """With another precision, another URL, without its bulk."""
    app = make_inbox_app(config=of(logs.url))
    heard = Heard(app)
    post(app, report() | members, url="/sms/callback?order=41", bulkId=None)
    logs.say(callback(report()))
    assert bound_inbox(app).reconcile() == Reconciled(asked=1, found=1, known=1)
    assert rows(app) == len(heard.messages) == 1


def test_what_is_another(app: Flask, inbox: BoundInbox, logs: Logs, heard: Heard) -> None:
    """Another message, number or status."""
    post(app, report())
    logs.say(callback(report("2"), report() | {"to": "66812345679"}, report(name="EXPIRED")))
    assert inbox.reconcile().new == 3


def test_of_a_tenant(make_inbox_app: MakeApp, logs: Logs) -> None:
    app = make_inbox_app(rule="/<tenant>/sms", ledger=True, config=of(logs.url))
    inbox = bound_inbox(app)
    post(app, report(), url="/acme/sms")
    logs.say(callback(report(), report("2")))
    assert inbox.reconcile() == Reconciled(asked=1, found=2, known=1, new=1, mended=1)
    make_older(app, 40)
    assert inbox.purge(0.0) == 2
    # Now the ledger alone has them.
    assert inbox.reconcile(ALL) == Reconciled(asked=1, found=2, known=2)


def test_what_the_ledger_has_without_its_number(app: Flask, inbox: BoundInbox, logs: Logs) -> None:
    post(app, report(), report("2"))
    inbox.erase(NUMBER)
    make_older(app, 40)
    inbox.purge(0.0)
    assert rows(app) == 0
    logs.say(callback(report(), report("2", "EXPIRED")))
    assert inbox.reconcile() == Reconciled(asked=1, found=2, known=1, new=1, mended=1)


@pytest.mark.parametrize(
    ("came", "said", "known"),
    [("DELIVERED\u200b", "DELIVERED", 1), ("expired", "EXPIRED", 1), ("PARKED", "QUEUED", 0)],
)
def test_what_the_ledger_has_in_other_letters(
    app: Flask, inbox: BoundInbox, logs: Logs, came: str, said: str, known: int
) -> None:
    post(app, report(name=came))
    make_older(app, 40)
    assert inbox.purge(0.0) == 1
    logs.say(callback(report(name=said)))
    assert inbox.reconcile().known == known


def test_without_a_ledger(make_inbox_app: MakeApp, logs: Logs) -> None:
    app = make_inbox_app(eager=False, config=of(logs.url))
    inbox = bound_inbox(app)
    heard = Heard(app)
    logs.say(callback(report()))
    assert inbox.reconcile().new == 1
    assert inbox.reconcile(ALL).known == 1
    assert drain(app) == 1
    assert len(heard.messages) == 1
    with pytest.raises(RuntimeError, match="keeps no ledger"):
        inbox.reconcile(overdue=NONE)
    assert "No inbox keeps a ledger" in run(app, "reconcile", "--overdue", "15m", code=1)


def test_what_a_callback_may_be_on_its_way_for(inbox: BoundInbox, logs: Logs) -> None:
    logs.say(
        callback(
            report("1", doneDate=ago(seconds=5)),
            report("2", "PENDING", sendDate=ago(seconds=5), doneDate=None),
            report("3", sendDate=ago(seconds=5), doneDate=None),
            report("4", "PENDING", doneDate=None),
        )
    )
    assert inbox.reconcile() == Reconciled(asked=1, found=4, recent=3, new=1)
    assert inbox.reconcile(grace=NONE) == Reconciled(asked=1, found=4, known=1, new=3, mended=2)


def test_it_goes_on_where_something_was_open(inbox: BoundInbox, logs: Logs) -> None:
    """A message may come to its end long after what was sent later."""
    logs.say(callback(report("1", "PENDING", sendDate=ago(hours=20)), report("2")))
    inbox.reconcile()
    inbox.reconcile()
    inbox.reconcile(timedelta(hours=1))  # which changes nothing of it
    start = datetime.fromisoformat(logs.queries[1]["senddate_start"])
    assert ago(hours=20.01) < start.isoformat() < ago(hours=19.99)
    logs.say(callback(report("1", sendDate=ago(hours=20)), report("2")))
    assert inbox.reconcile().new == 1
    start = datetime.fromisoformat(logs.queries[3]["senddate_start"])
    assert start.isoformat() < ago(hours=19.99)
    inbox.reconcile()
    start = datetime.fromisoformat(logs.queries[4]["senddate_start"])
    assert ago(minutes=10) < start.isoformat() < ago()


def test_dry_run(app: Flask, inbox: BoundInbox, logs: Logs, heard: Heard) -> None:
    bad = detail(messageId="", status=None)
    logs.say(callback(report(), report("2"), bad), callback(report()))
    would = inbox.reconcile(dry_run=True)
    assert would == Reconciled(asked=1, found=4, known=1, new=2, mended=2, refused=1)
    assert rows(app) == rows(app, "callbacks") == rows(app, "tasks") == 0
    assert heard.calls == []
    assert inbox.reconcile() == would


def test_numbers_are_exact(inbox: BoundInbox, logs: Logs, heard: Heard) -> None:
    text = json.dumps([callback(report(credit="#", price=2.5, long="#"))])
    text = text.replace('"#"', "0.10000000000000000001")
    logs.answer = lambda query: Response(text, content_type="application/json")
    assert inbox.reconcile().new == 1
    (message,) = heard.messages
    assert str(message.credit) == "0.10000000000000000001"
    assert message.extra == {"price": 2.5, "long": "0.10000000000000000001"}


def test_a_large_bulk(app: Flask, inbox: BoundInbox, logs: Logs) -> None:
    post(app, *[report(f"{number}") for number in range(0, 1200, 2)])
    logs.say(callback(*[report(f"{number}") for number in range(1200)]))
    found = inbox.reconcile()
    assert (found.found, found.new, found.known) == (1200, 600, 600)
    assert rows(app) == 1200


# What cannot be taken.


def test_what_is_refused_is_in_quarantine_once(
    app: Flask, inbox: BoundInbox, logs: Logs, heard: Heard
) -> None:
    bad = {"messageId": "2", "status": {}}
    logs.say(callback(report(), bad), callback(bad, bulkId="bad"))
    found = inbox.reconcile()
    assert found == Reconciled(asked=1, found=3, new=1, mended=1, refused=2)
    assert rows(app, "quarantine") == 2
    calls = len(heard.calls)
    assert inbox.reconcile(ALL) == Reconciled(asked=1, found=3, known=3)
    assert rows(app, "quarantine") == 2
    assert len(heard.calls) == calls
    logs.say(callback(report(), {**bad, "messageId": "3"}))
    assert inbox.reconcile(ALL).refused == 1
    assert inbox.reconcile(ALL).known == 2
    assert rows(app, "quarantine") == 3


def test_a_schema_with_messages_of_its_own(make_inbox_app: MakeApp, logs: Logs) -> None:
    class Doubling(RenamedSchema):
        @pre_load
        def double(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            one, *others = data["details"]
            return {**data, "details": [one, {**one, "messageId": "copy"}, *others]}

    app = make_inbox_app(schema=Doubling, config=of(logs.url))
    inbox = bound_inbox(app)
    logs.say(callback(report("1"), report("2")))
    inbox.reconcile()
    assert rows(app) == 3
    inbox.reconcile(ALL)
    assert rows(app) == 3


# What the server does.


def failure(app: Flask, *arguments: str) -> str:
    """The one line that a command fails with."""
    printed = run(app, "reconcile", *arguments, code=1)
    return printed.strip().splitlines()[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("status", "requests", "line"),
    [
        (401, 1, "refuse the credentials (401): set ANTS_DR_API_USERNAME and ANTS_DR_API_PASSWORD"),
        (403, 1, "refuse the credentials (403)"),
        (404, 1, "refuse the request (404): see ANTS_DR_API_URL"),
        (429, 6, "answer with 429 (6 requests)"),
        (500, 6, "answer with 500 (6 requests)"),
        (503, 6, "answer with 503 (6 requests)"),
    ],
)
def test_statuses(app: Flask, logs: Logs, status: int, requests: int, line: str) -> None:
    logs.answer = lambda query: ("", status)
    assert f"ants_dr: Message Logs {line}" in failure(app)
    assert len(logs.queries) == requests
    assert bound_inbox(app).reconciliation() == {"at": None, "mended": 0}


def test_it_waits_and_asks_again(inbox: BoundInbox, logs: Logs) -> None:
    answers: list[Any] = [("", 500), Response("", 429, {"Retry-After": "0"}), [callback(report())]]
    logs.answer = lambda query: answers.pop(0)
    assert inbox.reconcile() == Reconciled(asked=3, found=1, new=1, mended=1)


@pytest.mark.parametrize("later", ["86400", "Wed, 01 Jan 2200 00:00:00 GMT"])
def test_it_does_not_wait_for_ever(app: Flask, logs: Logs, later: str) -> None:
    logs.answer = lambda query: Response("", 429, {"Retry-After": later})
    line = failure(app)
    assert "answer with 429, and are to be asked again in" in line
    assert len(logs.queries) == 1


def test_it_ends_while_it_waits(inbox: BoundInbox, logs: Logs) -> None:
    stop = Event()

    def answer(query: dict[str, str]) -> Response:
        stop.set()
        return Response("", 429, {"Retry-After": "200"})

    logs.answer = answer
    assert inbox.reconcile(stop=stop.is_set) == Reconciled(asked=1)
    assert inbox.reconcile(stop=stop.is_set) == Reconciled()
    assert inbox.reconciliation()["at"] is None


def test_it_ends_while_it_hands_on(app: Flask, inbox: BoundInbox, logs: Logs) -> None:
    logs.say(callback(*[report(f"{number}") for number in range(600)]))
    found = inbox.reconcile(stop=lambda: rows(app) >= 500)
    assert (found.new, rows(app)) == (500, 500)
    assert inbox.reconcile().new == 100


def test_a_slow_answer_is_no_dead_process(
    inbox: BoundInbox, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_SILENCE", 0.5)
    monkeypatch.setattr(background, "_SAYS", 0.01)
    late, over = Event(), Event()

    def drops() -> Iterator[bytes]:
        for number in range(1_000):
            yield b" "
            time.sleep(0.01)
            if number == 100:
                late.set()
            if over.is_set():
                break
        yield json.dumps([callback(report())]).encode()

    logs.answer = lambda query: Response(drops(), content_type="application/json")
    assert inbox.start_reconcile()
    assert late.wait(60)
    assert not inbox.start_reconcile()
    over.set()
    wait_for(lambda: (said := inbox.reconciling()) is not None and not said.is_running)
    said = inbox.reconciling()
    assert said
    assert said.result
    assert (said.result.asked, said.result.new) == (1, 1)


def test_two_at_once_note_what_both_mended(inbox: BoundInbox, logs: Logs) -> None:
    def progress(part: float) -> None:
        if not inbox.reconciliation()["mended"]:
            logs.say(callback(report("1")), callback(report("2")))
            assert inbox.reconcile().mended == 1

    logs.say(callback(report("1")))
    assert inbox.reconcile(progress=progress).mended == 1
    assert inbox.reconciliation()["mended"] == 2


def test_two_first_notes_at_once(make_inbox_app: MakeApp) -> None:
    one, other = bound_inbox(make_inbox_app()), bound_inbox(make_inbox_app())
    with ThreadPoolExecutor() as pool:
        with one.database.begin() as connection:
            tasks.note_state(connection, one.source, "a-task", "first")
            second = pool.submit(
                other.database.run,
                lambda connection: tasks.note_state(connection, one.source, "a-task", "second"),
            )
            time.sleep(0.1)
        second.result()
    with one.database.begin(writes=False) as connection:
        assert tasks.state(connection, one.source, "a-task") == "second"


@pytest.mark.usefixtures("logs")
def test_a_server_that_is_down(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(config=of(f"http://127.0.0.1:{free_port()}"))
    assert failure(app) == "ants_dr: Message Logs cannot be reached (6 requests)."


@pytest.mark.parametrize("where", ["_TIMEOUT", "_DEADLINE"])
def test_a_server_that_is_slow(
    app: Flask, logs: Logs, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It sends a byte now and then, or nothing."""
    monkeypatch.setattr(message_logs, where, 0.05)
    over = Event()

    def drops() -> Iterator[bytes]:
        while not over.wait(0.02 if where == "_DEADLINE" else 5):
            yield b" "

    logs.answer = lambda query: Response(drops())
    try:
        assert failure(app) == "ants_dr: Message Logs do not answer in time (6 requests)."
    finally:
        over.set()


@pytest.mark.parametrize(
    ("body", "content_type", "line"),
    [
        ("<html><body>Sign in</html>", "text/html", "not with reports: The body is not XML"),
        ('[{"bulkId": "b", "details": [{"mess', "application/json", "not with reports: The body"),
        ("Service is up", "text/plain", "not with reports: The content type"),
        ('{"error": "quota"}', "application/json", "no array of objects with details"),
        ("[1]", "application/json", "no array of objects with details"),
        ('"planted"', "application/json", "no array of objects with details"),
        ("", "application/json", "not with reports"),
    ],
)
def test_an_answer_that_is_none(
    app: Flask, logs: Logs, body: str, content_type: str, line: str
) -> None:
    logs.answer = lambda query: Response(body, content_type=content_type)
    said = failure(app)
    assert line in said
    assert "planted" not in said
    assert len(logs.queries) == 1


def test_half_a_body(app: Flask, logs: Logs) -> None:
    logs.answer = lambda query: Response(iter([b"["]), headers={"Content-Length": "100"})
    assert "end the connection before the end of their answer (6 requests)" in failure(app)


def test_a_body_that_is_not_compressed_as_it_says(app: Flask, logs: Logs) -> None:
    logs.answer = lambda query: Response("[]", headers={"Content-Encoding": "gzip"})
    assert "cannot be decompressed" in failure(app)


def test_no_redirect_is_followed(app: Flask, logs: Logs) -> None:
    """The credentials go nowhere else."""
    other = Logs()
    with serving(other.app()) as url:
        elsewhere = url.replace("127.0.0.1", "localhost").replace("/sms/callback", "/sms/loginfo")
        logs.answer = lambda query: redirect(elsewhere)
        assert "are somewhere else (302): set ANTS_DR_API_URL" in failure(app)
    assert other.queries == []


# Windows.


def test_a_full_window_is_halved(
    app: Flask, inbox: BoundInbox, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server that says the latest ones only, as ANTS's documentation says of it."""
    monkeypatch.setattr(message_logs, "_FULL", 10)
    sent = [(ago(minutes=3 * number + 30), f"m{number}") for number in range(100)]

    def answer(query: dict[str, str]) -> list[Any]:
        start, end = query["senddate_start"], query["senddate_end"]
        found = [one for one in sent if start <= one[0] <= end][:10]
        return [callback(report(id, sendDate=at, doneDate=at)) for at, id in found]

    logs.answer = answer
    parts: list[float] = []
    found = inbox.reconcile(progress=parts.append)
    assert found.new == found.mended == rows(app) == 100
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert inbox.reconcile(ALL).new == 0


def test_a_window_that_is_always_full(
    app: Flask, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_logs, "_FULL", 1)
    logs.say(callback(report()))
    assert "as much as they can for a single second" in failure(app)
    assert len(logs.queries) < 25
    assert rows(app) == 1


def test_a_body_without_end(app: Flask, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_logs, "_MAX_BODY", 1000)
    logs.answer = lambda query: Response(b" " * 1000 for _ in range(10_000))
    assert "as much as they can for a single second" in failure(app)
    assert len(logs.queries) < 25


# What is overdue.


def test_what_is_overdue_is_asked_for_alone(inbox: BoundInbox, logs: Logs) -> None:
    for id in ("1", "2"):
        inbox.ledger.expect(id, NUMBER, sent_at=datetime.now(BANGKOK) - timedelta(hours=1))
    inbox.ledger.expect("3", NUMBER)
    inbox.ledger.expect("4", NUMBER, sent_at=datetime.now(BANGKOK) - timedelta(days=3))
    logs.answer = lambda query: [callback(report(query.get("messageId", "5")))]
    found = inbox.reconcile(overdue=timedelta(minutes=15))
    assert found == Reconciled(asked=2, found=2, new=2, mended=2)
    assert sorted(query["messageId"] for query in logs.queries) == ["1", "2"]
    assert all(query.keys() == {"messageId"} for query in logs.queries)
    assert inbox.ledger.count_overdue(timedelta(minutes=15)) == 1
    assert inbox.reconcile(ALL, overdue=NONE).asked == 2


def test_much_that_is_overdue_is_asked_for_together(inbox: BoundInbox, logs: Logs) -> None:
    sent_at = datetime.now(BANGKOK) - timedelta(hours=1)
    inbox.ledger.expect_many([(f"{id}", NUMBER) for id in range(150)], sent_at=sent_at)
    logs.say(callback(*[report(f"{id}") for id in range(150)]))
    assert inbox.reconcile(overdue=timedelta(minutes=15)).new == 150
    (query,) = logs.queries
    assert ago(minutes=66) < query["senddate_start"] < ago(minutes=64)


# What an older release stored.


def test_what_an_older_release_stored(app: Flask, inbox: BoundInbox, logs: Logs) -> None:
    post(app, report("1"), report("2"), url="/sms/callback?order=1")
    with inbox.database.begin() as connection:
        connection.execute(update(messages).values(status_key=None))
    logs.say(callback(report("1", doneDate=ago(minutes=58)), report("2"), report("3")))
    without_ledger = Reconciled(asked=1, found=3, known=2, new=1, mended=1)
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ants_dr_ledger")
    assert inbox.reconcile() == without_ledger
    with inbox.database.begin() as connection:
        assert None not in connection.scalars(select(messages.c.status_key)).all()


# Commands, workers, and what is said of it.


def test_not_configured(make_inbox_app: MakeApp, logs: Logs) -> None:
    app = make_inbox_app()
    line = "Message Logs need credentials: set ANTS_DR_API_USERNAME and ANTS_DR_API_PASSWORD"
    assert line in run(app, "reconcile", code=1)
    assert line in run(app, "work", "--reconcile", "10m", code=1)
    with pytest.raises(MessageLogsError, match=line):
        bound_inbox(app).reconcile()
    assert "reconcile" in run(app, "check", "--json", code=1)
    assert "--once or --reconcile" in run(app, "work", "--once", "--reconcile", "1m", code=2)


def test_the_command(app: Flask, logs: Logs) -> None:
    logs.say(callback(report("1"), report("2")))
    would = json.loads(run(app, "reconcile", "--since", "2h", "--dry-run", "--json"))
    assert would["ants_dr"]["new"] == 2
    printed = run(app, "reconcile", "--since", "2h")
    assert re.search(r"new +2\n", printed)
    assert re.search(r"already there +0\n", printed)
    assert re.search(r"requests to Message Logs +1\n", printed)
    assert NUMBER not in printed
    assert ago(minutes=121) < logs.queries[0]["senddate_start"] < ago(minutes=119)


def findings(app: Flask) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run(app, "check", "--json", code=1))
    return found


def said(app: Flask) -> tuple[str, str]:
    for line in findings(app):
        if line["subject"] == "reconcile":
            return line["level"], line["text"]
    raise LookupError


def test_when_it_was_done_long_ago(app: Flask, inbox: BoundInbox) -> None:
    inbox.reconcile()
    with inbox.database.begin() as connection:
        tasks.note_state(connection, inbox.source, "reconcile", '{"at": 1.0}')
    assert said(app)[0] == "warning"
    assert "can no longer be asked for" in said(app)[1]


def test_check(app: Flask, inbox: BoundInbox, logs: Logs, make_inbox_app: MakeApp) -> None:
    assert said(app)[0] == "warning"
    assert "never done" in said(app)[1]
    inbox.reconcile()
    assert said(app)[0] == "ok"
    logs.say(callback(report("1"), report("2"), report("3", "PENDING")))
    inbox.reconcile()
    inbox.reconcile()
    level, text = said(app)
    assert level == "warning"
    assert "it brought 2 final states that no callback had" in text
    another = make_inbox_app(config=of("http://ants.example.com"))
    assert "ANTS_DR_API_URL is not HTTPS" in said(another)[1]


def test_once_per_fleet(make_inbox_app: MakeApp, logs: Logs) -> None:
    apps = [make_inbox_app(config=of(logs.url)) for _ in range(2)]
    logs.say(callback(report()))
    found = [bound_inbox(one).reconcile(every=timedelta(minutes=10)) for one in (*apps, *apps)]
    assert [one.asked for one in found] == [1, 0, 0, 0]


def test_a_worker_does_it(
    make_inbox_app: MakeApp, inbox: BoundInbox, logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Event()
    answers: list[Any] = [("", 401), [callback(report())], []]

    logs.answer = lambda query: answers.pop(0)
    while answers:
        worker.reconcile_all([inbox], NONE, stop.is_set)
    assert "refuse the credentials (401)" in caplog.text
    assert "final states of 1 messages that no callback brought" in caplog.text

    def last(query: dict[str, str]) -> list[Any]:
        stop.set()
        return []

    logs.answer = last
    stop.clear()
    # A blueprint that is not set up is passed over.
    worker.reconcile_all([bound_inbox(make_inbox_app())], NONE, stop.is_set)
    worker.work([inbox], concurrency=1, poll=0.01, once=False, stop=stop, reconcile=NONE)
    assert len(logs.queries) == 4


def test_the_task_of_celery(app: Flask, logs: Logs) -> None:
    logs.say(callback(report()))
    with app.app_context():
        celery.reconcile()
        celery.reconcile()
    assert len(logs.queries) == rows(app) == 1


def test_without_an_http_client(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, message_logs.__name__)
    line = "reconcile needs an HTTP client: pip install 'Flask-ANTS-DR[simulator]'."
    assert line in run(app, "reconcile", code=1)
    level, text = said(app)
    assert level == "error"
    assert "pip install 'Flask-ANTS-DR[simulator]'" in text


def test_a_database_that_fails(
    app: Flask, inbox: BoundInbox, logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    logs.say(callback(report()))
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ants_dr_tasks")
    assert "database failed" in run(app, "reconcile", code=1)
    worker.reconcile_all([inbox], NONE, lambda: False)
    assert "the database failed; trying again" in caplog.text
    assert "reconcile" not in [line["subject"] for line in findings(app)]


# With the emulator.


@pytest.mark.parametrize("lose", [0.0, 1.0])
def test_with_the_emulator(make_inbox_app: MakeApp, lose: float) -> None:
    with ExitStack() as stack:
        ants = create_app(username=PAIR[0], password=PAIR[1], delay=0, lose=lose, seed=1)
        emulator: Emulator = ants.extensions["ants_emulator"]
        stack.callback(emulator.close)
        url = stack.enter_context(serving(ants)).removesuffix("/sms/callback")
        app = make_inbox_app(ledger=True, config=of(url))
        heard = Heard(app)
        receiver = stack.enter_context(serving(app))
        client = ants.test_client()
        sent = client.post(
            "/sms/send",
            json={
                "messages": [
                    {
                        "from": "SHOP",
                        "text": "hello",
                        "destinations": [{"to": f"6600000000{n}"} for n in range(5)],
                        **({"notifyUrl": receiver} if lose else {}),
                    }
                ]
            },
            auth=PAIR,
        )
        assert sent.status_code == 200
        emulator.flush()
        inbox = bound_inbox(app)
        assert inbox.reconcile(grace=NONE).new == 5
        for message in emulator.messages:
            entry = inbox.ledger.get(message.message_id, message.to)
            assert entry is not None
            assert entry.state == message.final
        assert inbox.reconcile(ALL, grace=NONE) == Reconciled(asked=1, found=5, known=5)
        assert len(heard.messages) == 5
