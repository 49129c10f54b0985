"""Requests over HTTP: gunicorn for Flask, uvicorn for FastAPI, one worker each, under wrk."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from . import contenders
from .bodies import Format
from .bodies import body

SERVERS = {
    "ours": ["gunicorn", "benchmarks.contenders:ours()"],
    "hand-written": ["gunicorn", "benchmarks.contenders:hand_written()"],
    "Pydantic": ["gunicorn", "benchmarks.contenders:pydantic()"],
    "FastAPI": ["uvicorn", "benchmarks.contenders:fastapi", "--factory"],
}
ROOT = Path(__file__).parent.parent


def callbacks_per_second(
    format: Format, messages: int, *, rounds: int, seconds: int
) -> dict[str, float] | None:
    """The medians of interleaved rounds, or ``None`` without a load generator."""
    if shutil.which("wrk") is None:
        return None
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in SERVERS.items():
                with server(command) as url:
                    path = contenders.RULE
                    if name == "FastAPI" and format != "json":
                        path = "/xml" + path
                    script = Path(folder, "post.lua")
                    script.write_text(lua(format, messages), "utf-8")
                    load(url + path, script, 1)
                    rates[name].append(load(url + path, script, seconds))
    return {name: median(taken) for name, taken in rates.items()}


@contextmanager
def server(command: list[str], workers: int = 1) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if command[0] == "gunicorn":
        options = ["--workers", str(workers), "--bind", f"127.0.0.1:{port}"]
        # It listens before its workers have loaded the application, unless that is loaded before.
        options += ["--preload", "--log-level", "warning"]
    else:
        options = ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, *options], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def lua(format: Format, messages: int) -> str:
    pair = base64.b64encode(f"{contenders.USERNAME}:{contenders.PASSWORD}".encode()).decode()
    media_type = "application/json" if format == "json" else "application/xml"
    text = "".join(f"\\{byte:03}" for byte in body(format, messages))
    return (
        'wrk.method = "POST"\n'
        f'wrk.headers["Authorization"] = "Basic {pair}"\n'
        f'wrk.headers["Content-Type"] = "{media_type}"\n'
        f'wrk.body = "{text}"\n'
    )


def no_two_alike(script: str) -> str:
    """The same, with a bulk of its own for each callback, also in the next run."""
    return script + (
        "local number = os.time() % 1000000 * 1000000\n"
        "request = function()\n"
        "  number = number + 1\n"
        '  local bulk = string.format("a3b0-%012d", number)\n'
        '  return wrk.format(nil, nil, nil, (wrk.body:gsub("a3b0%-%d+", bulk, 1)))\n'
        "end\n"
    )


def load(url: str, script: Path, seconds: int) -> float:
    command = ["wrk", "--threads", "1", "--connections", "4", "--duration", f"{seconds}s"]
    command += ["--timeout", "30s"]
    run = subprocess.run(
        [*command, "--script", str(script), url], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in run.stdout or "Socket errors" in run.stdout:
        raise RuntimeError(f"not every callback was taken:\n{run.stdout}")
    found = re.search(r"Requests/sec:\s*([\d.]+)", run.stdout)
    if found is None:
        raise RuntimeError(run.stdout)
    return float(found[1])
