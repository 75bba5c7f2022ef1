"""How tests run statements of their own. Those about our tables stand in this package, behind names, and only here."""

import asyncio
import sqlite3
import threading
from typing import Any

import asyncpg
from sqlalchemy import Executable, text

from director.store.engine.database import Database, Transaction
from director.store.engine.opening import sqlite_path


async def rows(db: Database | Transaction, query: str | Executable, **parameters: Any) -> list[Any]:
    """Return what a query finds; plain values where it has one column."""
    statement = text(query) if isinstance(query, str) else query
    if isinstance(db, Transaction):
        found = (await db.execute(statement, parameters)).all()
    else:
        async with db.read() as tx:
            found = (await tx.execute(statement, parameters)).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in found]


async def one(db: Database | Transaction, query: str | Executable, **parameters: Any) -> Any:
    """Return the one row that a query finds."""
    [found] = await rows(db, query, **parameters)
    return found


async def change(db: Database | Transaction, statement: str, **parameters: Any) -> None:
    """Run a statement, in the given transaction or in one of its own."""
    if isinstance(db, Transaction):
        await db.execute(text(statement), parameters)
        return
    async with db.write("change") as tx:
        await tx.execute(text(statement), parameters)


def seen_from_outside(url: str, query: str) -> list[Any]:
    """Return what another program sees at this moment; for callbacks, which cannot wait."""
    path = sqlite_path(url)
    found: list[Any] = []

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
