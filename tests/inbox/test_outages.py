"""Disks that are full and networks that are slow: real ones, below a real database."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from flask_ants_dr.checks import check
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import many


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, inbox_url: str) -> Iterator[Path]:
    """A file system of 4 MB, its owner the one of the database."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("file systems are mounted on Linux only")
    owner = 0
    if inbox_url.startswith("postgresql"):
        owner = request.getfixturevalue("postgresql").pgdata.stat().st_uid
    with TemporaryDirectory() as folder:
        options = f"size=4m,mode=700,uid={owner}"
        mounted = subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(
                f"{mounted.stderr.splitlines()[0]} Run it as root, or that of SQLite as 'unshare"
                " --map-root-user --mount pytest -n0 tests/inbox/test_outages.py -k sqlite'"
            )
        yield Path(folder)
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def url_on_it(request: pytest.FixtureRequest, inbox_url: str, small_disk: Path) -> Iterator[str]:
    """The URL of an empty database on it."""
    if inbox_url.startswith("sqlite"):
        yield f"sqlite:///{small_disk}/inbox.sqlite3"
        return
    server, role = request.getfixturevalue("postgresql"), make_url(inbox_url).username
    name = f"small_{uuid4().hex}"
    server.psql(f"CREATE TABLESPACE {name} LOCATION '{small_disk}';")
    server.psql(f"ALTER ROLE {role} SET default_tablespace = {name};")
    yield inbox_url
    server.psql(f"DROP OWNED BY {role};")
    server.psql(f"DROP TABLESPACE {name};")


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(path).free == 0


@pytest.mark.without_tables
@pytest.mark.parametrize("inbox_url", ["sqlite", "postgresql"], indirect=True)
def test_a_disk_that_is_full(make_inbox_app: MakeApp, url_on_it: str, small_disk: Path) -> None:
    """Nothing of a callback is stored, ``check`` says so, and it works when there is space."""
    app = make_inbox_app(eager=False, url=url_on_it)
    ants, heard = Ants(app.test_client()), Heard(app)

    def inbox_level() -> str:
        (found,) = [one for one in check(app) if one.subject == "inbox"]
        return found.level

    assert ants.post(callback(detail(messageId="0"))).status_code == 200
    assert inbox_level() == "ok"
    fill(small_disk / "filler")
    long = callback(detail(messageId="1"), detail(messageId="2", text=secrets.token_hex(200_000)))
    for _ in range(2):
        assert ants.post(long).status_code == 503
        assert inbox_level() == "error"
    assert counts(app) == {"pending": 1, "done": 0, "dead": 0}
    (small_disk / "filler").unlink()
    assert ants.post(long).status_code == 200
    assert inbox_level() == "ok"
    assert counts(app) == {"pending": 3, "done": 0, "dead": 0}
    assert Counter(heard.names) == {"report_received": 2, "callback_rejected": 2}


class SlowWay:
    """A proxy that hands each packet of a server on after a delay."""

    def __init__(self, path: Path) -> None:
        self.delay = 0.0
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        for end in self._ends:
            with suppress(OSError):  # of those that the other side has closed
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):  # at the end
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._ends += client, server
                server.connect(str(self._path))
                self._start(self._hand_on, client, server, False)
                self._start(self._hand_on, server, client, True)

    def _hand_on(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):  # either side has gone
            while packet := one.recv(65_536):
                if is_answer:
                    time.sleep(self.delay)
                other.sendall(packet)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def slow_way(inbox_url: str) -> Iterator[SlowWay]:
    way = SlowWay(Path(str(make_url(inbox_url).query["host"]), ".s.PGSQL.5432"))
    yield way
    way.close()


@pytest.mark.slow(reason="waits for packets")
@pytest.mark.parametrize("inbox_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("is_connected", [True, False])
def test_a_server_that_answers_each_packet_after_a_second(
    make_inbox_app: MakeApp, inbox_url: str, slow_way: SlowWay, is_connected: bool
) -> None:
    """The timeout is one for all of them together, and nothing of the callback is stored."""
    url = make_url(inbox_url)
    url = url.set(host="127.0.0.1", port=slow_way.port, query={})
    app = make_inbox_app(eager=False, timeout=3, url=url.render_as_string(hide_password=False))
    ants = Ants(app.test_client())
    assert ants.post(callback(detail(messageId="0"))).status_code == 200
    if not is_connected:
        bound_inbox(app).database.close()
    slow_way.delay = 1
    started = time.monotonic()
    assert ants.post(many(50)).status_code == 503
    took = time.monotonic() - started
    slow_way.delay = 0
    assert 1 < took < 6
    assert counts(app) == {"pending": 1, "done": 0, "dead": 0}
    assert ants.post(many(50)).status_code == 200
    assert counts(app) == {"pending": 51, "done": 0, "dead": 0}
