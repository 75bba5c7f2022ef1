"""What counts as used of a PostgreSQL database: not the room inside it that chunks will use again."""

import os

from director.store import stash
from director.store.engine import space
from director.store.engine.database import Database
from tests.store.blobs import begin, put, seal, sweep
from tests.store.words import only_postgresql
from tests.tables import blob_rows
from tests.world import World

PIECE = 1 << 20


async def used_pieces(db: Database) -> int:
    """Return how many pieces are in use."""
    async with db.read() as tx:
        return round(await space.used_bytes(tx) / PIECE)


@only_postgresql
async def test_room_that_was_made_inside_the_database_is_used_again(federation: World, migrated_url: str) -> None:
    db, data = federation.db, os.urandom(20 * PIECE)
    empty = await used_pieces(db)
    upload = await begin(db, data, chunk_bytes=PIECE)
    for number in range(20):
        await put(db, upload, number, data)
    await seal(db, upload, data)

    full = await used_pieces(db)
    async with db.write("give up") as tx:
        await stash.give_up(tx, upload.blob_id)
    assert await sweep(db) == 1
    await blob_rows.vacuum_chunks(migrated_url)
    vacuumed = await used_pieces(db)

    assert full - empty in (20, 21)
    assert vacuumed - empty in (0, 1, 2)
