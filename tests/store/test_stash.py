"""A blob is begun, filled, sealed and taken, each once, however often a caller repeats it."""

import asyncio

import pytest

from director.domain.content import Content
from director.errors import NotFound, Unavailable
from director.store import stash
from director.store.engine.database import Database
from director.store.stash import Blob
from tests.store.blobs import CHUNK, DATA, begin, complete, put, seal, sweep, take, whole
from tests.store.words import PATIENCE, explained, only_postgresql, recorded_statements, waits
from tests.tables import blob_rows, crowds, locks
from tests.world import content_of


async def test_blob_that_was_taken_is_what_was_sent(db: Database) -> None:
    sealed = await complete(db)

    blob = await take(db)

    assert blob == sealed == Blob(blob.id, len(DATA), CHUNK, content_of(DATA).digest)
    assert blob.content == content_of(DATA)
    assert await whole(db, blob) == DATA
    assert await blob_rows.states(db) == ["taken"]
    assert await blob_rows.expiries(db) == [None]
    async with db.read() as tx:
        assert await stash.get(tx, blob.id) == blob


async def test_blob_without_bytes_needs_no_chunk(db: Database) -> None:
    assert (await begin(db, b"")).missing is None

    await complete(db, b"")

    assert await whole(db, await take(db, b"")) == b""


async def test_upload_goes_on_at_the_first_missing_chunk(db: Database) -> None:
    missing = [(await begin(db)).missing]
    for number in (0, 2, 1):
        await put(db, await begin(db), number)
        missing.append((await begin(db)).missing)

    assert missing == [0, 1, 1, None]
    assert len(await blob_rows.blobs(db)) == 1


async def test_upload_goes_on_with_the_chunks_it_began_with(db: Database) -> None:
    first = await begin(db, chunk_bytes=3)

    again = await begin(db, chunk_bytes=5)

    assert again == first
    assert again.chunk_bytes == 3


async def test_complete_blob_misses_nothing(db: Database) -> None:
    await complete(db)

    assert (await begin(db)).missing is None


async def test_chunk_sent_again_stays_as_it_is(db: Database) -> None:
    upload = await begin(db)
    assert await put(db, upload, 0) is True

    assert await put(db, upload, 0, b"XXXXXXXXXX") is False

    assert await blob_rows.chunk_data(db) == [DATA[:CHUNK]]


async def test_sealing_again_changes_nothing(db: Database) -> None:
    blob = await complete(db)

    assert await seal(db, await begin(db)) == blob


async def test_upload_of_the_same_digest_and_another_length_is_another_one(db: Database) -> None:
    first = await begin(db)

    async with db.write("begin") as tx:
        second = await stash.begin(tx, "p", Content(2 * len(DATA), content_of(DATA).digest), chunk_bytes=CHUNK)

    assert second.blob_id != first.blob_id
    assert (second.size_bytes, second.missing) == (2 * len(DATA), 0)


@pytest.mark.parametrize("other", [b"9876543210", b"0123456789 and more"], ids=["other bytes", "another length"])
async def test_upload_of_other_content_replaces_the_one_before(db: Database, other: bytes) -> None:
    old = await begin(db)
    await put(db, old, 0)

    new = await begin(db, other)

    assert new.missing == 0
    assert await blob_rows.blobs(db) == [(old.blob_id, None, "receiving"), (new.blob_id, "p", "receiving")]
    with pytest.raises(Unavailable, match="begin it again"):
        await seal(db, old)
    assert await sweep(db) == 1
    with pytest.raises(Unavailable, match="begin it again"):
        await put(db, old, 1)
    assert await blob_rows.blobs(db) == [(new.blob_id, "p", "receiving")]


async def test_complete_blob_is_replaced_by_other_content_too(db: Database) -> None:
    await complete(db)

    await begin(db, b"other")

    with pytest.raises(Unavailable, match="send it again"):
        await take(db)


async def test_blob_that_begins_again_replaces_what_was_there(db: Database) -> None:
    await complete(db)

    async with db.write("begin") as tx:
        upload = await stash.begin_new(tx, "p", 5, chunk_bytes=CHUNK)

    assert (upload.size_bytes, upload.missing) == (5, 0)
    assert await blob_rows.digest(db, "p") is None
    assert await sweep(db) == 1


@pytest.mark.parametrize(
    "content",
    [Content(len(DATA), content_of(b"other").digest), Content(11, content_of(DATA).digest)],
    ids=["another digest", "another length"],
)
async def test_blob_of_other_content_is_not_taken(db: Database, content: Content) -> None:
    await complete(db)

    with pytest.raises(Unavailable, match="send it again"):
        async with db.write("take") as tx:
            await stash.take(tx, "p", content)


async def test_blob_that_is_not_sealed_is_neither_taken_nor_found_nor_read(db: Database) -> None:
    upload = await begin(db)
    await put(db, upload, 0)

    with pytest.raises(Unavailable):
        await take(db)
    async with db.read() as tx:
        with pytest.raises(Unavailable):
            await stash.find(tx, "p")
        with pytest.raises(NotFound):
            await stash.get(tx, upload.blob_id)


async def test_blob_is_taken_once(db: Database) -> None:
    await complete(db)
    await take(db)

    with pytest.raises(Unavailable):
        await take(db)


async def test_upload_key_is_free_again_once_its_blob_was_taken(db: Database) -> None:
    first = await complete(db)
    await take(db)

    second = await complete(db)

    assert second.id != first.id
    assert (await take(db)).id == second.id


async def test_taken_blob_can_be_neither_given_up_nor_sealed_nor_discarded(db: Database) -> None:
    upload = await begin(db)
    await complete(db)
    blob = await take(db)

    async with db.write("give up") as tx:
        await stash.give_up(tx, blob.id)
        await stash.discard(tx, "p")
    with pytest.raises(Unavailable):
        await seal(db, upload)

    assert await blob_rows.blobs(db) == [(blob.id, "p", "taken")]
    assert await sweep(db) == 0


async def test_blob_that_was_found_has_not_been_taken(db: Database) -> None:
    blob = await complete(db)

    async with db.read() as tx:
        assert await stash.find(tx, "p") == blob

    await take(db)
    async with db.read() as tx:
        with pytest.raises(Unavailable):
            await stash.find(tx, "p")


@only_postgresql
async def test_upload_that_is_given_up_in_this_moment_is_begun_again(db: Database) -> None:
    upload = await begin(db)
    async with db.write("give up") as giving:
        await stash.give_up(giving, upload.blob_id)
        beginning = asyncio.create_task(begin(db))
        assert await waits(beginning)

    assert (await beginning).blob_id != upload.blob_id


@only_postgresql
async def test_upload_that_is_given_up_in_this_moment_is_not_sealed(db: Database) -> None:
    upload = await begin(db)
    async with db.write("give up") as giving:
        await stash.give_up(giving, upload.blob_id)
        sealing = asyncio.create_task(seal(db, upload))
        assert await waits(sealing)

    with pytest.raises(Unavailable):
        await sealing


@only_postgresql
async def test_taking_does_not_wait_for_the_holder_of_the_blob(db: Database) -> None:
    await complete(db)
    async with locks.every_blob(db):
        with pytest.raises(Unavailable, match="send it again"):
            await asyncio.wait_for(take(db), PATIENCE)

    assert await take(db)


async def test_upload_key_is_looked_up_by_its_index(db: Database) -> None:
    await begin(db)
    with recorded_statements() as statements:
        await begin(db)
    await crowds.crowd_uploads(db)

    [(statement, parameters)] = [each for each in statements if blob_rows.READ in each[0]]
    assert blob_rows.UPLOAD_KEY_INDEX in await explained(db, statement, parameters)
