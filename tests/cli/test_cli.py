"""``flask ants-dr``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from marshmallow import pre_load

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import ReportSchema
from flask_ants_dr import message_reported
from flask_ants_dr.inbox import Inbox
from kit import TESTS
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
from kit import run
from kit import stop_server

STATUS = {"status": {"name": "DELIVERED"}}
Host = Callable[..., "subprocess.Popen[str]"]


class RefusingSchema(ReportSchema):
    """Refuses what the others take."""

    @pre_load
    def refuse(self, data: Any, **kwargs: Any) -> Any:
        return {}


def fail(sender: Flask, **extra: Any) -> None:
    raise LookupError("no such order")


def test_status(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    ants = Ants(app.test_client())
    ants.post(many(3))
    drain(app)
    ants.post(many(2) | {"bulkId": "other"})
    ants.post("not json")
    status = json.loads(run(app, "status", "--json"))["ants_dr"]
    assert 0 <= status.pop("oldest_pending_seconds") < 60
    last_callback_at = datetime.fromisoformat(status.pop("last_callback_at"))
    assert timedelta(0) <= datetime.now(UTC) - last_callback_at < timedelta(seconds=60)
    assert status == {
        "overdue": None,
        "reconciled_at": None,
        "refused": 1,
        "refused_by_answer": {"400": 1},
        "workers": [],
        "pending": 2,
        "new": 2,
        "claimed": 0,
        "retrying": [],
        "dead": 0,
        "done_last_minute": 3,
        "quarantined": 1,
        "quarantined_bytes": 8,
    }
    lines = run(app, "status").splitlines()
    assert lines[0] == "ants_dr"
    assert lines[1].split() == ["pending", "2"]
    drain(app)
    assert json.loads(run(app, "status", "--json"))["ants_dr"]["oldest_pending_seconds"] is None
    assert "oldest pending seconds  -" in run(app, "status")


def test_status_says_who_fails(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    message_reported.connect(fail, sender=app)
    Ants(app.test_client()).post(many(3))
    line = run(app, "status").splitlines()[-1]
    assert re.fullmatch(
        r"  3 wait for test_cli.fail, the next at 20\S+: LookupError: no such order", line
    )


def test_work_says_what_waits_for_later(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False, backoff=1e6, max_backoff=1e6)
    message_reported.connect(fail, sender=app)
    Ants(app.test_client()).post(many(3))
    said = run(app, "work", "--once")
    assert "ants_dr: dispatching what is in " in said
    assert "ants_dr: 3 messages wait for later" in said


def test_dead_and_retry(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    message_reported.connect(fail, sender=app)
    Ants(app.test_client()).post(many(3))
    assert run(app, "dead").count("LookupError: no such order") == 3
    dead = json.loads(run(app, "dead", "--json", "--limit", "2"))
    assert [row["attempts"] for row in dead] == [1, 1]
    message_reported.disconnect(fail, sender=app)
    assert run(app, "retry", str(dead[0]["id"])) == "1 messages are pending again\n"
    assert run(app, "retry", "--all") == "2 messages are pending again\n"
    assert "3 messages dispatched" in run(app, "work", "--once")
    assert run(app, "dead") == "no dead messages\n"
    assert "Give either IDS or --all" in run(app, "retry", code=2)
    assert "Give either IDS or --all" in run(app, "retry", "--all", "1", code=2)


def test_discard(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    message_reported.connect(fail, sender=app)
    Ants(app.test_client()).post(many(3))
    (first, *_) = json.loads(run(app, "dead", "--json"))
    assert run(app, "discard", str(first["id"])) == "1 messages are done\n"
    assert "are not those of dead messages" in run(app, "discard", str(first["id"]), code=1)
    assert run(app, "discard", "--all") == "2 messages are done\n"
    assert counts(app) == {"pending": 0, "done": 3, "dead": 0}
    assert "Give either IDS or --all" in run(app, "discard", code=2)


@pytest.mark.slow(reason="waits for an age in seconds")
def test_purge(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(max_attempts=1)
    ants = Ants(app.test_client())
    ants.post(many(1200))
    message_reported.connect(fail, sender=app)
    ants.post(callback(detail(messageId="dead")))
    time.sleep(1.1)
    assert "0 messages purged" in run(app, "purge", "--older-than", "1h")
    assert "1200 messages purged" in run(app, "purge", "--older-than", "1s")
    assert (rows(app), rows(app, "callbacks")) == (1, 1)
    assert "1 messages purged" in run(app, "purge", "--older-than", "1s", "--dead")
    assert (rows(app), rows(app, "callbacks")) == (0, 0)
    for age in ("1", "h", "-1h", "1.5h", "1y", "9" * 10 + "s"):
        assert "must be a number and s, m, h or d" in run(app, "purge", "--older-than", age, code=2)


def test_purge_by_what_retention_says(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    ants.post(many(3))
    ants.post("{")
    make_older(app, 23)
    ants.post(callback(detail(messageId="b")))
    make_older(app, 8)
    assert "3 messages purged, 1 bodies erased, 1 entries of the quarantine purged" in run(
        app, "purge"
    )
    assert rows(app) == 1
    assert "Give --older-than" in run(app, "purge", "--dead", code=2)


def test_redeliver(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    ants = Ants(app.test_client())
    ants.post(callback(detail(to="66812345678"), detail(to="66898887777"), bulkId="a"))
    ants.post(callback(detail(), bulkId="b"))
    assert "Give IDS, --bulk or --since" in run(app, "redeliver", code=2)
    assert run(app, "redeliver", "--bulk", "a") == "2 messages are pending again\n"
    run(app, "work", "--once")
    assert [one["report"].bulk_id for one in heard.arguments("message_reported")[3:]] == 2 * ["a"]
    assert run(app, "redeliver", "--since", "999999999d") == "3 messages are pending again\n"
    run(app, "work", "--once")
    run(app, "erase", "0812345678")
    ids = [str(number) for number in range(1, 4)]
    assert run(app, "redeliver", *ids, "--since", "1h") == (
        "2 messages are pending again\n1 messages cannot be: their bodies have been erased\n"
    )


def test_erase(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app(eager=False)
    ants = Ants(app.test_client())
    ants.post(callback(detail(to="66812345678")))
    bound_inbox(app).take()
    ants.post(callback(detail(messageId="2", to="66812345678"), bulkId="c"))
    ants.post('{"to": "0812345678"')
    output = run(app, "erase", "--dry-run", "+66 81 234 5678", code=1)
    for line in (
        "ants_dr: 1 messages would be erased",
        "ants_dr: 1 bodies that cannot be read would be erased",
        "ants_dr: left, because they are pending: messages 2",
    ):
        assert f"{line}\n" in output
    assert "ants_dr: 1 messages erased\n" in run(app, "erase", "081-234-5678", code=1)
    bound_inbox(app).take()
    output = run(app, "erase", "0812345678")
    assert "ants_dr: 1 messages erased\n" in output
    assert "pending" not in output
    output = run(app, "erase", "nobody", code=2)
    assert "Invalid value for NUMBER: That is no phone number" in output


@pytest.mark.slow(reason="waits for an age in seconds")
def test_quarantine(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    ants = Ants(app.test_client())
    assert run(app, "quarantine", "list") == "nothing in quarantine\n"
    ants.post({"reports": [detail(messageId="a", to="66898887777", text="planted")]})
    ants.post(callback(detail(messageId="b"), {"id": "c", "text": "planted", "credit": 1.5}))
    ants.post('{"text": "planted')
    listed = json.loads(run(app, "quarantine", "list", "--json"))
    assert [entry["detail"] for entry in listed] == [None, 1, None]
    assert "planted" not in run(app, "quarantine", "list")
    first, second, third = (str(entry["id"]) for entry in listed)
    for id_ in (first, second, third):
        masked = run(app, "quarantine", "show", id_)
        assert "planted" not in masked
        assert "8887777" not in masked
        assert "planted" in run(app, "quarantine", "show", "--values", id_)
    assert '"text": "<str>"' in run(app, "quarantine", "show", second)
    assert '"b"' not in run(app, "quarantine", "show", "--values", second)
    refused = run(app, "quarantine", "replay", first, code=1)
    assert f"entry {first} is refused again: No message" in refused
    assert "0 messages taken, 1 entries refused again" in refused

    after = make_inbox_app(schema=RenamedSchema)
    heard = Heard(after)
    replayed = run(after, "quarantine", "replay", first)
    assert "1 messages taken, 0 entries refused again" in replayed
    refused = run(after, "quarantine", "replay", "--all", code=1)
    assert f"entry {second}, detail 1 is refused again\n" in refused
    assert f"entry {third} is refused again: The body is not JSON" in refused
    assert "0 messages taken, 2 entries refused again" in refused
    assert [message.message_id for message in heard.messages] == ["a"]
    time.sleep(1.1)
    assert run(after, "quarantine", "purge", "--older-than", "1s") == "2 entries purged\n"
    assert rows(after, "callbacks") == 2


@pytest.mark.parametrize("first", [[], [detail(messageId="taken")]], ids=["whole", "details"])
def test_one_message_of_a_callback_is_refused_again(
    make_inbox_app: MakeApp, first: list[dict[str, Any]]
) -> None:
    """Also where another one of it is taken, and where the whole of it was refused at first."""
    before = make_inbox_app()
    body = callback(*first, {"never": 1}, {"id": "a"} | STATUS, {})
    Ants(before.test_client()).post(body)
    entry = bound_inbox(before).quarantined()[0]
    after = make_inbox_app(schema=RenamedSchema)
    output = run(after, "quarantine", "replay", str(entry.id), code=1)
    left = {one.position: one.id for one in bound_inbox(after).quarantined()}
    assert left.keys() == {len(first), len(first) + 2}
    for position, id_ in left.items():
        assert f"entry {id_}, detail {position} is refused again\n" in output
    assert output.count("entry") == 2
    assert "1 messages taken, 2 entries refused again" in output


def test_ids_that_nothing_has(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    heard = Heard(app)
    Ants(make_inbox_app(schema=RefusingSchema).test_client()).post(callback(detail()))
    (entry,) = bound_inbox(app).quarantined()
    missing = entry.id + 1, 2**63 - 1
    assert f"There is no entry {missing[0]} in" in run(
        app, "quarantine", "show", str(missing[0]), code=1
    )
    output = run(app, "quarantine", "replay", *map(str, (missing[1], entry.id, missing[0])), code=1)
    assert "1 messages taken, 0 entries refused again" in output
    assert f"There is no entry {missing[0]}, {missing[1]} in quarantine" in output
    assert len(heard.messages) == 1
    output = run(app, "retry", str(missing[1]), code=1)
    assert "0 messages are pending again" in output
    assert "are not those of dead messages" in output


HUGE = "100000000000000000000"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "--limit", HUGE],
        ["dead", "--limit", "0"],
        ["retry", HUGE],
        ["retry", "0"],
        ["redeliver", HUGE],
        ["redeliver", "--since", HUGE + "d"],
        ["purge", "--older-than", HUGE + "d"],
        ["quarantine", "show", HUGE],
        ["quarantine", "show", "--", "-1"],
        ["quarantine", "replay", HUGE],
        ["quarantine", "replay", "1", "0"],
        ["quarantine", "purge", "--older-than", HUGE + "s"],
        ["work", "--once", "--concurrency", HUGE],
        ["work", "--once", "--poll", HUGE],
        ["work", "--once", "--poll", "inf"],
        ["work", "--once", "--poll", "nan"],
        ["emulate", "--port", HUGE],
        ["emulate", "--rate-limit", HUGE],
        ["emulate", "--delay", "1e300"],
        ["emulate", "--delay", "nan"],
        ["simulate", "--messages", HUGE],
        ["simulate", "--messages", "1" + 400 * "0"],
        ["simulate", "--batch", HUGE],
        ["simulate", "--concurrency", HUGE],
        ["simulate", "--rate", "1e300"],
        ["simulate", "--timeout", "nan"],
    ],
)
def test_absurd_numbers(tmp_path: Path, arguments: list[str]) -> None:
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    assert "Error: Invalid value" in run(app, *arguments, code=2)


def test_the_largest_numbers(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    assert run(app, "dead", "--limit", str(2**63 - 1)) == "no dead messages\n"
    assert "0 messages purged" in run(app, "purge", "--older-than", "999999999d")
    assert "0 entries purged" in run(app, "quarantine", "purge", "--older-than", "999999999d")


def test_init_db(make_inbox_app: MakeApp) -> None:
    app = make_inbox_app()
    for _ in range(2):
        output = run(app, "init-db")
        assert output.startswith("The tables are in ")
        assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["status"], ["work", "--once"], ["init-db"], ["quarantine", "list"]]
)
def test_without_an_inbox(arguments: list[str]) -> None:
    app = make_app()
    assert "No blueprint of this application has an inbox" in run(app, *arguments, code=1)


@pytest.mark.parametrize("arguments", [["status"], ["work", "--once"], ["dead"]])
def test_a_database_that_fails_is_one_line(
    make_inbox_app: MakeApp, tmp_path: Path, arguments: list[str]
) -> None:
    app = make_inbox_app(url=f"sqlite:///{tmp_path}/file")
    (tmp_path / "file").write_text("this is no database, but long enough to look like one" * 50)
    output = run(app, *arguments, code=1)
    assert "Error: The inbox's database failed" in output
    assert "Traceback" not in output


def test_every_command_has_help() -> None:
    app = make_app()
    commands = (
        "work",
        "status",
        "dead",
        "retry",
        "discard",
        "redeliver",
        "purge",
        "erase",
        "init-db",
    )
    for command in commands:
        assert command in run(app, "--help")
        assert len(run(app, command, "--help")) > 100
    for command in ("list", "show", "replay", "purge"):
        assert command in run(app, "quarantine", "--help")
        assert len(run(app, "quarantine", command, "--help")) > 100


# The worker as a process.


@pytest.fixture
def environment(inbox_url: str, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "FLASK_APP": "host",
        "FLASK_ANTS_DR_USERNAME": "ants",
        "FLASK_ANTS_DR_PASSWORD": "s3cret-pair",
        "FLASK_ANTS_DR_INBOX_URL": inbox_url,
        "HOST_ENGINE": "deferred",
        "HOST_RECORD": str(tmp_path / "record"),
        "HOST_LEASE": "1",
        "PYTHONPATH": str(TESTS),
    }


def work(environment: dict[str, str], *options: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "ants-dr", "work", "--poll", "0.05", *options],
        env=environment | more,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorded(environment: dict[str, str]) -> Counter[str]:
    path = Path(environment["HOST_RECORD"])
    return Counter(path.read_text().split() if path.exists() else [])


@pytest.mark.slow(reason="a worker in a process of its own")
def test_a_worker_killed_between_the_subscriber_and_the_mark(
    make_inbox_app: MakeApp, environment: dict[str, str]
) -> None:
    """What was dispatched in its last 50 ms can be dispatched again, and no other is."""
    app = make_inbox_app(eager=False)
    Ants(app.test_client()).post(many(20))
    killed = work(environment, "--once", HOST_KILL="m7")
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert recorded(environment) == {f"m{number}": 1 for number in range(8)}
    time.sleep(2.1)
    again = work(environment, "--once", HOST_KILL="m7")
    _, progress = again.communicate(timeout=30)
    assert again.returncode == 0
    calls = recorded(environment)
    assert f"{sum(calls.values()) - 8} messages dispatched" in progress
    assert {name: calls[name] for name in calls if int(name[1:]) > 7} == {
        f"m{number}": 1 for number in range(8, 20)
    }
    assert {calls[f"m{number}"] for number in range(8)} <= {1, 2}
    assert calls["m7"] == 2
    assert counts(app) == {"pending": 0, "done": 20, "dead": 0}


@pytest.mark.slow(reason="a worker in a process of its own")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops_cleanly(
    make_inbox_app: MakeApp, environment: dict[str, str], number: signal.Signals
) -> None:
    app = make_inbox_app(eager=False)
    process = work(environment, "--concurrency", "3")
    ants = Ants(app.test_client())
    ants.post(many(500))
    deadline = time.monotonic() + 30
    while not recorded(environment) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, progress = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in progress
    done = recorded(environment)
    assert 0 < len(done) == counts(app)["done"]
    # Nothing is left under a lease: the rest is due at once.
    assert drain(app) == 500 - len(done)


@pytest.mark.slow(reason="a worker in a process of its own")
def test_a_worker_goes_on_when_the_database_is_back(
    make_inbox_app: MakeApp, environment: dict[str, str], server: Any
) -> None:
    app = make_inbox_app(eager=False)
    if server is None:
        path = Path(environment["FLASK_ANTS_DR_INBOX_URL"].removeprefix("sqlite:///"))
        path.write_text("this is no database, but long enough to look like one" * 50)
        start: Callable[[], object] = path.unlink
    else:
        start = server.start
        stop_server(server)
    process = work(environment)
    assert process.stderr is not None
    assert "dispatching what is in" in process.stderr.readline()
    assert "the inbox's database failed" in process.stderr.readline()
    start()
    Ants(app.test_client()).post(many(3))
    deadline = time.monotonic() + 30
    while len(recorded(environment)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert recorded(environment) == {f"m{number}": 1 for number in range(3)}
