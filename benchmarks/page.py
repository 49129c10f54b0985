"""The console while it is busy: ``python -m benchmarks.page``.

Posts 10,000 messages in five minutes, each as ACCEPTED, PENDING and with its final status, through
the simulator to the example application as its users start it. Meanwhile a stream of its events is
open, and the console's pages are asked for, one after the other. At the end what the console says
is held against what was sent.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from html import unescape
from itertools import cycle
from pathlib import Path
from statistics import median
from statistics import quantiles
from threading import Event
from threading import Thread

import click
import httpx

from flask_ants_dr.simulator import Plan
from flask_ants_dr.simulator import Summary
from flask_ants_dr.simulator import run

ROOT = Path(__file__).parent.parent
PAIR = ("ants", "demo")
CONSOLE = "/ants-dr"
HISTORY = "/message"
PAGES = (
    "/",
    "/?state=DELIVERED",
    HISTORY,
    "/now",
    "/needs-you",
    "/quarantine",
    "/figures",
    "/figures?range=30d",
    "/overdue",
)
STATUSES = {"DELIVERED": 90, "UNDELIVERED": 4, "EXPIRED": 3, "REJECTED": 3}
ASK_EVERY = 0.5
# Counts are written every ten seconds.
COUNTED = 12.0


@click.command()
@click.option("--messages", default=10_000, show_default=True, type=click.IntRange(100))
@click.option("--seconds", default=300.0, show_default=True, type=click.FloatRange(1))
def main(messages: int, seconds: float) -> None:
    with example() as url:
        measure(url, messages, seconds)


@contextmanager
def example() -> Iterator[str]:
    """The example application with an empty inbox, and its URL."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "example_app", Path(folder, "example_app"))
        shutil.copy(ROOT / ".flaskenv", folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "example_app", "run"],
            cwd=folder,
            env=os.environ | {"FLASK_RUN_PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def measure(url: str, messages: int, seconds: float) -> None:
    with httpx.Client(base_url=f"{url}{CONSOLE}", timeout=30) as browser:
        for _ in range(300):
            with suppress(httpx.TransportError):
                browser.get("/")
                break
            time.sleep(0.1)
        plan = Plan(messages=messages, batch=25, statuses=STATUSES, follow=True, duplicates=0.02)
        over = Event()
        events: list[float] = []
        Thread(target=listen, args=(url, events, over), daemon=True).start()
        summaries: list[Summary] = []

        def send() -> None:
            rate = plan.callbacks / seconds
            summaries.append(run(plan, f"{url}/sms/callback", PAIR, rate=rate, concurrency=4))
            over.set()

        Thread(target=send, daemon=True).start()
        taken: dict[str, list[float]] = {page: [] for page in PAGES}
        histories: list[str] = []
        for page in cycle(PAGES):
            if over.wait(ASK_EVERY):
                break
            if page == HISTORY and not histories:
                continue  # none has come
            asked = unescape(histories[0]) if page == HISTORY else page
            started = time.perf_counter()
            answer = browser.get(asked).raise_for_status()
            taken[page].append((time.perf_counter() - started) * 1000)
            links = re.findall(rf'href="{CONSOLE}({HISTORY}\?.*?)"', answer.text)
            histories = links or histories
        report(browser, plan, summaries[0], taken, len(events))


def listen(url: str, events: list[float], over: Event) -> None:
    """As a browser does: a stream ends after some minutes, and it asks for another."""
    while not over.is_set():
        # At the end the server goes away.
        with (
            suppress(httpx.TransportError),
            httpx.stream("GET", f"{url}{CONSOLE}/events", timeout=None) as stream,
        ):
            for line in stream.iter_lines():
                if line == "event: change":
                    events.append(time.perf_counter())
                if over.is_set():
                    return


def report(
    browser: httpx.Client, plan: Plan, summary: Summary, taken: dict[str, list[float]], events: int
) -> None:
    click.echo(
        f"{summary.messages:,} reports on {plan.messages:,} messages in {summary.callbacks:,}"
        f" callbacks and {summary.seconds:.0f} s; {events:,} events"
    )
    click.echo(f"{'page':<24}{'asked':>7}{'median':>10}{'95 %':>10}{'longest':>10}   ms")
    for page, times in taken.items():
        many = times * 2 if len(times) == 1 else times
        percentile = quantiles(many, n=20, method="inclusive")[18]
        click.echo(
            f"{page:<24}{len(times):>7}{median(many):>10.1f}{percentile:>10.1f}{max(many):>10.1f}"
        )
    time.sleep(COUNTED)
    messages = Counter(row["state"] for row in table(browser, "/"))
    reports: Counter[str] = Counter()
    for row in table(browser, "/figures"):
        reports[row["state"]] += int(row["messages"])
    callbacks = {row["answer"]: int(row["callbacks"]) for row in table(browser, "/now")}
    final = sum(messages[state] for state in STATUSES)
    click.echo(
        f"The console has {messages.total():,} messages, {final:,} with a final state;"
        f" {reports.total():,} reports; callbacks by answer: {callbacks}"
    )
    exact = (
        summary.as_expected
        and messages.total() == final == plan.messages
        and reports.total() == plan.messages * plan.stages
        and all(reports[state] == messages[state] for state in STATUSES)
        and callbacks == {"200": summary.callbacks}
    )
    if not exact:
        raise click.ClickException("The console's numbers are not what was sent.")


def table(browser: httpx.Client, page: str) -> list[dict[str, str]]:
    text = browser.get(page, params={"format": "csv"}).raise_for_status().text
    return list(csv.DictReader(text.removeprefix("\ufeff").splitlines()))


if __name__ == "__main__":
    main()
