"""How much room a database has left."""

import os
from pathlib import Path

from sqlalchemy import func, select

from director.store.database import Transaction

SIZE = select(func.pg_database_size(func.current_database()))


def free_bytes(file: Path) -> int:
    """Return what the disk of an SQLite file has left for us."""
    found = os.statvfs(file.resolve().parent)
    return found.f_bavail * found.f_frsize


async def size_bytes(tx: Transaction) -> int:
    """Return how large a PostgreSQL database is."""
    return int((await tx.execute(SIZE)).scalar_one())
