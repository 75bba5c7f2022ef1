"""What the rows of blobs and of their chunks say, in the order of ids."""

from datetime import datetime

import asyncpg
from sqlalchemy import select

from director.domain.types import BlobState
from director.store import tables
from director.store.engine.database import Database
from tests.tables.statements import one, rows

UPLOAD_KEY_INDEX = "uq_blobs_upload_key"
"""The index that finds an upload by its key."""
READ = "FROM blobs"
"""What a statement says that reads blobs."""


async def blobs(db: Database) -> list[tuple[int, str | None, str]]:
    """Return their ids, their upload keys and their states."""
    return await rows(db, "SELECT id, upload_key, state FROM blobs ORDER BY id")


async def ids(db: Database) -> list[int]:
    return [blob_id for blob_id, _, _ in await blobs(db)]


async def states(db: Database) -> list[str]:
    return [state for _, _, state in await blobs(db)]


async def state(db: Database, blob_id: int) -> str:
    return str(await one(db, "SELECT state FROM blobs WHERE id = :id", id=blob_id))


async def upload_keys(db: Database) -> list[str | None]:
    return [key for _, key, _ in await blobs(db)]


async def uploaded_for(db: Database, what: str) -> list[int]:
    """Return the blobs whose upload key begins with a word, whatever their state."""
    return [blob_id for blob_id, key, _ in await blobs(db) if key is not None and key.startswith(f"{what}/")]


async def uploads_left(db: Database) -> list[int]:
    """Return the uploads that could still be gone on with."""
    return await rows(db, "SELECT id FROM blobs WHERE upload_key IS NOT NULL AND state <> 'taken'")


async def expiries(db: Database) -> list[datetime | str | None]:
    return await rows(db, "SELECT expires_at FROM blobs ORDER BY id")


async def digest(db: Database, upload_key: str) -> str | None:
    found: str | None = await one(db, "SELECT digest FROM blobs WHERE upload_key = :key", key=upload_key)
    return found


async def chunks(db: Database) -> list[tuple[int, int]]:
    """Return the blobs and the numbers of all their chunks."""
    return await rows(db, "SELECT blob_id, number FROM blob_chunks ORDER BY blob_id, number")


async def chunk_count(db: Database) -> int:
    return int(await one(db, "SELECT count(*) FROM blob_chunks"))


async def chunks_of(db: Database, what: str) -> list[int]:
    """Return the numbers of the chunks that were uploaded for something."""
    chosen = await uploaded_for(db, what)
    return [number for blob_id, number in await chunks(db) if blob_id in chosen]


async def chunk_data(db: Database) -> list[bytes]:
    return [bytes(data) for data in await rows(db, "SELECT data FROM blob_chunks ORDER BY blob_id, number")]


async def typed_state(db: Database) -> BlobState:
    """Return the state of the only blob, as Python has it."""
    async with db.read() as tx:
        found: BlobState = (await tx.execute(select(tables.blobs.c.state))).scalar_one()
    return found


async def vacuum_chunks(url: str) -> None:
    """Let PostgreSQL use the room of deleted chunks again."""
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM blob_chunks")
    await connection.close()
