"""Disks that are full and networks that are slow: real ones, below a real database."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from flask_ants_dr.checks import check
from kit import Ants
from kit import Heard
from kit import MakeApp
from kit import callback
from kit import counts
from kit import detail


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
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


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
