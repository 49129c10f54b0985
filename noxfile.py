"""What is checked of this project, a session each: ``nox -l`` lists them, ``nox -s NAME`` runs one.

``.ci/run`` runs what must hold at a landing. What follows ``--`` goes on to pytest:
``nox -s quick -- tests/test_schemas.py -n0``.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# What needs no other program, and little time.
QUICK = "not (postgresql or mariadb or celery or browser or manual or slow)"
QUICK_PATHS = ["--ignore=tests/example_app", "--ignore=tests/manual"]

LOWEST_PYTHON = [int(part) for part in PROJECT["requires-python"].removeprefix(">=").split(".")]
RUNNING_PYTHON = platform.python_version()

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["style", "types", "quick"]


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """All tests, on each of the Pythons that are there."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """The tests of the package that need neither another program nor much time."""
    session.install("-e", ".[test]")
    session.run("pytest", "-q", "-m", QUICK, *(session.posargs or QUICK_PATHS))


@nox.session(venv_backend="none")
def others(session: nox.Session) -> None:
    """The quick tests on the other Pythons of this machine: Debian's, often an older release than
    the one in use, and pyenv's."""
    of_pyenv = Path.home().glob(".pyenv/versions/3.*/bin/python3")
    print_version = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    for python in (Path("/usr/bin/python3"), *sorted(of_pyenv)):
        version = session.run(str(python), "-c", print_version, silent=True).strip()
        if [int(part) for part in version.split(".")] < LOWEST_PYTHON or version == RUNNING_PYTHON:
            continue
        session.log(f"Python {version}")
        venv = Path(".nox", f"others-{version}")
        session.run(str(python), "-m", "venv", str(venv))
        own = str(venv / "bin" / "python")
        session.run(own, "-m", "pip", "install", "-q", "-e", ".[test]")
        paths = session.posargs or QUICK_PATHS
        session.run(own, "-m", "pytest", "-q", "-m", QUICK, "-p", "no:cacheprovider", *paths)


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests, and the lines and branches that none of them takes."""
    session.install("-e", ".[test]", "coverage>=7.10")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report")


@nox.session
def lowest(session: nox.Session) -> None:
    """All tests, with the lowest versions that pyproject.toml allows of what users install."""
    session.install("-e", ".[test]", *lowest_versions())
    session.run("pytest", "-q", "-p", "no:cacheprovider", *session.posargs)


def lowest_versions() -> list[str]:
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"]]
    users = "fast inbox celery simulator openapi metrics console example"
    for extra in users.split():
        requirements += extras[extra]
    found = [one.split(">=") for one in requirements if not one.startswith(PROJECT["name"])]
    return [f"{name.partition('[')[0]}=={version}" for name, version in found]


@nox.session
def style(session: nox.Session) -> None:
    """Ruff's rules and format, and what may import what."""
    session.install("-e", ".[check]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy, strictly, in the package, its tests, the example and the benchmarks."""
    session.install("-e", ".[test,benchmark,check]")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The manual, in docs/_build: a warning is an error, and so is a link that leads nowhere."""
    session.install("-e", ".[docs]")
    output = "docs/_build"
    session.run(*shlex.split("sphinx-build -W --keep-going -n -b html docs"), output)
    session.run("python", ".ci/links", output)


@nox.session
def dist(session: nox.Session) -> None:
    """What is released: imported with its requirements alone, and under a host's own tests."""
    session.install("-e", ".[check]")
    work = Path(session.create_tmp()).resolve()
    shutil.rmtree(work / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(work / "dist"), silent=True)
    archives = [str(path) for path in (work / "dist").iterdir()]
    session.run("twine", "check", "--strict", *archives)
    (wheel,) = (path for path in archives if path.endswith(".whl"))

    def python(name: str, *requirements: str) -> str:
        session.run("python", "-m", "venv", "--clear", str(work / name))
        path = str(work / name / "bin" / "python")
        session.run(path, "-m", "pip", "install", "-q", *requirements, external=True)
        return path

    session.chdir(work)
    program = "import flask_ants_dr; print(flask_ants_dr.__file__)"
    session.run(python("empty", wheel), "-W", "error", "-c", program, external=True)
    host = python("host", wheel, "pytest")
    # Outside of the repository, where nothing of it is found.
    with TemporaryDirectory() as folder:
        shutil.copytree(ROOT / ".ci" / "host_project", folder, dirs_exist_ok=True)
        session.chdir(folder)
        session.run(host, "-m", "pytest", "-q", "-W", "error", external=True)
        session.chdir(ROOT)


@nox.session
def kill(session: nox.Session) -> None:
    """The kill campaign: servers and workers die at random; nothing is lost, or there twice.

    A short form of it: each database, each engine and each way once. Without --callbacks and the
    names of cases it is the whole, which takes half an hour.
    """
    session.install("-e", ".[test]")
    cases = ("sqlite-eager", "postgresql-deferred", "mariadb-celery")
    short = [f"{case}-{where}" for case in cases for where in ("own", "session")]
    arguments = session.posargs or [*short, "--callbacks", "40", "--kills", "8"]
    session.run("python", "-W", "ignore", "tests/kill_campaign.py", *arguments)


@nox.session
def reconcile(session: nox.Session) -> None:
    """The reconcile campaign: callbacks get lost, and Message Logs are asked once."""
    session.install("-e", ".[test]")
    short = ("postgresql", "--messages", "1000", "--seconds", "15")
    options = session.posargs or short
    session.run("python", "-W", "ignore", "tests/reconcile_campaign.py", *options)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The benchmarks, one round: every contender hands on every message."""
    session.install("-e", ".[benchmark]")
    parts = ("requests", "variants", "plain", "shapes", "memory", "inbox")
    only = [f"--only={name}" for name in parts]
    session.run("python", "-m", "benchmarks", "--rounds", "1", *(session.posargs or only))
    session.run("python", "-m", "benchmarks.page", "--messages", "500", "--seconds", "10")


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """The README's demo, in a fresh clone of what is committed: started, posted to, simulated."""
    clone = Path(session.create_tmp()).resolve() / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    session.run("git", "clone", "-q", str(ROOT), str(clone), external=True)
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    command = next(line for line in lines if "'.[example]'" in line)
    session.run(str(ROOT / ".ci" / "demo"), str(clone), command, external=True)
