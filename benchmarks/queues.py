"""No-op jobs through the queues that there are, each as its users would write it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from huey import SqliteHuey
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from procrastinate import App
from procrastinate import PsycopgConnector


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


def all_of_them(new_url: Callable[[], str], folder: Path) -> dict[str, float]:
    """Jobs a second of each.

    :param new_url: makes a PostgreSQL database and returns its ``postgresql://`` URL.
    """
    return {
        "PgQueuer": pgqueuer(new_url(), 20_000),
        "procrastinate": procrastinate(new_url(), 2_000),
        "Huey, SQLite": huey(folder, 5_000),
    }
