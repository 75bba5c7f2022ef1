"""How much room a database has left."""

import os
from pathlib import Path

from sqlalchemy import text

from director.errors import Unavailable
from director.store.engine.database import Transaction

IN_USE = text("""
    WITH chunks AS (
        SELECT pg_total_relation_size('blob_chunks') AS size,
               (SELECT coalesce(sum(size_bytes), 0) FROM blobs) AS kept,
               2000 * (SELECT n_dead_tup FROM pg_stat_all_tables
                       WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'blob_chunks'::regclass)) AS dead
    )
    SELECT pg_database_size(current_database()) - greatest(0, size - 1.05 * (kept + dead)) FROM chunks
""")
"""The database's size without the room inside it that vacuum has made and chunks will use again.

PostgreSQL gives little of that back to the disk, so without it a removed experiment would free nothing. Bytes are kept
in pieces of some 2000, with an overhead of 4 %.
"""


def free_bytes(file: Path) -> int:
    """Return what the disk of an SQLite file has left for us.

    Raises:
        Unavailable: it is away, as one that was unmounted.
    """
    try:
        found = os.statvfs(file.resolve().parent)
    except OSError as error:
        raise Unavailable(f"the database's disk is away for the moment: {error.strerror}") from error
    return found.f_bavail * found.f_frsize


async def used_bytes(tx: Transaction) -> int:
    """Return how much of a PostgreSQL database is in use."""
    return int((await tx.execute(IN_USE)).scalar_one())
