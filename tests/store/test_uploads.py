"""Bytes are accepted only if they are what was announced, however many streams sent them."""

import asyncio

import pytest

from director.errors import Corrupt, InvalidArgument, Unavailable
from director.services import uploads
from director.store.engine.database import Database
from director.store.stash import Upload
from tests.store.blobs import begin, put, sweep, take, whole
from tests.tables import blob_rows
from tests.world import World, chunks_of, content_of

LONG = bytes(range(256)) * 40
"""More than two chunks of a federation in the tests."""
SWAPPED = LONG[:5000] + b"!" + LONG[5001:]


async def announce(federation: World) -> Upload:
    return await uploads.begin(federation.process.runtime, "p", content_of(LONG))


async def send(federation: World, upload: Upload, chunks: uploads.Chunks | None = None) -> None:
    await uploads.receive(
        federation.process.runtime,
        upload,
        content_of(LONG),
        chunks or chunks_of(LONG, upload),
        check=uploads.accept_anything,
    )


async def announce_and_send(federation: World) -> None:
    await send(federation, await announce(federation))


async def test_upload_with_a_wrong_digest_is_given_up(federation: World) -> None:
    upload = await announce(federation)

    with pytest.raises(Corrupt):
        await send(federation, upload, chunks_of(SWAPPED, upload))

    assert await sweep(federation.db) == 1
    await announce_and_send(federation)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_resumed_upload_with_a_wrong_chunk_is_given_up(federation: World) -> None:
    upload = await announce(federation)
    await put(federation.db, upload, 0, SWAPPED)
    await put(federation.db, upload, 1, SWAPPED)

    with pytest.raises(Corrupt):
        await announce_and_send(federation)

    await announce_and_send(federation)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_chunk_of_another_stream_counts_as_it_is_in_the_rows(federation: World) -> None:
    upload = await announce(federation)
    await put(federation.db, upload, 1, SWAPPED)

    with pytest.raises(Corrupt):
        await send(federation, upload)

    await announce_and_send(federation)
    assert await whole(federation.db, await take(federation.db, LONG)) == LONG


async def test_two_uploads_of_the_same_at_once_are_one(federation: World) -> None:
    upload = await announce(federation)

    await asyncio.gather(*(announce_and_send(federation) for _ in range(3)))

    blob = await take(federation.db, LONG)
    assert blob.id == upload.blob_id
    assert await whole(federation.db, blob) == LONG
    assert len(await blob_rows.blobs(federation.db)) == 1


async def test_upload_that_goes_on_after_its_blob_was_taken_is_told_to_ask_again(federation: World) -> None:
    upload = await announce(federation)
    await announce_and_send(federation)
    blob = await take(federation.db, LONG)

    with pytest.raises(Unavailable):
        await send(federation, upload)

    assert await whole(federation.db, blob) == LONG


async def test_upload_begun_twice_at_once_is_one_blob(db: Database) -> None:
    outcomes = await asyncio.gather(*(begin(db) for _ in range(8)), return_exceptions=True)

    begun = [outcome for outcome in outcomes if isinstance(outcome, Upload)]
    assert {upload.blob_id for upload in begun} == {begun[0].blob_id}
    assert all(isinstance(outcome, Upload | Unavailable) for outcome in outcomes)
    assert len(await blob_rows.blobs(db)) == 1


@pytest.mark.parametrize("number", [1, 7])
async def test_chunk_out_of_order_is_refused(federation: World, number: int) -> None:
    upload = await announce(federation)

    async def chunks() -> uploads.Chunks:
        yield number, LONG[:4096]

    with pytest.raises(InvalidArgument, match="was expected"):
        await send(federation, upload, chunks())
