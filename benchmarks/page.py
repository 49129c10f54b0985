"""The example application's page while it is busy: ``python -m benchmarks.page``.

Posts 10,000 messages in five minutes, each as ACCEPTED, PENDING and with its final status, through
the simulator to the example application as its users start it. Meanwhile a stream of its events is
open, and its pages are asked for, one after the other. At the end its numbers are held against what
was sent.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
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
MESSAGE = "/message"
PATHS = ("/", "/?state=DELIVERED", "/?range=1d&show=100", MESSAGE)
STATUSES = {"DELIVERED": 90, "UNDELIVERED": 4, "EXPIRED": 3, "REJECTED": 3}
ASK_EVERY = 0.5


@click.command()
@click.option("--messages", default=10_000, show_default=True, type=click.IntRange(100))
@click.option("--seconds", default=300.0, show_default=True, type=click.FloatRange(1))
def main(messages: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "example_app", Path(folder, "example_app"))
        shutil.copy(ROOT / ".flaskenv", folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", str(port)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            measure(f"http://127.0.0.1:{port}", messages, seconds)
        finally:
            server.terminate()
            server.wait()


def measure(url: str, messages: int, seconds: float) -> None:
    with httpx.Client(base_url=url, timeout=30) as browser:
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
        taken: dict[str, list[float]] = {path: [] for path in PATHS}
        links: list[str] = []
        for path in cycle(PATHS):
            if over.wait(ASK_EVERY):
                break
            if path == MESSAGE and not links:
                continue  # none has come
            asked = unescape(links[0]) if path == MESSAGE else path
            started = time.perf_counter()
            answer = browser.get(asked)
            taken[path].append((time.perf_counter() - started) * 1000)
            links = re.findall(r'href="(/message\?.*?)"', answer.text) or links
        report(browser, plan, summaries[0], taken, len(events))


def listen(url: str, events: list[float], over: Event) -> None:
    # At the end the server goes away.
    with (
        suppress(httpx.TransportError),
        httpx.stream("GET", f"{url}/events", timeout=None) as stream,
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
    click.echo(f"{'page':<32}{'asked':>7}{'median':>10}{'95 %':>10}{'longest':>10}   ms")
    for path, times in taken.items():
        many = times * 2 if len(times) == 1 else times
        percentile = quantiles(many, n=20, method="inclusive")[18]
        click.echo(
            f"{path:<32}{len(times):>7}{median(many):>10.1f}{percentile:>10.1f}{max(many):>10.1f}"
        )
    text = browser.get("/").text
    shown = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r'id="(total|state-[A-Z]+)">.*?<dd>([\d,]+)</dd>', text)
    }
    total = shown.pop("total")
    final = sum(shown[f"state-{state}"] for state in STATUSES)
    exact = summary.as_expected and total == final == sum(shown.values()) == plan.messages
    click.echo(f"{total:,} messages shown, {final:,} with a final state")
    if not exact:
        raise click.ClickException("The page's numbers are not what was sent.")


if __name__ == "__main__":
    main()
