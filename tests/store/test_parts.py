"""Any part of a blob can be read by itself."""

import asyncio
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from director.store import contents
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from tests.store.blobs import DATA, complete
from tests.store.words import only_sqlite


@pytest.mark.parametrize("chunk_bytes", [1, 3, 4, 16])
async def test_every_part_can_be_read(db: Database, chunk_bytes: int) -> None:
    blob = await complete(db, chunk_bytes=chunk_bytes)

    for start in range(len(DATA) + 1):
        for stop in range(start, len(DATA) + 1):
            assert await contents.read(db, blob, start, stop) == DATA[start:stop]


async def test_chunks_can_be_read_from_any_on(db: Database) -> None:
    blob = await complete(db)

    found = [chunk async for chunk in contents.chunks(db, blob, first=1)]

    assert found == [(1, b"4567"), (2, b"89")]


@only_sqlite
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=40), chunk_bytes=st.integers(1, 17), ends=st.tuples(st.integers(0, 40), st.integers(0, 40))
)
def test_any_part_of_any_blob_can_be_read(
    migrated_url: str, data: bytes, chunk_bytes: int, ends: tuple[int, int]
) -> None:
    start, stop = sorted(min(end, len(data)) for end in ends)

    async def part() -> bytes:
        db = open_database(migrated_url)
        upload_key = hashlib.sha256(data + bytes([chunk_bytes])).hexdigest()
        blob = await complete(db, data, upload_key=upload_key, chunk_bytes=chunk_bytes)
        try:
            return await contents.read(db, blob, start, stop)
        finally:
            await db.close()

    assert asyncio.run(part()) == data[start:stop]
