"""A federation with something of everything in it, made once for each engine, without the database's own guards."""

import asyncio
import sqlite3
from datetime import timedelta

import asyncpg

from director.effects import ManualClock
from director.store.engine.opening import sqlite_path
from tests.services.words import fail
from tests.store.words import live
from tests.world import PLAN, RESEARCHER, World, world

PATIENCE = timedelta(seconds=100)
"""A lease that is not renewed, and yet lasts on a busy machine."""
PATIENT = PLAN + "round_deadline: 30d\n"
RELAXED = PLAN + "min_collaborators: 1\npercentage: 0.3\n"
LOWEST = PLAN + "best: {mode: min}\n"


async def populate(url: str) -> None:
    """Fill a database that has the schema."""
    clock = ManualClock()
    async with world(url, clock=clock, lease=PATIENCE) as federation:
        await federation.register("a")
        await live(federation, clock, 130)  # it goes silent, and comes back
        await federation.process.periodic_jobs.reconcile_sessions()
        await federation.register(*"abcdefghi")
        await live(federation, clock, 1)
        await finish(federation, "finished", values=(1.0, 3.0, 2.0))
        await finish(federation, "removed", plan=LOWEST, values=(2.0, 2.0, 2.0))
        await federation.process.experiments.remove("removed", RESEARCHER)
        await cancel(federation)
        await collect(federation)
        await freeze(federation)
        await lose_members(federation)
        await federation.submit("waiting", envoys=("a", "b"))
        await federation.process.periodic_jobs.sweep()


async def finish(federation: World, name: str, *, values: tuple[float, ...], plan: str = PLAN) -> None:
    """Run an experiment to its end."""
    await federation.submit(name, envoys=("a", "b"), plan=plan)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    for value in values:
        await federation.finish_round(given, value=value)
        await federation.drive(fence)


async def cancel(federation: World) -> None:
    """Cancel an experiment in its first round, when only one envoy has measured."""
    await federation.submit("cancelled", envoys=("a", "b"))
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = await federation.wait("a")
    await federation.work(given, "a")
    await federation.contribute(given, "a", "validate", round_number=1, metrics={"accuracy": 0.5})
    await federation.process.experiments.cancel("cancelled", RESEARCHER)


async def collect(federation: World) -> None:
    """Leave an experiment in its second round, when only one envoy has measured."""
    await federation.submit("collecting", envoys=("c", "d"), plan=PATIENT)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("c", "d")}
    await federation.finish_round(given)
    await federation.drive(fence)
    await federation.work(given["c"], "c")
    await federation.contribute(given["c"], "c", "validate", round_number=2, metrics={"accuracy": 0.5})


async def freeze(federation: World) -> None:
    """Leave an experiment when its first round is frozen."""
    await federation.submit("aggregating", envoys=("e", "f"))
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    await federation.finish_round({envoy: await federation.wait(envoy) for envoy in ("e", "f")})
    await federation.steps(fence).next()


async def lose_members(federation: World) -> None:
    """Leave an experiment in its second round; in the first one envoy counted, one failed and one was missed."""
    await federation.submit("relaxed", envoys=("g", "h", "i"), plan=RELAXED)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("g", "h", "i")}
    await fail(federation, "h", given["h"].experiment_uid, "no such file")
    await federation.finish_round({"g": given["g"]})
    await federation.drive(fence)


def unguard(url: str) -> None:
    """Take the database's own constraints away, so that a test can do what they forbid."""
    path = sqlite_path(url)
    if path is None:
        asyncio.run(unguard_postgresql(url))
        return
    connection = sqlite3.connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'uq_%'")]
    for name in names:
        connection.execute(f"DROP INDEX {name}")
    connection.commit()
    connection.close()


async def unguard_postgresql(url: str) -> None:
    """Drop checks, foreign keys and partial unique indexes."""
    connection = await asyncpg.connect(url)
    constraints = await connection.fetch(
        "SELECT conrelid::regclass::text AS owner, conname AS name FROM pg_constraint "
        "WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace"
    )
    for row in constraints:
        await connection.execute(f"ALTER TABLE {row['owner']} DROP CONSTRAINT {row['name']}")
    indexes = "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'uq_%' AND indexdef LIKE '%WHERE%'"
    for row in await connection.fetch(indexes):
        await connection.execute(f"DROP INDEX {row['indexname']}")
    await connection.close()
