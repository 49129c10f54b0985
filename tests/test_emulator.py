"""A local ANTS, with real servers on both sides."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from flask import Flask

from flask_ants_dr import message_delivered
from flask_ants_dr import message_reported
from flask_ants_dr.cli import cli
from flask_ants_dr.emulator import LATEST_TRANSACTIONS
from flask_ants_dr.emulator import Emulator
from flask_ants_dr.emulator import create_app
from flask_ants_dr.encoding import ENCODINGS
from flask_ants_dr.encoding import FORMATS
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import Format
from flask_ants_dr.schemas import BANGKOK
from kit import PASSWORD
from kit import USERNAME
from kit import Heard
from kit import MakeApp
from kit import drain
from servers import free_port
from servers import serving
from servers import wait_for

NUMBER = "66000000042"
TEXT = "รหัส OTP ของคุณคือ 481516"


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The callback of a receiver, behind a server."""
    with serving(app) as url:
        yield url


@dataclass
class Ants:
    """A local ANTS behind a server, and a sender."""

    emulator: Emulator
    client: httpx.Client
    lines: list[str]

    def send(self, *messages: dict[str, Any], **members: Any) -> httpx.Response:
        return self.client.post("/sms/send", json={"messages": messages, **members})

    def logs(self, **parameters: str) -> httpx.Response:
        return self.client.get("/sms/loginfo", params=parameters)


@pytest.fixture
def run_ants() -> Iterator[Callable[..., Ants]]:
    with ExitStack() as stack:

        def run(**behaviour: Any) -> Ants:
            lines: list[str] = []
            options = {"username": USERNAME, "password": PASSWORD, "delay": 0, "seed": 1}
            ants = create_app(tell=lines.append, **{**options, **behaviour})
            emulator: Emulator = ants.extensions["ants_emulator"]
            stack.callback(emulator.close)
            root = stack.enter_context(serving(ants)).removesuffix("/sms/callback")
            client = httpx.Client(base_url=root, auth=(USERNAME, PASSWORD), timeout=60)
            return Ants(emulator, stack.enter_context(client), lines)

        yield run


@pytest.fixture
def ants(run_ants: Callable[..., Ants]) -> Ants:
    return run_ants()


def message(*numbers: str, **members: Any) -> dict[str, Any]:
    destinations = [{"to": number} for number in numbers or (NUMBER,)]
    return {"from": "MyShop", "destinations": destinations, "text": TEXT, **members}


def many(count: int, **members: Any) -> dict[str, Any]:
    return message(*(f"6600{number:07}" for number in range(count)), **members)


def lives(heard: Heard) -> dict[str, list[str]]:
    """What was heard of each message, in the order of hearing it."""
    found: dict[str, list[str]] = {}
    for one in heard.messages:
        found.setdefault(one.message_id, []).append(one.status.name)
    return found


# From a send to its reports.


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_send_is_answered_and_reported_on(
    run_ants: Callable[..., Ants], url: str, heard: Heard, format: Format, encoding: Encoding
) -> None:
    ants = run_ants(encoding=encoding)
    destinations = [{"to": "66000000001", "messageId": "order-42"}, {"to": "66000000002"}]
    answer = ants.send(
        message(
            destinations=destinations,
            notifyUrl=f"{url}?order=42",
            notifyContentType=f"application/{format}",
            callbackData="ANTS Data",
        ),
        bulkId="bulk-7",
    )
    assert answer.status_code == 200
    accepted = {"code": "0", "name": "ACCEPTED", "description": "Message accepted"}
    made_up = answer.json()["details"][1]["messageId"]
    assert re.fullmatch(r"\d{20}", made_up)
    assert answer.json() == {
        "bulkId": "bulk-7",
        "details": [
            {"to": "66000000001", "messageId": "order-42", "credit": 1.0, "status": accepted},
            {"to": "66000000002", "messageId": made_up, "credit": 1.0, "status": accepted},
        ],
    }
    ants.emulator.flush()
    stages = ["ACCEPTED", "PENDING", "DELIVERED"]
    assert lives(heard) == {"order-42": stages, made_up: stages}
    reports = [arguments["report"] for arguments in heard.arguments("report_received")]
    assert [len(report.messages) for report in reports] == [2, 2, 2]
    assert {(report.bulk_id, report.url_params["order"]) for report in reports} == {
        ("bulk-7", "42")
    }
    first, *_, last = heard.messages
    assert (last.to, last.sender, last.text) == ("66000000002", "MyShop", TEXT)
    assert last.credit == 1
    assert last.callback_data == "ANTS Data"
    assert first.done_date is None
    assert last.send_date is not None
    assert last.done_date is not None
    assert last.send_date <= last.done_date <= datetime.now(BANGKOK)
    truth = ants.emulator.messages[1]
    assert (last.send_date, last.done_date) == (truth.send_date, truth.done_date)
    assert not any(one.problems for one in heard.messages)


def test_one_destination_has_no_bulk(ants: Ants, url: str, heard: Heard) -> None:
    """As a text, too. Message Logs know its bulk all the same, by which public programs ask."""
    answer = ants.send(message(destinations=NUMBER, notifyUrl=url), bulkId="bulk-7").json()
    assert answer.keys() == {"details"}
    ants.emulator.flush()
    assert {arguments["report"].bulk_id for arguments in heard.arguments("report_received")} == {
        None
    }
    (found,) = ants.logs(bulkId="bulk-7", messageId=answer["details"][0]["messageId"]).json()
    assert found["details"][0]["to"] == NUMBER
    assert ants.emulator.messages[0].bulk_id == "bulk-7"


def test_a_bulk_is_reported_on_together(ants: Ants, url: str, heard: Heard) -> None:
    """In callbacks of at most 500 details, and apart for each notifyUrl and content type."""
    messages = [many(600, notifyUrl=url), many(2, notifyUrl=url)]
    xml = many(3, notifyUrl=url, notifyContentType="application/xml")
    answer = ants.send(*messages, xml, many(4)).json()
    assert len(answer["details"]) == 609
    ants.emulator.flush()
    reports = [arguments["report"] for arguments in heard.arguments("report_received")]
    assert Counter(len(report.messages) for report in reports) == {500: 3, 102: 3, 3: 3}
    assert {report.bulk_id for report in reports} == {answer["bulkId"]}
    known = ants.emulator.messages
    assert all(one.is_final for one in known)
    assert Counter(one.was_told for one in known) == {True: 605, False: 4}


def test_only_the_final_status(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    ants = run_ants(follow=False, statuses={"DELIVERED": 3, "EXPIRED": 1, "NEW_NAME": 1})
    ants.send(many(200, notifyUrl=url))
    ants.emulator.flush()
    truth = {one.message_id: [one.final] for one in ants.emulator.messages}
    assert lives(heard) == truth
    assert {name for (name,) in truth.values()} == {"DELIVERED", "EXPIRED", "NEW_NAME"}


def test_delays(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    """What is taken is reported at once, and the rest when its time has come, or at a flush."""
    ants = run_ants(delay=86_400)
    ants.send(message(notifyUrl=url))
    wait_for(lambda: heard.messages)
    (known,) = ants.emulator.messages
    assert (known.status, known.is_final) == ("ACCEPTED", False)
    ants.emulator.flush()
    assert (known.status, known.is_final) == ("DELIVERED", True)
    assert [name for name, _ in known.reports] == ["ACCEPTED", "PENDING", "DELIVERED"]
    ants = run_ants(delay=0.01)
    ants.send(message(notifyUrl=url))
    wait_for(lambda: ants.emulator.messages[0].was_told)


# Faults.


def test_lost_callbacks(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    ants = run_ants(lose=0.3)
    for _ in range(40):
        ants.send(message(notifyUrl=url))
    ants.emulator.flush()
    posted: dict[str, list[str]] = {}
    for one in ants.emulator.messages:
        assert [name for name, _ in one.reports] == ["ACCEPTED", "PENDING", "DELIVERED"]
        names = [name for name, answer in one.reports if answer == "200"]
        if names:
            posted[one.message_id] = names
        assert one.was_told is ("DELIVERED" in names)
    assert lives(heard) == posted
    assert 20 < 120 - len(heard.messages) < 60


def test_another_behaviour_while_it_runs(ants: Ants, url: str, heard: Heard) -> None:
    ants.emulator.behaviour = replace(ants.emulator.behaviour, lose=1.0)
    ants.send(message("66000000001", notifyUrl=url))
    ants.emulator.flush()
    assert lives(heard) == {}
    ants.emulator.behaviour = replace(ants.emulator.behaviour, lose=0.0)
    ants.send(message("66000000002", notifyUrl=url))
    ants.emulator.flush()
    assert len(lives(heard)) == 1


def test_repeated_callbacks(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    ants = run_ants(repeat=1)
    ants.send(message(notifyUrl=url))
    ants.emulator.flush()
    (life,) = lives(heard).values()
    assert life == ["ACCEPTED", "ACCEPTED", "PENDING", "PENDING", "DELIVERED", "DELIVERED"]
    assert Counter(heard.messages).most_common(1)[0][1] == 2


def test_callbacks_out_of_order(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    ants = run_ants(shuffle=0.5)
    for _ in range(20):
        ants.send(message(notifyUrl=url))
    ants.emulator.flush()
    orders = Counter(tuple(life) for life in lives(heard).values())
    assert orders.keys() == {
        ("ACCEPTED", "PENDING", "DELIVERED"),
        ("ACCEPTED", "DELIVERED", "PENDING"),
        ("PENDING", "ACCEPTED", "DELIVERED"),
    }
    assert all(one.status == "DELIVERED" for one in ants.emulator.messages)


@pytest.mark.parametrize("format", FORMATS)
def test_odd_members(run_ants: Callable[..., Ants], url: str, heard: Heard, format: Format) -> None:
    """They are taken all the same, and the truth is as it was."""
    ants = run_ants(odd=0.9)
    ants.send(many(200, notifyUrl=url, notifyContentType=f"application/{format}"))
    ants.emulator.flush()
    states = Counter(one.status.state for one in heard.messages)
    assert states == {"ACCEPTED": 200, "PENDING": 200, "DELIVERED": 200}
    unread = {member for one in heard.messages for member in one.problems}
    in_json = {"to", "callbackData"} if format == "json" else set()
    assert unread == {"credit", "sendDate", "doneDate"} | in_json
    assert any(not one.problems for one in heard.messages)
    (logs,) = ants.logs(mobile="66000000000").json()
    assert logs["details"][0]["credit"] == 1.0


def test_broken_callbacks(run_ants: Callable[..., Ants], url: str, heard: Heard) -> None:
    ants = run_ants(malformed=1)
    for _ in range(10):
        ants.send(message(notifyUrl=url))
    ants.emulator.flush()
    assert len(heard.messages) == 30
    refused = Counter(
        arguments["error"].status for arguments in heard.arguments("callback_rejected")
    )
    assert refused.keys() == {400, 415, 422}
    assert refused.total() == 30


def test_what_is_not_taken_is_not_sent_again(ants: Ants, app: Flask, url: str) -> None:
    def fail(sender: Flask, **arguments: Any) -> None:
        raise LookupError

    with message_delivered.connected_to(fail, sender=app):
        ants.send(message(notifyUrl=url))
        ants.emulator.flush()
    (known,) = ants.emulator.messages
    assert known.reports == [("ACCEPTED", "200"), ("PENDING", "200"), ("DELIVERED", "500")]
    assert not known.was_told


def test_a_receiver_that_is_down(ants: Ants) -> None:
    ants.send(message(notifyUrl=f"http://127.0.0.1:{free_port()}/"))
    ants.emulator.flush()
    assert {answer for _, answer in ants.emulator.messages[0].reports} == {"no connection"}


@pytest.mark.slow(reason="many sends")
def test_the_seed_makes_the_same_again(run_ants: Callable[..., Ants], url: str) -> None:
    """Whichever thread posts first; and one fault does not change the others."""

    def life(**behaviour: Any) -> list[tuple[Any, ...]]:
        ants = run_ants(statuses={"DELIVERED": 1, "EXPIRED": 1}, **behaviour)
        for size in (1, 3, 1, 2, 1, 1, 1):
            ants.send(many(size, notifyUrl=url))
        ants.emulator.flush()
        return [
            (one.bulk_id, one.message_id, one.final, one.reports) for one in ants.emulator.messages
        ]

    faults = {"lose": 0.4, "repeat": 0.4, "shuffle": 0.4}
    first = life(**faults, seed=7)
    assert life(**faults, seed=7) == first
    assert life(**faults, seed=8) != first
    assert life(**faults, seed=None) != life(**faults, seed=None)
    other = life(seed=7)
    assert [one[:3] for one in other] == [one[:3] for one in first]
    assert other != first


# What a send may have.


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"from": "a" * 12}, "messages[0].from: Must have 1 to 11 characters."),
        ({"from": ""}, "messages[0].from: Must have 1 to 11 characters."),
        ({"from": "My Shop"}, "messages[0].from: Must have no space."),
        ({"from": None}, "messages[0].from: Field may not be null."),
        ({"text": "a" * 1601}, "messages[0].text: Must have 1 to 1,600 characters."),
        ({"text": 1.5}, "messages[0].text: Not a string"),
        ({"destinations": []}, "messages[0].destinations: Must have at least one."),
        ({"destinations": "+66 81"}, "messages[0].destinations[0].to: Must be a number in"),
        ({"destinations": [{"to": "6" * 16}]}, "messages[0].destinations[0].to: Must be a number"),
        ({"destinations": [{"to": "66000000042\n"}]}, "destinations[0].to: Must be a number in"),
        ({"destinations": [{}]}, "messages[0].destinations[0].to: Missing data"),
        ({"destinations": ["66000000042"]}, "messages[0].destinations[0]: Must be a JSON object."),
        (
            {"destinations": [{"to": NUMBER}, {"to": NUMBER, "messageId": "a" * 201}]},
            "messages[0].destinations[1].messageId: Must have 1 to 200 characters.",
        ),
        ({"notifyUrl": f"http://127.0.0.1/{'a' * 150}"}, "notifyUrl: Must have 1 to 150"),
        ({"notifyContentType": "text/plain"}, "notifyContentType: Must be application/json or"),
        ({"notifyContentType": "a" * 51}, "notifyContentType: Must be application/json or"),
        ({"callbackData": "a" * 4001}, "messages[0].callbackData: Must have at most 4,000"),
        (
            {"text": "a\x01", "notifyContentType": "application/xml"},
            "messages[0]: text has a character that XML cannot carry; send it as JSON.",
        ),
    ],
)
def test_what_is_refused(ants: Ants, members: dict[str, Any], error: str) -> None:
    answer = ants.send(message(**members))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "400"
    assert error in answer.json()["error"]["description"]
    assert ants.emulator.messages == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "The body is not JSON"),
        (b"{", "The body is not JSON"),
        (b"\xff", "The body is not UTF-8."),
        (b"[" * 100_000, "nested deeper"),
        (b"[]", "The body: Must be a JSON object."),
        (b"{}", "messages: Missing data for required field."),
        (b'{"messages": 1}', "messages: Must be a JSON array."),
        (b'{"messages": []}', "messages: Must have at least one."),
        (b'{"messages": [1]}', "messages[0]: Must be a JSON object."),
        (b'{"bulkId": "%s", "messages": [1]}' % (b"a" * 51), "bulkId: Must have 1 to 50"),
        (b'{"bulkId": %s, "messages": [1]}' % (b"1" * 5000), "bulkId: Not a string"),
    ],
)
def test_bodies_that_are_refused(ants: Ants, body: bytes, error: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = ants.client.post("/sms/send", content=body, headers=headers)
    assert answer.status_code == 400
    assert error in answer.json()["error"]["description"]


def test_what_is_just_short_enough(ants: Ants, url: str) -> None:
    destinations = [{"to": 66000000042, "messageId": "ส" * 200}, {"to": "6" * 15}]
    notify_url = url + "?" + "a" * (149 - len(url))
    one = message(
        **{"from": "a" * 11, "text": "ส" * 1600, "notifyUrl": notify_url},
        destinations=destinations,
        callbackData="a" * 4000,
        unknown=1,
    )
    answer = ants.send(one, bulkId="ส" * 50)
    assert answer.status_code == 200
    assert answer.json()["details"][0]["credit"] == 24.0
    ants.emulator.flush()
    assert all(one.was_told for one in ants.emulator.messages)


def test_what_json_has_and_utf_8_has_not(ants: Ants, url: str, heard: Heard) -> None:
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"messages": [message(notifyUrl=url, text="a\ud800\0")]})
    assert ants.client.post("/sms/send", content=body, headers=headers).status_code == 200
    ants.emulator.flush()
    assert heard.messages[-1].text == "a\ufffd\ufffd"


def test_bounds(run_ants: Callable[..., Ants]) -> None:
    ants = run_ants()
    answer = ants.send(many(6000), many(4001))
    assert answer.status_code == 400
    assert "messages: Must have at most 10,000 destinations in all." in answer.text
    assert "10,000 destinations" in ants.send(*[message(destinations=[])] * 10_001).text
    answer = ants.send(message(text="a" * 4 * 1024 * 1024))
    assert answer.status_code == 413
    assert "larger than 4,194,304 bytes" in answer.json()["error"]["description"]


def test_the_oldest_go(run_ants: Callable[..., Ants]) -> None:
    ants = run_ants(keep=3)
    for number in range(5):
        ants.send(message(f"6600000000{number}"))
        ants.emulator.flush()
    assert [one.to[-1] for one in ants.emulator.messages] == ["2", "3", "4"]
    assert ants.logs(mobile="66000000000").json() == []
    assert "at most 3 destinations" in ants.send(many(4)).text


def test_more_waits_than_is_kept(run_ants: Callable[..., Ants]) -> None:
    ants = run_ants(keep=3, delay=86_400)
    assert ants.send(many(2)).status_code == 200
    answer = ants.send(many(2))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "More than 3 messages would wait" in answer.json()["error"]["description"]
    ants.emulator.flush()
    assert ants.send(many(2)).status_code == 200


def test_who_may_send_and_ask(ants: Ants) -> None:
    for auth in (None, (USERNAME, "other"), ("other", PASSWORD)):
        with httpx.Client(base_url=ants.client.base_url, auth=auth) as client:
            for answer in (
                client.post("/sms/send", json={"messages": [message()]}),
                client.get("/sms/loginfo", params={"mobile": NUMBER}),
            ):
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"].startswith("Basic")
                assert (
                    "The credentials are missing or wrong" in answer.json()["error"]["description"]
                )
    assert ants.emulator.messages == []


def test_other_requests(ants: Ants) -> None:
    assert ants.client.get("/sms/send").status_code == 405
    answer = ants.client.post("/sms/other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "404")
    answer = ants.client.post("/sms/send", data={"messages": "1"})
    assert answer.status_code == 415
    assert "Send JSON" in answer.json()["error"]["description"]


# Where it posts.


@pytest.mark.parametrize(
    ("notify_url", "error"),
    [
        ("http://10.0.0.1/sms/callback", "Must be on 127.0.0.1"),
        ("https://sms.example.com/sms/callback", "Must be on 127.0.0.1"),
        ("http://169.254.169.254/latest/meta-data", "Must be on 127.0.0.1"),
        ("http://127.0.0.1.nip.io/", "Must be on 127.0.0.1"),
        ("http://127.1/", "Must be on 127.0.0.1"),
        ("http://[::ffff:10.0.0.1]/", "Must be on 127.0.0.1"),
        ("http://127.0.0.1\\@10.0.0.1/", "without credentials in it"),
        ("http://127.0.0.1@10.0.0.1/", "without credentials in it"),
        ("http://name:pair@127.0.0.1/", "without credentials in it"),
        ("ftp://127.0.0.1/", "Must be a URL such as"),
        ("http:///", "Must be a URL such as"),
        ("127.0.0.1", "Must be a URL such as"),
        ("http://127.0.0.1:99999/", "Must be a URL such as"),
        ("http://127.0.0.1:0/", "Must be a URL such as"),
        ("http://127.0.0.1:x/", "Must be a URL such as"),
        ("http://127.0.0.1/\t", "Must be a URL such as"),
        ("http://127.0.0.1/\u202e", "Must be a URL such as"),
        ("http://xn--/", "Must be a URL such as"),
    ],
)
def test_other_machines(ants: Ants, notify_url: str, error: str) -> None:
    answer = ants.send(message(), message(notifyUrl=notify_url))
    assert answer.status_code == 400
    description = answer.json()["error"]["description"]
    assert description.startswith("messages[1].notifyUrl: ")
    assert error in description
    assert "10.0.0.1" not in description
    assert ants.emulator.messages == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]"])
def test_this_machine(ants: Ants, host: str) -> None:
    assert ants.send(message(notifyUrl=f"http://{host}:9/")).status_code == 200


def test_any_notify_url(run_ants: Callable[..., Ants]) -> None:
    """One that no network has."""
    ants = run_ants(any_notify_url=True)
    assert ants.send(message(notifyUrl="http://sms.invalid/")).status_code == 200
    ants.emulator.flush()
    assert {answer for _, answer in ants.emulator.messages[0].reports} == {"no connection"}


def test_redirects_are_not_followed(ants: Ants, run_ants: Callable[..., Ants]) -> None:
    """Which would post the credentials elsewhere."""
    app = Flask(__name__)
    seen = []

    @app.post("/sms/callback")
    def callback() -> tuple[str, int, dict[str, str]]:
        seen.append("callback")
        return "", 307, {"Location": "/other"}

    @app.post("/other")
    def other() -> str:
        seen.append("other")
        return ""

    with serving(app) as url:
        ants.send(message(notifyUrl=url))
        ants.emulator.flush()
    assert seen == ["callback"] * 3
    assert {answer for _, answer in ants.emulator.messages[0].reports} == {"307"}


def test_an_answer_without_end(ants: Ants) -> None:
    app = Flask(__name__)

    @app.post("/sms/callback")
    def callback() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    with serving(app) as url:
        ants.send(message(notifyUrl=url))
        ants.emulator.flush()
    assert ants.emulator.messages[0].was_told


def test_no_proxy_of_the_environment(
    run_ants: Callable[..., Ants], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    ants = run_ants()
    with httpx.Client(
        base_url=ants.client.base_url, auth=(USERNAME, PASSWORD), trust_env=False
    ) as c:
        c.post("/sms/send", json={"messages": [message(notifyUrl=url)]})
    ants.emulator.flush()
    assert ants.emulator.messages[0].was_told


# Message Logs.


def test_message_logs(run_ants: Callable[..., Ants]) -> None:
    ants = run_ants(statuses={"EXPIRED": 1})
    one = {"to": "66000000001", "messageId": "a"}
    two = {"to": "66000000002", "messageId": "a"}
    ants.send(message(destinations=[one, two]), bulkId="first")
    ants.send(message(destinations=[one]), bulkId="first")
    ants.send(message(destinations=[{"to": "66000000002", "messageId": "b"}]), bulkId="second")
    ants.emulator.flush()

    def found(**parameters: str) -> list[tuple[str | None, list[str]]]:
        answer = ants.logs(**parameters)
        assert answer.status_code == 200
        return [
            (
                bulk.get("bulkId"),
                [f"{one['messageId']}{one['to'][-1]}" for one in bulk["details"]],
            )
            for bulk in answer.json()
        ]

    assert found(bulkId="first") == [("first", ["a1", "a2"]), (None, ["a1"])]
    assert found(messageId="a", mobile="66000000002") == [("first", ["a2"])]
    assert found(bulkId="second", messageId="a") == []
    assert found(mobile="66000000002") == [("first", ["a2"]), (None, ["b2"])]
    assert found(messageId="unknown") == []
    day = {"senddate_start": "2019-05-27T14:39:00.00", "senddate_end": "2999-01-01T00:00:00"}
    assert len(found(**day)) == 3
    assert found(**{**day, "senddate_start": "2998-01-01T00:00:00.0000000"}) == []
    assert found(**{**day, "senddate_end": "2020-01-01T00:00:00.1"}) == []
    (bulk,) = ants.logs(messageId="b").json()
    (known,) = bulk["details"]
    sent, done = (datetime.fromisoformat(known.pop(name)) for name in ("sendDate", "doneDate"))
    assert sent <= done <= datetime.now(BANGKOK).replace(tzinfo=None)
    assert known == {
        "messageId": "b",
        "to": "66000000002",
        "from": "MyShop",
        "text": TEXT,
        "credit": 1.0,
        "status": {"code": "4", "name": "EXPIRED", "description": "Validity period expired"},
        "callbackData": None,
    }


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({}, "Give bulkId, messageId, mobile, or both of"),
        ({"sendDateStart": "2019-05-27T14:39:00.00"}, "Give bulkId, messageId, mobile, or both of"),
        (
            {"senddate_start": "2019-05-27T14:39:00.00"},
            "or both of senddate_start and senddate_end",
        ),
        ({"mobile": NUMBER, "senddate_end": "2019-05-27T14:39:00.00"}, "or both of senddate_start"),
        (
            {"senddate_start": "2019-05-27", "senddate_end": "2019-05-27T14:39:00"},
            "senddate_start: Must be a date such as",
        ),
        (
            {"senddate_start": "2019-05-27T14:39:00", "senddate_end": "2019-02-30T14:39:00"},
            "senddate_end: Must be a date such as",
        ),
        (
            {"senddate_start": "2019-05-27T14:39:00", "senddate_end": "2019-05-27T14:39:00+07:00"},
            "senddate_end: Must be a date such as",
        ),
    ],
)
def test_wrong_questions(ants: Ants, parameters: dict[str, str], error: str) -> None:
    answer = ants.logs(**parameters)
    assert answer.status_code == 400
    assert error in answer.json()["error"]["description"]


def test_48_hours(run_ants: Callable[..., Ants]) -> None:
    times = [datetime(2026, 1, 1, 2, tzinfo=UTC)]
    ants = run_ants(now=lambda: times[-1])
    ants.send(message())
    ants.emulator.flush()
    (bulk,) = ants.logs(mobile=NUMBER).json()
    assert bulk["details"][0]["sendDate"] == "2026-01-01T09:00:00", "in Bangkok"
    for hours, count in ((47.9, 1), (48.1, 0)):
        times.append(times[0] + timedelta(hours=hours))
        assert len(ants.logs(mobile=NUMBER).json()) == count
        day = {"senddate_start": "2026-01-01T09:00:00", "senddate_end": "2026-01-01T09:00:00.00"}
        assert len(ants.logs(**day).json()) == count


def test_the_rate_limit(run_ants: Callable[..., Ants]) -> None:
    ants = run_ants(rate_limit=2)
    assert [ants.logs(mobile=NUMBER).status_code for _ in range(3)] == [200, 200, 429]
    answer = ants.logs(mobile=NUMBER)
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert "Ask again in" in answer.json()["error"]["description"]
    assert ants.send(message()).status_code == 200


# In tests.


def test_a_receiver_without_a_server(app: Flask, heard: Heard) -> None:
    ants = create_app(
        username=USERNAME, password=PASSWORD, transport=httpx.WSGITransport(app), delay=3600
    )
    emulator: Emulator = ants.extensions["ants_emulator"]
    body = {"messages": [message(notifyUrl="http://localhost/sms/callback")]}
    assert ants.test_client().post("/sms/send", json=body, auth=(USERNAME, PASSWORD)).json
    emulator.flush()
    assert len(heard.messages) == 3

    def fail(sender: Flask, **arguments: Any) -> None:
        raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = True
    with message_reported.connected_to(fail, sender=app):
        ants.test_client().post("/sms/send", json=body, auth=(USERNAME, PASSWORD))
        emulator.flush()
    assert {answer for _, answer in emulator.messages[1].reports} == {"ExceptionGroup"}
    emulator.close()
    ants.test_client().post("/sms/send", json=body, auth=(USERNAME, PASSWORD))
    with pytest.raises(TimeoutError, match="Callbacks are still to be posted"):
        emulator.flush(timeout=0.01)


def test_nothing_personal_is_told(run_ants: Callable[..., Ants], url: str) -> None:
    ants = run_ants(malformed=1)
    ants.send(message(NUMBER, "66000000043", notifyUrl=f"{url}?to={NUMBER}"), message())
    ants.emulator.flush()
    assert ants.lines[0] == "send of 3 messages, 2 with a notifyUrl"
    assert "callback of 2 messages (2 ACCEPTED): 200" in ants.lines
    told = "\n".join([*ants.lines, repr(ants.emulator.messages), repr(ants.emulator.behaviour)])
    for secret in (NUMBER, TEXT, "481516", PASSWORD):
        assert secret not in told


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"lose": 1.1}, "lose must be a share from 0 to 1"),
        ({"odd": float("nan")}, "odd must be a share"),
        ({"delay": -1}, "delay must be from 0 to 86,400 seconds"),
        ({"delay": float("nan")}, "delay must be"),
        ({"rate_limit": 0}, "rate_limit must be from 1"),
        ({"keep": LATEST_TRANSACTIONS + 1}, "keep must be from 1 to 30,000"),
        ({"encoding": "latin-1"}, "encoding must be one of utf-8"),
        ({"statuses": {}}, "statuses must have a weight above 0"),
        ({"statuses": {"": 1}}, "statuses must be names"),
        ({"statuses": {"A\x01": 1}}, "statuses must be names"),
        ({"statuses": {"A": float("nan")}}, "statuses must be names with weights of 0 or more"),
        ({"statuses": {"A": -1, "B": 2}}, "statuses must be names with weights of 0 or more"),
        ({"username": "a:b"}, "username cannot have a colon"),
    ],
)
def test_behaviour_that_cannot_be_meant(behaviour: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        create_app(**behaviour)


@pytest.mark.slow(reason="many sends, to a database")
def test_reports_that_are_lost_are_found_again(
    run_ants: Callable[..., Ants], make_inbox_app: MakeApp
) -> None:
    """What a receiver with an inbox has is what was told; Message Logs know the rest."""
    receiver = make_inbox_app()
    heard = Heard(receiver)
    ants = run_ants(lose=0.5, repeat=0.5, shuffle=0.5)
    with serving(receiver) as url:
        for _ in range(20):
            ants.send(message(notifyUrl=url))
        ants.emulator.flush()
    drain(receiver)
    told = {one.message_id for one in ants.emulator.messages if one.was_told}
    assert {one.message_id for one in heard.messages if one.status.name == "DELIVERED"} == told
    assert all(count == 1 for count in Counter(map(str, lives(heard).items())).values())
    lost = [one for one in ants.emulator.messages if not one.was_told]
    assert lost
    for one in lost:
        (bulk,) = ants.logs(messageId=one.message_id).json()
        assert bulk["details"][0]["status"]["name"] == "DELIVERED"


# The command.


def run(app: Flask, *options: str) -> Result:
    result = app.test_cli_runner().invoke(cli, ["emulate", *options])
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--lose", "2"], "give a share from 0 to 1"),
        (["--delay", "nan"], "delay must be from 0"),
        (["--rate-limit", "0"], "rate_limit must be from 1"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--status", "A=x"], "give names with weights"),
        (["--blueprint", "other"], "There is no blueprint 'other'"),
    ],
)
def test_wrong_options(app: Flask, options: list[str], error: str) -> None:
    result = run(app, *options)
    assert result.exit_code in {1, 2}
    assert error in result.output


def test_an_application_without_the_blueprint() -> None:
    """Needs to be told the credentials, and no more."""
    app = Flask(__name__)
    assert "registered no DeliveryReportBlueprint" in run(app).output
    options = ["--username", "ants", "--password", "pair", "--delay", "-1"]
    assert "delay must be from 0" in run(app, *options).output


def test_a_port_that_is_in_use(app: Flask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(app, "--port", str(taken.getsockname()[1])).exit_code == 1


def test_without_the_extra(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    for name in ("ants", "emulator"):
        monkeypatch.delitem(sys.modules, f"flask_ants_dr.{name}", raising=False)
        monkeypatch.delattr(f"flask_ants_dr.{name}", raising=False)
    result = run(app)
    assert result.exit_code == 1
    assert "pip install 'Flask-ANTS-DR[simulator]'" in result.output


HOST = f"""
from flask import Flask
from flask_ants_dr import DeliveryReportBlueprint
app = Flask(__name__)
app.config.update(ANTS_DR_USERNAME="{USERNAME}", ANTS_DR_PASSWORD="{PASSWORD}")
app.register_blueprint(DeliveryReportBlueprint())
"""


@pytest.mark.slow(reason="a process")
def test_the_command(url: str, heard: Heard, tmp_path: Path) -> None:
    """Within a host, whose credentials it takes."""
    (tmp_path / "host.py").write_text(HOST)
    options = ["--port", "0", "--delay", "0", "--seed", "1", "--status", "REJECTED", "--odd", "5%"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "host", "ants-dr", "emulate", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=said.extend, args=[process.stdout])
    reader.start()
    try:
        wait_for(lambda: len(said) >= 3)
        root = re.findall(r"http://127\.0\.0\.1:\d+", said[0])[0]
        assert (
            f"user name {USERNAME} and the password that the application is configured" in said[1]
        )
        assert "Only this machine reaches it." in said[2]
        with httpx.Client(base_url=root, auth=(USERNAME, PASSWORD), timeout=60) as client:
            body = {"messages": [message(notifyUrl=url)]}
            assert client.post("/sms/send", json=body).status_code == 200
            wait_for(lambda: len(said) >= 7)
            (bulk,) = client.get("/sms/loginfo", params={"mobile": NUMBER}).json()
            assert bulk["details"][0]["status"]["name"] == "REJECTED"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
    assert said[3:] == [
        "send of 1 message, 1 with a notifyUrl\n",
        "callback of 1 message (1 ACCEPTED): 200\n",
        "callback of 1 message (1 PENDING): 200\n",
        "callback of 1 message (1 REJECTED): 200\n",
    ]
    assert PASSWORD not in "".join(said)
    assert [one.status.name for one in heard.messages] == ["ACCEPTED", "PENDING", "REJECTED"]
