"""``flask ants-dr simulate`` and ``send-sample``, against real servers, good and bad."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask_wtf import CSRFProtect

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.cli import cli
from flask_ants_dr.decoding import decode
from flask_ants_dr.encoding import ENCODINGS
from flask_ants_dr.encoding import FORMATS
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import Format
from flask_ants_dr.schemas import BANGKOK
from flask_ants_dr.simulator import Plan
from flask_ants_dr.simulator import callbacks
from kit import PASSWORD
from kit import USERNAME
from kit import Heard
from kit import make_app
from servers import serving

Run = Callable[..., Result]


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def run(app: Flask) -> Run:
    def run(command: str, *options: str) -> Result:
        result = app.test_cli_runner().invoke(cli, [command, *options])
        assert "Traceback" not in result.output
        assert PASSWORD not in result.output
        assert not re.search(r"6600\d{7}", result.output), "a phone number"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_message_arrives(
    url: str, run: Run, heard: Heard, format: Format, encoding: Encoding
) -> None:
    options = ["--messages", "103", "--batch", "20", "--concurrency", "3"]
    result = run(
        "simulate", "--url", url, *options, "--format", format, "--encoding", encoding, "--json"
    )
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["answers"] == [{"answer": "200", "expected": True, "callbacks": 6}]
    assert (table["callbacks"], table["messages"]) == (6, 103)
    assert (table["accepted"], table["rejected"]) == (103, 0)
    assert len(heard.messages) == 103
    assert len({message.message_id for message in heard.messages}) == 103
    assert all(re.fullmatch(r"6600\d{7}", message.to or "") for message in heard.messages)
    assert all(message.done_date and message.text for message in heard.messages)
    assert {type(report.bulk_id) for report in heard_reports(heard)} == {str}


def heard_reports(heard: Heard) -> list[Any]:
    return [arguments["report"] for arguments in heard.arguments("report_received")]


def test_the_table(url: str, run: Run, heard: Heard) -> None:
    result = run("simulate", "--url", url, "--messages", "25", "--malformed", "100%")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["answer", "callbacks"]
    assert [line.split() for line in lines[1:5]] == [
        ["200", "3"],
        ["400", "1"],
        ["415", "1"],
        ["422", "1"],
    ]
    assert lines[5].startswith("6 callbacks with 25 messages in ")
    assert lines[6] == "The answers count 25 accepted, 0 rejected."
    assert re.fullmatch(
        r"Time to answer: median [\d.]+ ms, 95 % [\d.]+ ms, 99 % [\d.]+ ms, longest [\d.]+ ms",
        lines[7],
    )
    assert len(heard.messages) == 25


def test_the_life_of_each_message(url: str, run: Run, heard: Heard) -> None:
    options = ["--messages", "30", "--follow", "--concurrency", "4", "--status", "expired"]
    assert run("simulate", "--url", url, *options).exit_code == 0
    lives: dict[str, list[str]] = {}
    for message in heard.messages:
        lives.setdefault(message.message_id, []).append(message.status.name)
        assert (message.done_date is None) is (message.status.name != "EXPIRED")
    assert len(lives) == 30
    assert {tuple(life) for life in lives.values()} == {("ACCEPTED", "PENDING", "EXPIRED")}


def test_a_mix_of_statuses(url: str, run: Run, heard: Heard) -> None:
    options = ["--messages", "400", "--batch", "100", "--seed", "1"]
    mix = "DELIVERED=70, EXPIRED=20,NEW_NAME=10,REJECTED=0"
    assert run("simulate", "--url", url, *options, "--status", mix).exit_code == 0
    found = Counter(message.status.name for message in heard.messages)
    assert found.keys() == {"DELIVERED", "EXPIRED", "NEW_NAME"}
    assert found["DELIVERED"] > found["EXPIRED"] > found["NEW_NAME"]


def test_duplicates_come_twice_with_the_same_body(url: str, run: Run, heard: Heard) -> None:
    options = ["--messages", "40", "--batch", "1", "--duplicates", "0.25"]
    result = run("simulate", "--url", url, *options, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["messages"] == 50
    often = Counter(heard.messages)
    assert Counter(often.values()) == {1: 30, 2: 10}
    assert {report.bulk_id for report in heard_reports(heard)} == {None}, "one phone, no bulk"


@pytest.mark.parametrize(
    ("format", "unread"),
    [
        ("json", {"credit", "sendDate", "doneDate", "to", "callbackData"}),
        ("xml", {"credit", "sendDate", "doneDate"}),
    ],
)
def test_odd_messages_are_taken(
    url: str, run: Run, heard: Heard, format: Format, unread: set[str]
) -> None:
    options = ["--messages", "80", "--follow", "--duplicates", "50%", "--malformed", "50%"]
    result = run("simulate", "--url", url, *options, "--format", format, "--odd", "100%", "--json")
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert (table["messages"], table["accepted"], table["rejected"]) == (360, 360, 0)
    states = Counter(message.status.state for message in set(heard.messages))
    assert states == {"ACCEPTED": 80, "PENDING": 80, "DELIVERED": 80}
    problems = [message.problems for message in heard.messages]
    assert {member for one in problems for member in one} == unread
    assert {} in problems, "some can be mended"
    now = datetime.now(BANGKOK)
    dates = [date for one in heard.messages if (date := one.done_date)]
    assert all(now - timedelta(hours=1) < date < now for date in dates)


def test_the_share_of_odd_messages() -> None:
    """The others are what they would be without."""

    def details(odd: float) -> list[dict[str, Any]]:
        plan = Plan(messages=200, odd=odd, seed=1)
        made = [one for together in callbacks(plan) for one in together]
        assert all(one.expected == 200 for one in made)
        return [detail for one in made for detail in json.loads(one.body)["details"]]

    plain = details(0)
    for share, count in ((0.1, 20), (1, 200)):
        pairs = list(zip(plain, details(share), strict=True))
        assert sum(one != other for one, other in pairs) == count
        assert all(one["messageId"] == other["messageId"] for one, other in pairs)


def test_a_seed_makes_the_same_again() -> None:
    def made(seed: int | None) -> list[Any]:
        plan = Plan(messages=30, follow=True, duplicates=0.2, malformed=0.5, odd=0.5, seed=seed)
        made = [one for together in callbacks(plan) for one in together]
        assert len(made) == plan.callbacks
        return made

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert made(None) != made(None)
    plan = Plan(messages=30, seed=1)
    first = decode(next(callbacks(plan))[0].body, "application/json")
    assert {detail["sendDate"][:10] for detail in first["details"]} == {"2026-01-01"}


def test_send_sample(url: str, run: Run, heard: Heard) -> None:
    result = run("send-sample", "--url", url)
    assert result.exit_code == 0
    assert result.stdout == (
        "report.json: 200, 2 accepted, 0 rejected\nreport.xml: 200, 2 accepted, 0 rejected\n"
    )
    assert len(heard.messages) == 4


def test_send_sample_says_why(app: Flask, url: str, run: Run) -> None:
    app.secret_key = "dev"
    csrf = CSRFProtect(app)
    result = run("send-sample", "--url", url)
    assert result.exit_code == 1
    reason = "400 Bad Request Bad Request The CSRF token is missing."
    assert f"report.xml: 400, 0 accepted, 0 rejected\n  {reason}\n" in result.stdout
    csrf.exempt(app.blueprints["ants_dr"])
    result = run("send-sample", "--url", url, "--password", "other")
    assert result.exit_code == 1
    assert f"The callback is {url}; a different one is named with --url." in result.stderr
    detail = "The credentials are missing or wrong: the callback needs the HTTP Basic pair"
    assert f"report.json: 401, 0 accepted, 0 rejected\n  {detail} that" in result.stdout
    assert run("send-sample", "--url", url).exit_code == 0


# Servers that are not as they should be.


@pytest.fixture
def bad_server() -> Iterator[Callable[[bytes | None], str]]:
    """Makes servers that give one answer to everything, or (``None``) never any."""
    sockets: list[socket.socket] = []

    def make(answer: bytes | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve() -> None:
            kept = []
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    kept.append(connection)
                    if answer is not None:
                        connection.recv(1_000_000)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield make
    for server in sockets:
        server.close()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "500"),
        (
            b"HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "302",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "closed without an answer"),
        (b"", "closed without an answer"),
        (b"hello", "closed without an answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
            "an answer that cannot be read",
        ),
        (None, "no answer in 0.2 s"),
    ],
)
def test_bad_servers(
    run: Run, bad_server: Callable[[bytes | None], str], answer: bytes | None, shown: str
) -> None:
    target = ["--url", bad_server(answer), "--timeout", "0.2"]
    result = run("simulate", *target, "--messages", "30", "--json")
    assert result.exit_code == 1
    table = json.loads(result.stdout)
    assert table["answers"] == [{"answer": shown, "expected": False, "callbacks": 3}]
    assert (table["messages"], table["accepted"]) == (30, 0)
    result = run("send-sample", *target)
    assert result.exit_code == 1
    assert f"report.json: {shown}" in result.stdout


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"accepted": null, "rejected": 0}',
        b'{"accepted": 1e999, "rejected": 0}',
        b'{"accepted": 0, "rejected": 1}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_counts_nothing(
    run: Run, bad_server: Callable[[bytes | None], str], body: bytes
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    result = run("simulate", "--url", bad_server(answer % (len(body), body)), "--messages", "1")
    assert result.exit_code == 1
    assert re.search(r"200 +1  unexpected", result.stdout)
    assert "0 accepted" in result.stdout


@pytest.mark.parametrize(
    ("content_type", "body", "shown"),
    [
        (
            "text/html",
            "<style>p {}</style><p>a &lt;b&gt;\r\n\x1b[31m\u202e",
            "a <b> \\u001b[31m\\u202e",
        ),
        ("text/html", "<script>" + "x" * 30_000, ""),
        ("text/plain", "a <p> is not\na tag", "a <p> is not a tag"),
        ("application/json", '{"detail": "\\u001b[2J"}', "\\u001b[2J"),
        ("application/json", '{"detail": 1}', '{"detail": 1}'),
        ("application/json; charset=nonsense", "{", "{"),
        ("text/plain", "x" * 1000, "x" * 300),
    ],
)
def test_reasons(
    run: Run,
    bad_server: Callable[[bytes | None], str],
    content_type: str,
    body: str,
    shown: str,
) -> None:
    """Whatever a server says is shown on a line, without what a terminal would obey."""
    content = body.encode()
    answer = (
        b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
    )
    url = bad_server(answer % (content_type.encode(), len(content), content))
    reason = f"  {shown}\n" if shown else ""
    answers = [f"{name}: 500, 0 accepted, 0 rejected\n" for name in ("report.json", "report.xml")]
    assert run("send-sample", "--url", url).stdout == "".join(one + reason for one in answers)


def test_a_server_that_is_down(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    result = run("simulate", "--url", url, "--messages", "100")
    assert result.exit_code == 1
    assert re.search(r"no connection +10  unexpected", result.stdout)
    assert f"There is no server at {url}" in result.stderr


def test_wrong_credentials(url: str, run: Run, heard: Heard) -> None:
    result = run("simulate", "--url", url, "--password", "other", "--messages", "10")
    assert result.exit_code == 1
    assert f"The callback is {url}; a different one is named with --url." in result.stderr
    assert re.search(r"401 +1  unexpected", result.stdout)
    assert "other" not in result.output
    assert heard.messages == []


def test_a_subscriber_that_fails(app: Flask, url: str, run: Run) -> None:
    from flask_ants_dr import message_reported

    def subscriber(sender: Flask, **arguments: Any) -> None:
        raise LookupError

    with message_reported.connected_to(subscriber, sender=app):
        result = run("simulate", "--url", url, "--messages", "10")
    assert result.exit_code == 1
    assert re.search(r"500 +1  unexpected", result.stdout)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--url", "ftp://127.0.0.1/"], "give one such as http://"),
        (["--url", "http://"], "give one such as http://"),
        (["--url", "http://[/"], "give one such as http://"),
        (["--url", "http://a:x/"], "give one such as http://"),
        (["--url", "http://name:pair@127.0.0.1/"], "without credentials in it"),
        (["--url", "http://127.0.0.1/a\tb"], "give one such as http://"),
        (["--timeout", "nan"], "give a number above 0"),
        (["--timeout", "0"], "give a number above 0"),
        (["--rate", "inf"], "give a number above 0"),
        (["--url", "http://xn--/"], "It failed: "),
        (["--status", "=1"], "give names with weights"),
        (["--status", "A=x"], "give names with weights"),
        (["--status", "A=-1"], "give names with weights"),
        (["--status", "A="], "give names with weights"),
        (["--status", "A=0,B=0"], "give names with weights"),
        (["--duplicates", "2"], "give a share from 0 to 1"),
        (["--malformed", "x%"], "give a share from 0 to 1"),
        (["--malformed", "nan"], "give a share from 0 to 1"),
        (["--odd", "-1"], "give a share from 0 to 1"),
        (["--messages", "0"], "0 is not in the range"),
        (["--blueprint", "other"], "There is no blueprint 'other'"),
        (["--format", "yaml"], "'yaml' is not one of"),
    ],
)
def test_wrong_options(run: Run, options: list[str], error: str) -> None:
    result = run("simulate", *options)
    assert result.exit_code in {1, 2}
    assert error in result.stderr
    assert result.stdout == ""


def test_an_application_that_cannot_say_where() -> None:
    app = make_app(DeliveryReportBlueprint(rule="/sms/<tenant>"))
    result = app.test_cli_runner().invoke(cli, ["simulate"])
    assert result.exit_code == 1
    assert "has variables: give the URL" in result.output
    other = Flask(__name__).test_cli_runner().invoke(cli, ["send-sample"])
    assert "registered no DeliveryReportBlueprint" in other.output


def test_a_server_of_another_application(url: str) -> None:
    """With a URL and credentials, the application itself need not have the blueprint."""
    options = ["--url", url, "--username", USERNAME, "--password", PASSWORD]
    result = Flask(__name__).test_cli_runner().invoke(cli, ["simulate", *options])
    assert result.exit_code == 0, result.output


def test_this_applications_own_callback(
    app: Flask, url: str, run: Run, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    monkeypatch.setenv("FLASK_RUN_PORT", url.split(":")[2].split("/")[0])
    assert run("simulate").exit_code == 0
    assert len(heard.messages) == 100


def test_without_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "flask_ants_dr.simulator", raising=False)
    monkeypatch.delattr("flask_ants_dr.simulator", raising=False)
    result = run("simulate")
    assert result.exit_code == 1
    assert "pip install 'Flask-ANTS-DR[simulator]'" in result.stderr


@pytest.mark.slow(reason="a process, to be interrupted")
def test_ctrl_c(url: str, heard: Heard, tmp_path: Path) -> None:
    """It waits for what is under way, and shows the table so far. The rate leaves time for it."""
    tmp_path.joinpath("host.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    target = ["--url", url, "--username", USERNAME, "--password", PASSWORD]
    command = ["simulate", *target, "--rate", "0.01", "--concurrency", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "host", "ants-dr", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not heard.messages:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert re.search(r"200 +1\n1 callbacks with 10 messages", output)
    assert len(heard.messages) == 10
