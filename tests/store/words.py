"""Words for what the store's tests do, besides those of `tests.world`."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from director.domain.types import DirectorId, ExperimentId
from director.effects import ManualClock
from director.store import clock as clocks
from director.store import leases
from director.store.engine.database import Database
from director.store.leases import Fence
from tests.tables import changes
from tests.world import World

LEASE = timedelta(seconds=10)
RULES = {"weighted_average": 1}
SOON = 0.1
"""Long enough to see that something waits."""
PATIENCE = 4
"""What does not wait is done by then, even on a busy machine; what waits for a lock is not."""

only_sqlite = pytest.mark.parametrize("engine_kind", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("engine_kind", ["postgresql"], indirect=True)


@contextmanager
def recorded_statements() -> Iterator[list[tuple[str, Any]]]:
    """Record every statement that is run meanwhile, with its parameters."""
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


async def explained(db: Database, statement: str, parameters: Any) -> str:
    """Return an engine's plan for a recorded statement."""
    how = "EXPLAIN QUERY PLAN" if not db.replicated else "EXPLAIN"
    async with db.write("explain") as tx:
        found = await tx._connection.exec_driver_sql(f"{how} {statement}", parameters)
        return "\n".join(str(row) for row in found)


async def waits(task: "asyncio.Task[Any]") -> bool:
    """Whether a task is still waiting after a moment."""
    await asyncio.sleep(SOON)
    return not task.done()


async def enter(db: Database, *directors: str, lease: timedelta = LEASE) -> None:
    """Enter other directors."""
    async with db.write("enter") as tx:
        for director in directors:
            await leases.register(tx, DirectorId(director), host="elsewhere", version="1", lease=lease)


async def claim(
    db: Database, director: str, *, rules: dict[str, int] = RULES, reviews: bool = False, limit: int = 100
) -> tuple[list[Fence], bool]:
    """Claim as a director."""
    async with db.write("claim") as tx:
        return await leases.claim(tx, DirectorId(director), rules=rules, reviews=reviews, limit=limit)


async def running(
    federation: World, name: str = "experiment", envoys: Sequence[str] = ("a", "b"), **more: Any
) -> ExperimentId:
    """Register envoys, submit an experiment for them and have it admitted; nobody owns it yet."""
    await federation.register(*envoys)
    view = await federation.submit(name, envoys=envoys, **more)
    await federation.admit()
    return view.id


async def owned(federation: World, name: str = "experiment", envoys: Sequence[str] = ("a", "b"), **more: Any) -> Fence:
    """Have an experiment run, and claim it; no round is open yet."""
    await running(federation, name, envoys, **more)
    [fence] = await federation.claim()
    return fence


async def die(db: Database, *directors: str) -> list[ExperimentId]:
    """Have directors die, and free what they owned."""
    for director in directors:
        await changes.declare_dead(db, director)
    async with db.write("free") as tx:
        return await leases.free(tx)


async def live(federation: World, clock: ManualClock, seconds: float) -> None:
    """Let time pass while the director is up: tick by tick."""
    tick = federation.process.runtime.settings.tick
    for _ in range(int(seconds // tick.total_seconds())):
        clock.advance(tick)
        async with federation.db.write("tick") as tx:
            await clocks.tick(tx, every=tick)
    clock.advance(timedelta(seconds=seconds % tick.total_seconds()))
