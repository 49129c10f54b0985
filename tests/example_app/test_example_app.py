"""The example application, started as its users start it, over real HTTP."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from flask import Flask
from flask.testing import FlaskClient

import example_app
from demo import Demo
from demo import stop
from demo import wait_until
from example_app import figures
from example_app import records
from example_app import worker
from flask_ants_dr import DeliveryState
from flask_ants_dr.schemas import BANGKOK
from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import make_message
from flask_ants_dr.testing import make_report
from kit import ROOT
from kit import SAMPLES
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    process = demo.start()
    yield demo
    stop(process)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The application itself, with its database in a folder of the test's."""
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", "ants")
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", "demo")
    monkeypatch.setattr(Flask, "auto_find_instance_path", lambda self: str(tmp_path))
    # Its thread would outlive the test.
    monkeypatch.setattr(worker, "init_app", lambda app: None)
    app = example_app.create_app()
    yield app
    bound_inbox(app).database.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def messages(demo: Demo) -> list[tuple[Any, ...]]:
    return demo.query("SELECT message_id, to_number, state FROM ants_dr_ledger ORDER BY id")


@pytest.mark.slow(reason="the demo in a process of its own")
def test_both_samples_are_recorded_once_however_often_they_come(demo: Demo) -> None:
    for _ in range(2):
        for name in ("json", "xml"):
            body = (SAMPLES / f"report.{name}").read_bytes()
            assert demo.post(body, f"application/{name}") == {"accepted": 2, "rejected": 0}
    # Both are of the same two.
    assert len(messages(demo)) == 2
    assert {state for _, _, state in messages(demo)} == {"DELIVERED"}
    _, page = demo.request("GET", "/")
    assert page.count(b'<tr id="message-') == 2
    shown = re.findall(rb'class="number">.*?</span> (\d+)</span>', page)
    assert sorted(shown) == [b"3445", b"6789"]
    assert not re.search(rb"\d{6}(6789|3445)", page)


@pytest.mark.slow(reason="the demo in a process of its own")
def test_a_final_state_stays(demo: Demo) -> None:
    for name in ("ACCEPTED", "EXPIRED", "PENDING"):
        body = json.dumps(callback(detail(status={"name": name}))).encode()
        demo.post(body)
    ((_, _, state),) = messages(demo)
    assert state == "EXPIRED"
    reports = demo.query("SELECT status FROM example_history ORDER BY id")
    assert reports == [("ACCEPTED",), ("EXPIRED",), ("PENDING",)]


@pytest.mark.slow(reason="the demo in a process of its own")
def test_it_tries_again_until_a_message_is_dead_and_then_when_asked(demo: Demo) -> None:
    demo.request("POST", "/outage", b"down=", content_type="application/x-www-form-urlencoded")
    demo.post(json.dumps(callback(detail())).encode())
    states = "SELECT state, attempts FROM ants_dr_messages"
    wait_until(lambda: demo.query(states) == [("dead", 3)])
    _, page = demo.request("GET", "/")
    assert b"ConnectionError: the billing system does not answer" in page
    demo.request("POST", "/outage")
    demo.request("POST", "/dead/retry")
    wait_until(lambda: demo.query(states) == [("done", 1)])


@pytest.mark.slow(reason="the demo in a process of its own")
def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    process = demo.start()
    demo.request("GET", "/")
    body = b"messages=5000"
    demo.request("POST", "/simulate", body, content_type="application/x-www-form-urlencoded")
    wait_until(lambda: len(messages(demo)) > 0)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    finally:
        process.kill()


@pytest.mark.slow(reason="the demo in a process of its own")
def test_it_survives_a_restart(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    for _ in range(2):
        process = demo.start()
        demo.post((SAMPLES / "report.json").read_bytes())
        _, page = demo.request("GET", "/")
        stop(process)
        assert page.count(b'<tr id="message-') == 2


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"Host": "192.0.2.1"}),
        ("/", {"Host": "127.0.0.1.attacker.example"}),
        ("/", {"Host": "[bad"}),
        ("/events", {"Host": "attacker.example"}),
        ("/message?id=1", {"Host": "attacker.example"}),
    ],
)
def test_the_page_answers_its_own_machine_only(
    client: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    assert client.get(path, headers=headers).status_code == 403


def test_the_page_answers_no_other_machine(client: FlaskClient) -> None:
    answer = client.get("/", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 403
    assert "own machine only" in answer.text


@pytest.mark.parametrize("path", ["/simulate", "/outage", "/dead/retry", "/quarantine/replay"])
@pytest.mark.parametrize("origin", ["https://attacker.example", "null"])
def test_no_other_site_presses_a_button(client: FlaskClient, path: str, origin: str) -> None:
    assert client.post(path, headers={"Origin": origin}).status_code == 403


def test_the_callback_answers_everywhere(app: Flask) -> None:
    client = app.test_client()
    client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    answer = AntsClient(client).deliver(make_report(make_message()))
    assert answer.get_json() == {"accepted": 1, "rejected": 0}


@pytest.mark.parametrize(
    "query",
    [
        "endpoint=x&_external=1",
        "show=-1",
        "show=99999999999999999999999",
        "show=x",
        "range=century",
        "state=%00&message=%ff&bulk=%27%3B--%00",
        "language=xx",
    ],
)
def test_odd_queries(client: FlaskClient, query: str) -> None:
    assert client.get(f"/?{query}").status_code == 200


def test_what_came_is_no_markup(app: Flask) -> None:
    script = "<script>alert(1)</script>"
    status = make_message(script).status
    message = make_message(message_id=script, sender=script, text=script, status=status)
    AntsClient(app.test_client()).deliver(make_report(message, bulk_id=script))
    client = app.test_client()
    shown = ("/message", {"id": script, "end": message.to and message.to[-4:]})
    for path, query in (("/", {}), shown, ("/", {"message": script, "bulk": script})):
        text = client.get(path, query_string=query).text
        assert "&lt;script&gt;alert" in text
        assert "<script>alert" not in text


def test_odd_messages(app: Flask) -> None:
    details = [
        detail(messageId="1"),
        detail(
            messageId="2", sendDate="9999-12-31T23:59:59Z", doneDate="0001-01-01T00:00:01+07:00"
        ),
        detail(messageId="3", text="ก" * 1_000_000, to="1", **{"from": "\u202e"}),
        detail(messageId="4", status={"name": "NOVEL"}, text=None, to=None),
    ]
    ants = Ants(app.test_client())
    assert ants.post(callback(*details), auth=("ants", "demo")).get_json()["accepted"] == 4
    client = app.test_client()
    page = client.get("/").text
    assert page.count('<tr id="message-') == 4
    assert len(page) < 200_000
    for link in links(page):
        assert client.get(link).status_code == 200


@pytest.mark.parametrize("query", ["", "?id=2", "?id=1", "?id=1&end=6789", "?id=%00"])
def test_no_such_message(app: Flask, query: str) -> None:
    deliver(app, detail(to="66812345678"))
    assert app.test_client().get("/message?id=1&end=5678").status_code == 200
    assert app.test_client().get(f"/message{query}").status_code == 404


def test_a_callback_that_is_no_longer_in_quarantine(client: FlaskClient) -> None:
    answer = client.post("/quarantine/replay", data={"id": "7"}, follow_redirects=True)
    assert "It is no longer there." in answer.text


@pytest.mark.parametrize("path", ["/dead/retry", "/quarantine/replay"])
@pytest.mark.parametrize("id", ["", "abc", "0", "99999999999999999999"])
def test_a_button_without_a_sensible_id(client: FlaskClient, path: str, id: str) -> None:
    assert client.post(path, data={"id": id}).status_code == 400


def test_every_page_forbids_what_is_not_its_own(client: FlaskClient) -> None:
    for path in ("/", "/message"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")


def test_what_comes_late_is_added(app: Flask) -> None:
    deliver(app, detail(status={"name": "PENDING"}, sendDate="2026-01-01T00:00:00"))
    deliver(app, detail(text="late", **{"from": "Shop"}))
    found = only(app)
    assert (found.entry.sender, found.text) == ("Shop", "late")


def test_what_could_not_be_read_is_marked_and_listed(app: Flask) -> None:
    for state in ("PENDING", "DELIVERED"):
        status = {"name": state, "code": {"number": 0}}
        odd = detail(messageId="odd", credit="1,00", doneDate="<i>27/5", status=status)
        deliver(app, detail(messageId="plain"), odd)
    client = app.test_client()
    listed = client.get("/").text.split('<tr id="message-')[1:]
    marked = {re.findall(r"of message (\w+)<", row)[0]: ">partly read<" in row for row in listed}
    assert marked == {"plain": False, "odd": True}
    plain, shown = [client.get(f"/message?id={name}").text for name in ("plain", "odd")]
    assert "What could not be read" not in plain
    problems = re.findall(r"<dt><code>([\w.]+)</code></dt><dd lang=\"en\">.+?</dd>", shown)
    assert problems == ["credit", "doneDate", "status.code"]
    assert "1,00" not in shown
    assert "27/5" not in shown


def test_half_a_callback_stays_in_quarantine(app: Flask) -> None:
    ants = Ants(app.test_client())
    ants.post(callback(detail(), {"to": "1"}), auth=("ants", "demo"))
    answer = app.test_client().post("/quarantine/replay", follow_redirects=True)
    assert "It was refused again" in answer.text


def test_a_number_of_messages_that_is_not_offered(client: FlaskClient) -> None:
    assert client.post("/simulate", data={"messages": "1000000"}).status_code == 400
    assert client.post("/simulate", data={"messages": "50", "lose": "7"}).status_code == 400


def deliver(app: Flask, *details: dict[str, Any]) -> None:
    ants = Ants(app.test_client())
    answer = ants.post(callback(*details), auth=("ants", "demo"))
    assert answer.get_json() == {"accepted": len(details), "rejected": 0}


def only(app: Flask) -> figures.Message:
    """The only message."""
    with app.app_context():
        (found,) = figures.figures(bound_inbox(app).ledger, time.time()).messages
    return found


def links(page: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="(/message\?.*?)"', page)]


def test_a_message_goes_forward_only(app: Flask) -> None:
    deliver(app, detail(status={"name": "PENDING"}))
    deliver(app, detail(status={"name": "ACCEPTED"}))
    found = only(app)
    assert found.entry.state == "PENDING"
    assert [report["status"] for report in found.reports] == ["PENDING", "ACCEPTED"]
    dates = {"sendDate": "2026-01-01T00:00:00", "doneDate": "2026-01-01T00:00:05"}
    deliver(app, detail(**dates))
    found = only(app)
    assert (found.entry.state, found.seconds, len(found.reports)) == ("DELIVERED", 5.0, 3)


def test_no_number_is_in_a_link_or_in_the_records(app: Flask) -> None:
    deliver(app, detail(to="66812345678"))
    page = app.test_client().get("/").text
    assert links(page) == ["/message?id=1&end=5678"]
    assert "6681234" not in page
    with app.app_context(), records.transaction() as database:
        kept = "\n".join(database.iterdump())
    (history,) = re.findall(r'INSERT INTO "example_history".*', kept)
    assert "6681234" not in history


def test_what_is_sent_and_not_reported(app: Flask) -> None:
    ledger = bound_inbox(app).ledger
    ledger.expect("now", "0812345678")
    ledger.expect("long ago", "0812345679", sent_at=datetime.now(BANGKOK) - figures.OVERDUE)
    deliver(app, detail(messageId="delivered"))
    client = app.test_client()
    page = client.get("/").text
    shown = re.findall(r'id="(state-none|total)".*?<dd>(\d+)</dd>', page)
    assert shown == [("total", "3"), ("state-none", "2")]
    overdue = page[page.index('<div id="overdue">') : page.index('<div id="dead">')]
    assert '<span class="count" id="overdue-count">1</span>' in overdue
    (link,) = links(overdue)
    assert "<code>long ago</code>" in client.get(link).text
    deliver(app, detail(messageId="long ago", to="66812345679"))
    assert '<span class="count" id="overdue-count">0</span>' in client.get("/").text


def test_the_latest_change_comes_first(app: Flask) -> None:
    deliver(app, detail(messageId="a", status={"name": "PENDING"}), detail(messageId="b"))
    deliver(app, detail(messageId="a"))
    with app.app_context():
        listed = figures.figures(bound_inbox(app).ledger, time.time()).messages
    assert [one.entry.message_id for one in listed] == ["a", "b"]


def test_nothing_follows_a_page_that_is_just_full(app: Flask) -> None:
    deliver(app, *(detail(messageId=str(number)) for number in range(figures.PAGE)))
    assert 'id="more"' not in app.test_client().get("/").text


def test_percentiles_are_by_the_nearest_rank(app: Flask) -> None:
    deliver(
        app,
        *(
            detail(
                messageId=str(seconds),
                sendDate="2026-01-01T00:01:00",
                doneDate=f"2026-01-01T00:01:{seconds:02}",
            )
            for seconds in range(1, 14)
        ),
        # Done before it was sent: some clock is wrong, and it says nothing of the others.
        detail(messageId="x", sendDate="2026-01-01T00:01:00", doneDate="2026-01-01T00:00:00"),
    )
    with app.app_context():
        ledger = bound_inbox(app).ledger
        found = figures.figures(ledger, time.time())
        assert (found.median, found.percentile_95) == (7.0, 13.0)
        assert sum(found.histogram) == 13
        # The clock was set back since: what is in the future counts as of now.
        earlier = figures.figures(ledger, time.time() - 3600)
        assert earlier.over_time["delivered"][-1] == 14


def test_the_chart_has_the_time_of_bangkok(app: Flask) -> None:
    deliver(app, detail())
    table = re.findall(r'<th scope="row">(\d\d:\d\d:\d\d)</th>', app.test_client().get("/").text)
    now = datetime.now(BANGKOK)
    assert {row[:2] for row in table} <= {f"{now:%H}", f"{now - timedelta(minutes=1):%H}"}


def test_only_what_has_ended_is_billed(app: Flask) -> None:
    client = app.test_client()
    client.post("/outage", data={"down": ""})
    deliver(app, detail(messageId="a", status={"name": "PENDING"}), detail(messageId="b"))
    assert counts(app) == {"pending": 1, "done": 1, "dead": 0}


def test_where_a_form_leads_back_to(client: FlaskClient) -> None:
    for referrer, location in (
        ("http://localhost/?state=EXPIRED", "http://localhost/?state=EXPIRED"),
        ("http://localhost/message?id=1", "/"),
        ("https://attacker.example/", "/"),
        ("", "/"),
    ):
        answer = client.post("/outage", headers={"Referer": referrer})
        assert (answer.status_code, answer.location) == (303, location)


def test_one_simulation_at_a_time(app: Flask) -> None:
    client = app.test_client()
    with app.extensions["example_simulation"]:
        text = client.post("/simulate", data={"messages": "50"}, follow_redirects=True).text
    assert "A simulation is running already." in text


def test_the_figures(app: Flask) -> None:
    """Against the same figures worked out by hand."""
    took = [0.5, 1.5, 3.0, 3.0, 40.0, 7200.0]
    now = 1_800_000_000.0
    inbox = bound_inbox(app)
    inbox.ledger.expect("x", "0812345678", sent_at=datetime.fromtimestamp(now - 3600, BANGKOK))
    for number in range(len(took)):
        deliver(app, detail(messageId=str(number), status={"name": "EXPIRED"}))
    with app.app_context():
        with records.transaction("IMMEDIATE") as database:
            for number, seconds in enumerate(took):
                database.execute(
                    "UPDATE example_history SET seconds = ? WHERE message_id = ?",
                    (seconds, str(number)),
                )
                database.execute(
                    "UPDATE ants_dr_ledger SET state = ?, changed_at = ? WHERE message_id = ?",
                    ("EXPIRED" if number == 5 else "DELIVERED", now - 10 * number, str(number)),
                )
        found = figures.figures(inbox.ledger, now)
        assert found.total == 7
        assert found.delivery_rate == 5 / 6
        assert (found.median, found.percentile_95) == (3.0, 7200.0)
        assert found.histogram == [1, 1, 2, 0, 0, 0, 0, 1, 0, 0, 1]
        assert found.over_time["delivered"][-5:] == [1, 1, 1, 1, 1]
        assert found.over_time["failed"][-6:] == [1, 0, 0, 0, 0, 0]
        assert sum(found.over_time["underway"]) == 0
        day = figures.figures(inbox.ledger, now, range_="1d")
        assert sum(day.over_time["underway"]) == 1
        assert len(figures.figures(inbox.ledger, now, state=DeliveryState.DELIVERED).messages) == 5
        assert len(figures.figures(inbox.ledger, now, message_id="x").messages) == 1
        assert len(figures.figures(inbox.ledger, now, bulk_id="b").messages) == 6


def test_more_messages(app: Flask) -> None:
    client = app.test_client()

    def more(text: str) -> str:
        (link,) = re.findall(r'id="more" href="(.*?)"', text)
        return client.get(unescape(link)).text

    def deliver(*names: object) -> None:
        made = [make_message(message_id=str(name)) for name in names]
        AntsClient(app.test_client()).deliver(make_report(*made))

    def ids(text: str) -> list[str]:
        return re.findall(r"of message (\w+)<", text)

    deliver(*range(2 * figures.PAGE + 1))
    first = client.get("/").text
    second = more(first)
    third = more(second)
    everything = ids(third)
    assert sorted(everything, key=int) == [str(number) for number in range(2 * figures.PAGE + 1)]
    assert ids(first) == everything[: figures.PAGE]
    assert ids(second) == everything[: 2 * figures.PAGE]
    assert 'id="more"' not in third


def test_every_text_of_the_page_is_in_thai() -> None:
    folder = ROOT / "example_app"
    with (folder / "translations" / "th.po").open("rb") as file:
        catalogue = read_po(file, locale="th")
    known = {message.id: message.string for message in catalogue if message.id}
    used = {
        text
        for _, _, text, _, _ in extract_from_dir(
            folder / "templates", method_map=[("**.html", "jinja2")]
        )
    }
    assert {text if isinstance(text, str) else text[0] for text in used} == {
        text if isinstance(text, str) else text[0] for text in known
    }
    assert all(known.values())
    assert not [message for message in catalogue if message.fuzzy or list(message.check())]


@pytest.mark.parametrize(
    ("headers", "query", "heading"),
    [
        ({}, "", "Delivery reports"),
        ({"Accept-Language": "th-TH,th;q=0.9,en;q=0.8"}, "", "รายงานผลการส่ง SMS"),
        ({"Accept-Language": "de"}, "", "Delivery reports"),
        ({"Accept-Language": "th"}, "?language=en", "Delivery reports"),
    ],
)
def test_the_language(
    client: FlaskClient, headers: dict[str, str], query: str, heading: str
) -> None:
    assert f"<h1>{heading}</h1>" in client.get(f"/{query}", headers=headers).text


def test_the_language_that_was_chosen_stays(client: FlaskClient) -> None:
    client.get("/?language=th")
    assert '<html lang="th">' in client.get("/").text
    client.get("/?language=en")
    assert '<html lang="en">' in client.get("/").text


def test_the_readme_posts_to_it() -> None:
    lines = re.findall(r"^curl .*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 2
    for line, name in zip(lines, ("json", "xml"), strict=True):
        assert "-u ants:demo" in line
        assert f"@flask_ants_dr/samples/report.{name} " in line
