"""All that a database holds, table by table; no name of a table is needed to ask for it."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select

from director.store.engine.database import Database
from director.store.tables import metadata
from tests.tables.statements import one, rows

MOVING = {"service_clocks", "directors", "heartbeats"}
"""Tables that change by themselves."""
BYTES = ("blobs", "blob_chunks")
HISTORY = ("events", "metrics", "contributions", "assignments", "rounds", "models", "collaborators")
"""The tables of what happened in an experiment, which are dropped some time after it was removed."""

Contents = Mapping[str, list[Any]]


async def contents(db: Database, *, but: Collection[str] = BYTES) -> Contents:
    """Return every row of every table, but for those named and those that change by themselves."""
    async with db.read() as tx:
        return {
            table.name: sorted((await tx.execute(select(table))).all(), key=repr)
            for table in metadata.sorted_tables
            if table.name not in MOVING.union(but)
        }


async def contents_but_events(db: Database) -> Contents:
    """Return all that a new event of an experiment, or bytes that nobody took, do not change."""
    return await contents(db, but=(*BYTES, "events", "experiments"))


async def bytes_held(db: Database) -> list[Any]:
    """Return every blob and every chunk."""
    found = await contents(db, but=())
    return [row for table in BYTES for row in found[table]]


def row_counts(found: Contents) -> dict[str, int]:
    """Count the rows of experiments and of what happened in them; events, which go on, are left out."""
    return {table: len(found[table]) for table in ("experiments", *HISTORY) if table != "events"}


def metrics(found: Contents) -> list[Any]:
    return found["metrics"]


async def epoch(db: Database) -> str:
    return str(await one(db, "SELECT epoch FROM federations"))


async def history_counts(db: Database, experiment_id: int) -> dict[str, int]:
    """Return how many rows of an experiment each table of its history holds."""
    return {
        table: await one(
            db,
            f"SELECT count(*) FROM {table} WHERE {'stream' if table == 'events' else 'experiment_id'} = :id",
            id=experiment_id,
        )
        for table in HISTORY
    }


async def work(db: Database) -> list[Any]:
    """Return the rows of experiments and of all that belongs to them, in order."""
    tables = ("experiments", "rounds", "assignments", "collaborators", "contributions", "models", "metrics")
    found = [await rows(db, f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in tables]
    return [*found, await rows(db, "SELECT * FROM events WHERE stream > 0 ORDER BY stream, seq")]
