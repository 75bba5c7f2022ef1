"""What nobody took in time, or needs no longer, is swept; what is taken stays."""

import asyncio
from datetime import timedelta

import pytest

from director.effects import ManualClock
from director.errors import NotFound, Unavailable
from director.store import contents, stash
from director.store.engine.database import Database
from director.store.stash import Upload
from tests.store.blobs import CHUNK, DATA, begin, complete, put, seal, sweep, take, whole
from tests.store.words import PATIENCE, only_postgresql, waits
from tests.tables import blob_rows, changes
from tests.world import World


async def test_going_on_keeps_the_upload_for_longer(timed: World, clock: ManualClock) -> None:
    upload = await begin(timed.db)
    clock.advance(stash.UNCLAIMED - timedelta(hours=1))
    await begin(timed.db)
    clock.advance(timedelta(hours=2))

    assert await sweep(timed.db) == 0

    assert (await begin(timed.db)).blob_id == upload.blob_id


async def test_discarded_upload_is_swept(db: Database) -> None:
    await complete(db)

    async with db.write("discard") as tx:
        await stash.discard(tx, "p")

    assert await sweep(db) == 1
    assert await blob_rows.chunks(db) == []


async def test_sweep_deletes_what_expired_and_nothing_else(timed: World, clock: ManualClock) -> None:
    db = timed.db
    await complete(db, upload_key="taken")
    taken = await take(db, upload_key="taken")
    await complete(db, upload_key="old")
    clock.advance(timedelta(seconds=1))
    young = await complete(db, upload_key="young")
    clock.advance(stash.UNCLAIMED - timedelta(seconds=1))

    assert await sweep(db) == 1

    assert await blob_rows.blobs(db) == [(taken.id, "taken", "taken"), (young.id, "young", "complete")]
    assert {blob_id for blob_id, _ in await blob_rows.chunks(db)} == {taken.id, young.id}
    clock.advance(timedelta(seconds=1))
    assert await sweep(db) == 1
    clock.advance(timedelta(days=1000))
    assert await sweep(db) == 0
    assert await whole(db, taken) == DATA


async def test_dropped_blob_is_swept_and_reading_it_says_so(db: Database) -> None:
    await complete(db)
    blob = await take(db)

    async with db.write("drop") as tx:
        await stash.drop(tx, blob.id)
        await stash.drop(tx)

    assert await whole(db, blob) == DATA
    assert await sweep(db) == 1
    with pytest.raises(NotFound):
        await contents.read(db, blob, 0, 1)
    async with db.read() as tx:
        with pytest.raises(NotFound):
            await stash.get(tx, blob.id)


async def test_drop_leaves_alone_what_nobody_took(db: Database) -> None:
    blob = await complete(db)

    async with db.write("drop") as tx:
        await stash.drop(tx, blob.id)

    assert await sweep(db) == 0
    assert await take(db) == blob


async def test_dropped_blob_does_not_come_back_as_an_upload(db: Database) -> None:
    await complete(db)
    blob = await take(db)
    async with db.write("drop") as tx:
        await stash.drop(tx, blob.id)

    assert (await begin(db)).blob_id != blob.id
    with pytest.raises(Unavailable):
        await seal(db, Upload(blob.id, blob.size_bytes, blob.chunk_bytes, None))


async def test_id_of_a_swept_blob_is_never_used_again(db: Database) -> None:
    stalled = await begin(db)
    async with db.write("give up") as tx:
        await stash.give_up(tx, stalled.blob_id)
    await sweep(db)
    other = await begin(db, upload_key="other")

    with pytest.raises(Unavailable, match="begin it again"):
        await put(db, stalled, 0)

    assert other.blob_id != stalled.blob_id
    assert await blob_rows.chunks(db) == []


@only_postgresql
async def test_chunk_waits_for_a_sweep_of_its_blob_and_is_told_to_begin_again(db: Database) -> None:
    upload = await begin(db)
    await changes.expire_uploads(db)
    async with db.write("sweep") as sweeping:
        assert await stash.sweep_one(sweeping)
        late = asyncio.create_task(put(db, upload, 0))
        assert await waits(late)

    with pytest.raises(Unavailable, match="begin it again"):
        await late
    assert await blob_rows.chunks(db) == []


@only_postgresql
async def test_sweep_passes_by_what_is_being_used(db: Database) -> None:
    upload, other = await begin(db), await begin(db, upload_key="other")
    await changes.expire_uploads(db)
    async with db.write("put") as putting:
        await stash.put(putting, upload.blob_id, 0, DATA[:CHUNK])

        assert await asyncio.wait_for(sweep(db), PATIENCE) == 1

    assert await blob_rows.ids(db) == [upload.blob_id]
    assert other.blob_id != upload.blob_id
