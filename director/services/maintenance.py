"""What operators do with the database itself, with or without a director running on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from director.errors import NotFound
from director.services import checking
from director.store import reports
from director.store.engine import durability, schema
from director.store.engine.database import Database
from director.store.engine.durability import Observation
from director.store.engine.opening import open_database, sqlite_path
from director.store.reports import ReportRows


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open an existing database of a schema that this code knows, for a moment.

    Raises:
        NotFound: there is no such file.
        SchemaOutdated: the text says what to type.
    """
    require_file(url)
    await schema.require(url)
    db = open_database(url)
    try:
        yield db
    finally:
        await db.close()


def require_file(url: str) -> None:
    """Refuse a file that does not exist, which SQLite would make.

    Raises:
        NotFound: the file does not exist.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise NotFound(f"there is no database at {path}; `director serve` or `director db upgrade` makes one")


async def report(url: str, name: str, *, experiment: str | None, limit: int) -> ReportRows:
    """Read one of the reporting views."""
    async with opened(url) as db, db.read() as tx:
        return await reports.read(tx, name, experiment=experiment, limit=limit)


async def check(url: str) -> list[Observation]:
    """Check the schema, and whether commits are durable; change nothing."""
    require_file(url)
    found = [await durability.schema_finding(url)]
    db = open_database(url)
    try:
        async with db.read() as tx:
            return found + await durability.engine_findings(tx)
    finally:
        await db.close()


async def fsck(url: str) -> checking.FsckReport:
    """Check that the database keeps its invariants; change nothing."""
    async with opened(url) as db:
        return await checking.report(db)


async def query(url: str, sql: str) -> ReportRows:
    """Run a query that a person wrote, in a transaction that cannot write."""
    async with opened(url) as db, db.read() as tx:
        return await reports.query(tx, sql)
