"""How many envoys are handed their experiment per second, how many heartbeats and contributions are stored per second?

Everything is committed and flushed before it is answered (SQLite with synchronous=FULL). Storage is memory-backed where
there is some, so the figures tell what the code costs; the last column compares with single empty commits in the same
run.

    python -m benchmarks.queues [--envoys N]
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from pathlib import Path

import numpy as np

from director.domain.commands import Contribute, Heartbeat
from director.domain.envoy import Shard
from director.services.process import Process
from director.settings import Settings
from director.store import envoys
from director.store.engine import schema
from director.store.engine.opening import open_database
from tests.postgres import PostgresServer, parent
from tests.world import World, archive_of

PER_EXPERIMENT = 100
PLAN = (
    'rounds: 1\ntasks:\n  - {name: train, kind: train, function: "work:train"}\n'
    '  - {name: validate, kind: validate, function: "work:validate"}\n'
)
MODEL = {"weights": np.zeros(4, np.float32)}
COMMITS = 300


async def rate(work: Iterable[Awaitable[object]]) -> tuple[int, float]:
    """Do all of it at once; return how many there were, and the seconds."""
    began = time.perf_counter()
    done = await asyncio.gather(*work)
    return len(done), time.perf_counter() - began


async def measure(engine: str, url: str, number: int) -> None:
    """Queue an experiment for each of so many envoys, and let them all ask for it."""
    settings = Settings(
        database=url, max_running_experiments=number, max_running_per_user=number, lease=timedelta(minutes=10)
    )
    process = Process(open_database(url), settings)
    await process.open()
    world, db = World(process), process.runtime.db
    names = [f"envoy-{index:05}" for index in range(number)]
    async with db.write("register all") as tx:
        for name in names:
            await envoys.register(
                tx, Shard(name, "", 1, (), ()), session_id=name, period=settings.envoy_health_check_period
            )
    archive = archive_of(PLAN)
    for start in range(0, number, PER_EXPERIMENT):
        members = names[start : start + PER_EXPERIMENT]
        await world.submit(f"experiment-{start:05}", envoys=members, archive=archive, model=MODEL)
    while await process.admission.admit():
        pass
    began = time.perf_counter()
    for _ in range(COMMITS):
        async with db.write("empty") as tx:
            await tx.now()
    commits = COMMITS / (time.perf_counter() - began)

    def show(what: str, found: tuple[int, float]) -> None:
        count, seconds = found
        print(f"{engine:<11} {what:<28} {count / seconds:8.0f}/s   {count / seconds / commits:6.1f} empty commits")

    print(f"{engine:<11} {'empty commits, one by one':<28} {commits:8.0f}/s")
    show("heartbeats", await rate(process.envoys.heartbeat(Heartbeat(name, False)) for name in names))
    began = time.perf_counter()
    given = await asyncio.gather(*(process.envoys.wait_experiment(name) for name in names))
    show(f"claims, {number} queued", (number, time.perf_counter() - began))
    fences = await world.claim()
    for fence in fences:
        await world.drive(fence)
    results = [
        Contribute(engagement.experiment_uid, name, engagement.attempt, 1, "validate", 1, {"accuracy": 0.5})
        for name, engagement in zip(names, given, strict=True)
        if engagement is not None
    ]
    show("contributions (no update)", await rate(process.rounds.contribute(each) for each in results[:1000]))
    await process.close()


def main() -> None:
    """Measure on both engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envoys", type=int, default=5000)
    number = parser.parse_args().envoys
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent()))
    asyncio.run(measure("sqlite", f"sqlite:///{folder / 'director.db'}", number))
    shutil.rmtree(folder)
    server = PostgresServer()
    try:
        server.start()
        url = asyncio.run(server.create_database("queues"))
        schema.upgrade(url)
        asyncio.run(measure("postgresql", url, number))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
