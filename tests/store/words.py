"""Words for what the store's tests do, besides those of `tests.world`."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, Executable, event, insert, literal, select, text

from director.domain.types import DirectorId, ExperimentId
from director.effects import ManualClock
from director.store import clock as clocks
from director.store import leases
from director.store.engine.database import Database, Transaction
from director.store.engine.opening import sqlite_path
from director.store.leases import Fence
from director.store.tables import duties, experiments
from tests.world import World

LEASE = timedelta(seconds=10)
RULES = {"weighted_average": 1}
SOON = 0.1
"""Long enough to see that something waits."""
PATIENCE = 4
"""What does not wait is done by then, even on a busy machine; what waits for a lock is not."""

only_sqlite = pytest.mark.parametrize("engine_kind", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("engine_kind", ["postgresql"], indirect=True)


async def rows(db: Database, query: str | Executable, **parameters: Any) -> list[Any]:
    """Return what a query finds; plain values where it has one column."""
    async with db.read() as tx:
        found = (await tx.execute(text(query) if isinstance(query, str) else query, parameters)).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in found]


async def one(db: Database, query: str | Executable, **parameters: Any) -> Any:
    """Return the one row that a query finds."""
    [found] = await rows(db, query, **parameters)
    return found


async def change(db: Database, statement: str, **parameters: Any) -> None:
    """Run a statement of one's own, in a transaction of its own."""
    async with db.write("change") as tx:
        await tx.execute(text(statement), parameters)


def seen_from_outside(url: str, query: str) -> list[Any]:
    """Return what another program sees at this moment; for callbacks, which cannot wait."""
    path, found = sqlite_path(url), []

    async def ask() -> None:
        connection = await asyncpg.connect(url)
        found.extend(row[0] for row in await connection.fetch(query))
        await connection.close()

    if path is None:
        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        thread.join()
        return found
    connection = sqlite3.connect(path)
    found.extend(row[0] for row in connection.execute(query))
    connection.close()
    return found


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


async def crowd(db: Database, experiment_id: int) -> None:
    """Fill the tables with what has ended: PostgreSQL's planner prefers to read a small one whole."""
    if not db.replicated:
        return
    ended = "'state', 'finished', 'finished_at', now(), 'director_id', NULL, 'archive_blob_id', NULL"
    named = "'id', 1000 + n, 'name', 'n' || n, 'submission_id', 'n' || n"
    for statement in (
        f"INSERT INTO experiments SELECT (jsonb_populate_record(e, jsonb_build_object({named}, {ended}))).* "
        "FROM experiments e, generate_series(1, 3000) n WHERE e.id = :id",
        "INSERT INTO shards (envoy, description, samples, sample_shape, target_shape, registered_at, updated_at) "
        "SELECT 'e' || n, '', 1, '[]', '[]', now(), now() FROM generate_series(1, 3000) n",
        "INSERT INTO collaborators (experiment_id, envoy, state, attempt, ended_at) "
        "SELECT :id, 'e' || n, 'released', 1, now() FROM generate_series(1, 3000) n",
        "INSERT INTO metrics SELECT id, 1, 1, 'a', 'train', 'loss', 0.5, now() FROM experiments WHERE id > 1000",
        "ANALYZE",
    ):
        await change(db, statement, **({"id": experiment_id} if ":id" in statement else {}))


DUTIES = "SELECT name FROM duties ORDER BY name"


async def write(db: Database, *names: str, fail: bool = False) -> None:
    """Write rows one by one; give way to others in between."""
    async with db.write("test") as tx:
        for name in names:
            await tx.add(duties, {"name": name})
            await asyncio.sleep(0)
        if fail:
            raise ValueError("on purpose")


async def waits(task: "asyncio.Task[Any]") -> bool:
    """Whether a task is still waiting after a moment."""
    await asyncio.sleep(SOON)
    return not task.done()


@asynccontextmanager
async def holding(db: Database, statement: str, **parameters: Any) -> AsyncIterator[Transaction]:
    """Hold the rows that a statement locks, in a transaction of its own."""
    async with db.write("hold") as tx:
        assert (await tx.execute(text(statement), parameters)).all(), "there is nothing to lock"
        yield tx


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
    return view.experiment.id


async def owned(federation: World, name: str = "experiment", envoys: Sequence[str] = ("a", "b"), **more: Any) -> Fence:
    """Have an experiment run, and claim it; no round is open yet."""
    await running(federation, name, envoys, **more)
    [fence] = await federation.claim()
    return fence


async def die(db: Database, *directors: str) -> list[ExperimentId]:
    """Have directors die, and free what they owned."""
    for director in directors:
        await change(db, "UPDATE directors SET reaped_at = expires_at WHERE id = :id", id=director)
    async with db.write("free") as tx:
        return await leases.free(tx)


async def clone(db: Database, original: int, name: str, **changes: Any) -> ExperimentId:
    """Enter an experiment like another one, without its archive, its collaborators and its history."""
    changed = {"name": name, "submission_id": name, "archive_blob_id": None} | changes
    copied = [column for column in experiments.c if column.name not in ("id", *changed)]
    given = [literal(value, experiments.c[column].type) for column, value in changed.items()]
    like = select(*copied, *given).where(experiments.c.id == original)
    async with db.write("clone") as tx:
        names = [*(column.name for column in copied), *changed]
        made = await tx.execute(insert(experiments).from_select(names, like).returning(experiments.c.id))
        return ExperimentId(made.scalar_one())


async def live(federation: World, clock: ManualClock, seconds: float) -> None:
    """Let time pass while the director is up: tick by tick."""
    tick = federation.process.runtime.settings.tick
    for _ in range(int(seconds // tick.total_seconds())):
        clock.advance(tick)
        async with federation.db.write("tick") as tx:
            await clocks.tick(tx, every=tick)
    clock.advance(timedelta(seconds=seconds % tick.total_seconds()))
