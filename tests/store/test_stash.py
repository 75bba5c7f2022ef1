"""Bytes arrive in chunks, in any number of attempts, and are there as a whole or not at all."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from director.domain.messages import Content
from director.effects import ManualClock
from director.errors import Corrupt, InvalidArgument, NotFound, Unavailable
from director.services import uploads
from director.store import stash
from director.store.database import Database
from director.store.opening import open_database
from director.store.stash import Blob, Upload
from tests.store.words import (
    change,
    explained,
    holding,
    one,
    only_postgresql,
    only_sqlite,
    recorded_statements,
    rows,
    waits,
)
from tests.world import World, chunks_of, content_of

CHUNK = 4
DATA = b"0123456789"
BLOBS = "SELECT id, purpose, state FROM blobs ORDER BY id"
PLAN_FOR_PURPOSE = "uq_blobs_purpose"


async def begin(db: Database, data: bytes = DATA, *, purpose: str = "p", chunk_bytes: int = CHUNK) -> Upload:
    async with db.write("begin") as tx:
        return await stash.begin(tx, purpose, content_of(data), chunk_bytes=chunk_bytes)


async def put(db: Database, upload: Upload, number: int, data: bytes = DATA) -> bool:
    size = upload.chunk_bytes
    async with db.write("put") as tx:
        return await stash.put(tx, upload.blob_id, number, data[number * size : (number + 1) * size])


async def seal(db: Database, upload: Upload, data: bytes = DATA) -> Blob:
    async with db.write("seal") as tx:
        return await stash.seal(tx, upload.blob_id, content_of(data).digest)


async def take(db: Database, data: bytes = DATA, *, purpose: str = "p") -> Blob:
    async with db.write("take") as tx:
        return await stash.take(tx, purpose, content_of(data))


async def complete(db: Database, data: bytes = DATA, *, purpose: str = "p", chunk_bytes: int = CHUNK) -> Blob:
    upload = await begin(db, data, purpose=purpose, chunk_bytes=chunk_bytes)
    for number in range(stash.chunk_count(len(data), chunk_bytes)):
        await put(db, upload, number, data)
    return await seal(db, upload, data)


async def sweep(db: Database) -> int:
    swept = 0
    while True:
        async with db.write("sweep") as tx:
            if not await stash.sweep_one(tx):
                return swept
        swept += 1


async def whole(db: Database, blob: Blob) -> bytes:
    return b"".join([data async for _, data in stash.read_chunks(db, blob)])


async def test_blob_that_was_taken_is_what_was_sent(db: Database) -> None:
    sealed = await complete(db)

    blob = await take(db)

    assert blob == sealed == Blob(blob.id, len(DATA), CHUNK, content_of(DATA).digest)
    assert blob.content == content_of(DATA)
    assert await whole(db, blob) == DATA
    assert await rows(db, "SELECT state, expires_at FROM blobs") == [("taken", None)]
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
    assert len(await rows(db, BLOBS)) == 1


async def test_upload_goes_on_with_the_chunks_it_began_with(db: Database) -> None:
    first = await begin(db, chunk_bytes=3)

    again = await begin(db, chunk_bytes=5)

    assert again == first
    assert again.chunk_bytes == 3


async def test_going_on_keeps_the_upload_for_longer(timed: World, clock: ManualClock) -> None:
    upload = await begin(timed.db)
    clock.advance(stash.UNCLAIMED - timedelta(hours=1))
    await begin(timed.db)
    clock.advance(timedelta(hours=2))

    assert await sweep(timed.db) == 0

    assert (await begin(timed.db)).blob_id == upload.blob_id


async def test_complete_blob_misses_nothing(db: Database) -> None:
    await complete(db)

    assert (await begin(db)).missing is None


async def test_chunk_sent_again_stays_as_it_is(db: Database) -> None:
    upload = await begin(db)
    assert await put(db, upload, 0) is True

    assert await put(db, upload, 0, b"XXXXXXXXXX") is False

    assert bytes(await one(db, "SELECT data FROM blob_chunks")) == DATA[:CHUNK]


async def test_sealing_again_changes_nothing(db: Database) -> None:
    blob = await complete(db)

    assert await seal(db, await begin(db)) == blob


@pytest.mark.parametrize("other", [b"9876543210", b"0123456789 and more"], ids=["other bytes", "another length"])
async def test_upload_of_other_content_replaces_the_one_before(db: Database, other: bytes) -> None:
    old = await begin(db)
    await put(db, old, 0)

    new = await begin(db, other)

    assert new.missing == 0
    assert await rows(db, BLOBS) == [(old.blob_id, None, "receiving"), (new.blob_id, "p", "receiving")]
    with pytest.raises(Unavailable, match="begin it again"):
        await seal(db, old)
    assert await sweep(db) == 1
    with pytest.raises(Unavailable, match="begin it again"):
        await put(db, old, 1)
    assert await rows(db, BLOBS) == [(new.blob_id, "p", "receiving")]


async def test_complete_blob_is_replaced_by_other_content_too(db: Database) -> None:
    await complete(db)

    await begin(db, b"other")

    with pytest.raises(Unavailable, match="send it again"):
        await take(db)


async def test_blob_begun_afresh_replaces_whatever_was_there(db: Database) -> None:
    await complete(db)

    async with db.write("begin") as tx:
        upload = await stash.begin_afresh(tx, "p", 5, chunk_bytes=CHUNK)

    assert (upload.size_bytes, upload.missing) == (5, 0)
    assert await one(db, "SELECT digest FROM blobs WHERE purpose = 'p'") is None
    assert await sweep(db) == 1


@pytest.mark.parametrize("content", [content_of(b"other"), Content(11, content_of(DATA).digest)])
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


async def test_purpose_is_free_again_once_its_blob_was_taken(db: Database) -> None:
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

    assert await rows(db, BLOBS) == [(blob.id, "p", "taken")]
    assert await sweep(db) == 0


async def test_discarded_upload_is_swept(db: Database) -> None:
    await complete(db)

    async with db.write("discard") as tx:
        await stash.discard(tx, "p")

    assert await sweep(db) == 1
    assert await rows(db, "SELECT number FROM blob_chunks") == []


async def test_blob_that_was_found_has_not_been_taken(db: Database) -> None:
    blob = await complete(db)

    async with db.read() as tx:
        assert await stash.find(tx, "p") == blob

    await take(db)
    async with db.read() as tx:
        with pytest.raises(Unavailable):
            await stash.find(tx, "p")


async def test_sweep_deletes_what_expired_and_nothing_else(timed: World, clock: ManualClock) -> None:
    db = timed.db
    await complete(db, purpose="taken")
    taken = await take(db, purpose="taken")
    await complete(db, purpose="old")
    clock.advance(timedelta(seconds=1))
    young = await complete(db, purpose="young")
    clock.advance(stash.UNCLAIMED - timedelta(seconds=1))

    assert await sweep(db) == 1

    assert await rows(db, BLOBS) == [(taken.id, "taken", "taken"), (young.id, "young", "complete")]
    assert await rows(db, "SELECT DISTINCT blob_id FROM blob_chunks ORDER BY 1") == [taken.id, young.id]
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
        await stash.read_part(db, blob, 0, 1)
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
    other = await begin(db, purpose="other")

    with pytest.raises(Unavailable, match="begin it again"):
        await put(db, stalled, 0)

    assert other.blob_id != stalled.blob_id
    assert await rows(db, "SELECT number FROM blob_chunks") == []


async def receive(
    federation: World, data: bytes, *, sent: bytes | None = None, check: uploads.Check = uploads.accept_anything
) -> Upload:
    content = content_of(data)
    upload = await uploads.begin(federation.process.runtime, "p", content)
    await uploads.receive(federation.process.runtime, upload, content, chunks_of(sent or data, upload), check=check)
    return upload


LONG = bytes(range(256)) * 40
"""More than two chunks of a federation in the tests."""
SWAPPED = LONG[:5000] + b"!" + LONG[5001:]


async def test_upload_with_a_wrong_digest_is_given_up(federation: World) -> None:
    with pytest.raises(Corrupt):
        await receive(federation, LONG, sent=SWAPPED)

    assert await sweep(federation.db) == 1
    await receive(federation, LONG)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_resumed_upload_with_a_wrong_chunk_is_given_up(federation: World) -> None:
    upload = await uploads.begin(federation.process.runtime, "p", content_of(LONG))
    await put(federation.db, upload, 0, SWAPPED)
    await put(federation.db, upload, 1, SWAPPED)

    with pytest.raises(Corrupt):
        await receive(federation, LONG)

    await receive(federation, LONG)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_chunk_of_another_stream_counts_as_it_is_in_the_rows(federation: World) -> None:
    upload = await uploads.begin(federation.process.runtime, "p", content_of(LONG))
    await put(federation.db, upload, 1, SWAPPED)

    with pytest.raises(Corrupt):
        await uploads.receive(
            federation.process.runtime, upload, content_of(LONG), chunks_of(LONG, upload), check=uploads.accept_anything
        )

    await receive(federation, LONG)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_two_uploads_of_the_same_at_once_are_one(federation: World) -> None:
    upload = await uploads.begin(federation.process.runtime, "p", content_of(LONG))

    await asyncio.gather(*(receive(federation, LONG) for _ in range(3)))

    blob = await take(federation.db, LONG)
    assert blob.id == upload.blob_id
    assert await whole(federation.db, blob) == LONG
    assert len(await rows(federation.db, BLOBS)) == 1


async def test_upload_that_goes_on_after_its_blob_was_taken_is_told_to_ask_again(federation: World) -> None:
    upload = await uploads.begin(federation.process.runtime, "p", content_of(LONG))
    await receive(federation, LONG)
    blob = await take(federation.db, LONG)

    with pytest.raises(Unavailable):
        await uploads.receive(
            federation.process.runtime, upload, content_of(LONG), chunks_of(LONG, upload), check=uploads.accept_anything
        )

    assert await whole(federation.db, blob) == LONG


async def test_upload_begun_twice_at_once_is_one_blob(db: Database) -> None:
    outcomes = await asyncio.gather(*(begin(db) for _ in range(8)), return_exceptions=True)

    begun = [outcome for outcome in outcomes if isinstance(outcome, Upload)]
    assert {upload.blob_id for upload in begun} == {begun[0].blob_id}
    assert all(isinstance(outcome, Upload | Unavailable) for outcome in outcomes)
    assert len(await rows(db, BLOBS)) == 1


@pytest.mark.parametrize("number", [1, 7])
async def test_chunk_out_of_order_is_refused(federation: World, number: int) -> None:
    upload = await uploads.begin(federation.process.runtime, "p", content_of(LONG))

    async def chunks() -> uploads.Chunks:
        yield number, LONG[:4096]

    with pytest.raises(InvalidArgument, match="was expected"):
        await uploads.receive(
            federation.process.runtime, upload, content_of(LONG), chunks(), check=uploads.accept_anything
        )


@only_postgresql
async def test_chunk_waits_for_a_sweep_of_its_blob_and_is_told_to_begin_again(db: Database) -> None:
    upload = await begin(db)
    await change(db, "UPDATE blobs SET expires_at = '2000-01-01'")
    async with db.write("sweep") as sweeping:
        assert await stash.sweep_one(sweeping)
        late = asyncio.create_task(put(db, upload, 0))
        assert await waits(late)

    with pytest.raises(Unavailable, match="begin it again"):
        await late
    assert await rows(db, "SELECT number FROM blob_chunks") == []


@only_postgresql
async def test_sweep_passes_by_what_is_being_used(db: Database) -> None:
    upload, other = await begin(db), await begin(db, purpose="other")
    await change(db, "UPDATE blobs SET expires_at = '2000-01-01'")
    async with db.write("put") as putting:
        await stash.put(putting, upload.blob_id, 0, DATA[:CHUNK])

        assert await asyncio.wait_for(sweep(db), 2) == 1

    assert await rows(db, "SELECT id FROM blobs") == [upload.blob_id]
    assert other.blob_id != upload.blob_id


@only_postgresql
@pytest.mark.parametrize("what", [begin, seal], ids=["begin", "seal"])
async def test_upload_that_is_given_up_meanwhile_is_seen_as_such(db: Database, what: Callable[..., object]) -> None:
    upload = await begin(db)
    async with db.write("give up") as giving:
        await stash.give_up(giving, upload.blob_id)
        task = asyncio.ensure_future(begin(db) if what is begin else seal(db, upload))
        assert await waits(task)

    if what is begin:
        assert (await task).blob_id != upload.blob_id
    else:
        with pytest.raises(Unavailable):
            await task


@only_postgresql
async def test_taking_does_not_wait_for_whoever_is_at_the_blob(db: Database) -> None:
    await complete(db)
    async with holding(db, "SELECT id FROM blobs FOR UPDATE"):
        with pytest.raises(Unavailable, match="send it again"):
            await asyncio.wait_for(take(db), 2)

    assert await take(db)


async def test_purpose_is_looked_up_by_its_index(db: Database) -> None:
    with recorded_statements() as statements:
        await begin(db)
    if db.replicated:
        await change(
            db,
            "INSERT INTO blobs (purpose, digest, size_bytes, chunk_bytes, state, created_at, expires_at) "
            "SELECT 'other ' || n, '', 1, 1, 'complete', now(), now() FROM generate_series(1, 5000) n",
        )
        await change(db, "ANALYZE blobs")

    [(statement, parameters)] = [each for each in statements if "FROM blobs" in each[0]]
    assert PLAN_FOR_PURPOSE in await explained(db, statement, parameters)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 4, 16])
async def test_every_part_can_be_read(db: Database, chunk_bytes: int) -> None:
    blob = await complete(db, chunk_bytes=chunk_bytes)

    for start in range(len(DATA) + 1):
        for stop in range(start, len(DATA) + 1):
            assert await stash.read_part(db, blob, start, stop) == DATA[start:stop]


async def test_chunks_can_be_read_from_any_on(db: Database) -> None:
    blob = await complete(db)

    found = [chunk async for chunk in stash.read_chunks(db, blob, first=1)]

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
        purpose = hashlib.sha256(data + bytes([chunk_bytes])).hexdigest()
        blob = await complete(db, data, purpose=purpose, chunk_bytes=chunk_bytes)
        try:
            return await stash.read_part(db, blob, start, stop)
        finally:
            await db.close()

    assert asyncio.run(part()) == data[start:stop]
