"""The example application, started as its users start it, over real HTTP."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import PAIR
from demo import Demo
from demo import stop
from kit import ROOT
from kit import SAMPLES
from kit import callback
from kit import detail
from servers import wait_for

ENDED = {"DELIVERED", "UNDELIVERED", "EXPIRED", "REJECTED"}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    process = demo.start()
    yield demo
    stop(process)


def states(demo: Demo) -> Counter[str]:
    """How many messages are in each state."""
    return Counter(row["state"] for row in demo.rows(""))


def message_logs(demo: Demo) -> list[dict[str, Any]]:
    """What the local ANTS knows of all that was sent."""
    query = "senddate_start=2000-01-01T00:00:00&senddate_end=2999-12-31T00:00:00"
    _, answer = demo.request("GET", f"/ants/sms/loginfo?{query}", authorization=str(PAIR))
    return [one for send in json.loads(answer) for one in send["details"]]


@pytest.mark.slow(reason="the demo in a process of its own, and messages take their time")
@pytest.mark.parametrize("inbox_url", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_what_is_sent_comes_to_its_end(tmp_path: Path, inbox_url: str) -> None:
    demo = Demo(tmp_path, inbox_url)
    process = demo.start()
    try:
        faults = [("fault", "malformed"), ("fault", "repeat")]
        assert demo.press("/simulate", [("messages", 50), *faults]) == "/ants-dr/"
        wait_for(lambda: states(demo).keys() <= ENDED)
        assert states(demo).total() == 50
        assert json.loads(demo.flask("ants-dr", "status", "--json"))["ants_dr"]["pending"] == 0
        assert "No worker is alive" not in demo.page("/ants-dr/now")
    finally:
        stop(process)


@pytest.mark.slow(reason="the demo in a process of its own, and three attempts")
def test_an_outage_needs_somebody_who_retries(demo: Demo) -> None:
    demo.press("/outage", [("down", "")])
    assert "It is down." in demo.page("/")
    # Only what has ended is billed.
    under_way = detail(messageId="2", status={"name": "PENDING"})
    demo.post(json.dumps(callback(detail(), under_way)).encode())
    wait_for(lambda: [row["state"] for row in demo.rows("needs-you")] == ["dead"])
    (trouble,) = demo.rows("needs-you")
    assert trouble["messages"] == "1"
    assert trouble["error"] == "ConnectionError: the billing system does not answer"
    assert trouble["subscriber"] == "example_app.subscribers.bill"
    page = demo.page("/ants-dr/needs-you")
    form = re.search(r'action="/ants-dr/needs-you/retry".*?</form>', page, re.DOTALL)
    assert form
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', form[0])
    demo.press("/outage")
    demo.press("/ants-dr/needs-you/retry", fields)
    wait_for(lambda: not demo.rows("needs-you"))


@pytest.mark.slow(reason="the demo in a process of its own, and messages take their time")
def test_message_logs_bring_what_was_lost(demo: Demo) -> None:
    demo.press("/simulate", [("messages", 500), ("fault", "lose")])
    # Then it has nothing more to tell.
    wait_for(lambda: all(one["doneDate"] for one in message_logs(demo)))
    open_ = sum(count for state, count in states(demo).items() if state not in ENDED)
    assert open_
    # What the console's button does, for what has ended just now, too.
    assert 'action="/ants-dr/overdue/reconcile"' in demo.page("/ants-dr/overdue")
    demo.flask("ants-dr", "reconcile", "--since", "1h", "--grace", "0s")
    assert states(demo).keys() <= ENDED
    assert states(demo).total() == 500


@pytest.mark.slow(reason="the demo in a process of its own")
def test_what_cannot_be_read_waits_in_quarantine(demo: Demo) -> None:
    for _ in range(2):
        for name in ("json", "xml"):
            body = (SAMPLES / f"report.{name}").read_bytes()
            assert demo.post(body, f"application/{name}") == {"accepted": 2, "rejected": 0}
    # Both are of the same two.
    assert states(demo) == {"DELIVERED": 2}
    demo.post(b"{")
    (entry,) = demo.rows("quarantine")
    led = demo.press("/ants-dr/quarantine/replay", [("callback", entry["callback"])])
    assert "notice=refused" in led
    assert demo.rows("quarantine") == [entry]


@pytest.mark.slow(reason="the demo in a process of its own")
def test_it_answers_its_own_machine_only(demo: Demo) -> None:
    attacker = "https://attacker.example"
    for path in ("/", "/ants-dr/", "/ants-dr/needs-you"):
        assert demo.request("GET", path, host="attacker.example")[0].status == 403
    for path in ("/simulate", "/outage", "/ants-dr/needs-you/retry"):
        assert demo.request("POST", path, origin=attacker)[0].status == 403
    for fields in (b"", b"messages=1000000"):
        form = "application/x-www-form-urlencoded"
        assert demo.request("POST", "/simulate", fields, content_type=form)[0].status == 400
    assert not demo.rows("")


@pytest.mark.slow(reason="the demo in a process of its own")
def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    process = demo.start()
    try:
        demo.press("/simulate", [("messages", 5000)])
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def test_the_readme_posts_to_it() -> None:
    lines = re.findall(r"^curl .*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 2
    for line, name in zip(lines, ("json", "xml"), strict=True):
        assert "-u ants:demo" in line
        assert f"@flask_ants_dr/samples/report.{name} " in line
