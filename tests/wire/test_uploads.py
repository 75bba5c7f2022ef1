"""Chunks that are not as they should be: what is refused, what is kept, and where the next stream goes on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from director.domain.tensors import Manifest
from director.errors import Corrupt, InvalidArgument, Unavailable
from director.services import uploads as receiving
from director.v1 import common_pb2, experiments_pb2, rounds_pb2
from director.wire import request_chunks
from tests.store.words import owned
from tests.tables import blob_rows
from tests.wire.calls import Conversation, blob_of, chunk_of, refused, until_stored
from tests.world import archive_of, payload_of

WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
UPDATE = payload_of(WEIGHTS)
ARCHIVE = archive_of(**{"notes.txt": "n" * 12000})
SIZE = 4096
LAST = 3


@dataclass
class Uploading:
    """Bytes to send, and how to begin."""

    data: bytes
    stored_before: int
    open: Callable[[], Conversation]
    first: list[dict[str, Any]]
    """The messages that announce the bytes."""
    otherwise: list[dict[str, Any]]
    """Messages that announce other bytes."""

    async def begin(self, otherwise: bool = False) -> tuple[Conversation, common_pb2.UploadWanted]:
        """Begin, or go on; return what is wanted too."""
        conversation = self.open()
        for message in self.otherwise if otherwise else self.first:
            await conversation.say(**message)
        answer = await conversation.hear()
        return conversation, getattr(answer, answer.WhichOneof("part"))

    def chunk(self, index: int) -> common_pb2.Chunk:
        """Return a good chunk."""
        return chunk_of(self.data, index, SIZE)


async def archive(federation, clients) -> Uploading:
    await federation.register("a")
    source = await federation.submit("source", envoys=["a"])
    announced, other = (
        experiments_pb2.Submission(
            submission_id="once-and-for-all",
            name="experiment",
            archive=blob_of(data),
            reference=experiments_pb2.ModelReference(experiment_uid=source.uid, number=0),
            collaborator_count=1,
        )
        for data in (ARCHIVE, ARCHIVE[:-1])
    )
    names = {"collaborators": experiments_pb2.Names(names=["a"])}
    stored = await blob_rows.chunk_count(federation.db)
    researcher = clients("researcher")
    return Uploading(
        ARCHIVE, stored, researcher.submit, [{"submission": announced}, names], [{"submission": other}, names]
    )


async def update(federation, clients) -> Uploading:
    await federation.drive(await owned(federation, envoys=["a"], model=WEIGHTS))
    given = await federation.wait("a")
    announced, other = (
        rounds_pb2.Contribution(
            experiment_uid=given.experiment_uid,
            envoy="a",
            attempt=given.attempt,
            round=1,
            task="train",
            samples=10,
            update=blob_of(data),
            manifest_sha256=Manifest.of(WEIGHTS).content.sha256,
        )
        for data in (UPDATE, UPDATE[::-1])
    )
    stored = await blob_rows.chunk_count(federation.db)
    return Uploading(UPDATE, stored, clients("a").contribute, [{"contribution": announced}], [{"contribution": other}])


@pytest.fixture(params=[archive, update], ids=lambda make: make.__name__)
async def uploading(request, federation, clients) -> Uploading:
    make: Callable[..., Awaitable[Uploading]] = request.param
    return await make(federation, clients)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (lambda good: good.chunk(2), "chunk 2 of 4096 bytes came where chunk 1 of 4096"),
        (lambda good: good.chunk(0), "chunk 0 of 4096 bytes came where chunk 1"),
        (lambda good: common_pb2.Chunk(index=-1, data=good.data[SIZE : 2 * SIZE]), "chunk -1 "),
        (lambda good: common_pb2.Chunk(index=1, data=good.data[SIZE : 2 * SIZE + 1]), "of 4097 bytes"),
        (lambda good: common_pb2.Chunk(index=1, data=good.data[SIZE : 2 * SIZE - 1]), "of 4095 bytes"),
        (lambda good: common_pb2.Chunk(index=1), "of 0 bytes"),
    ],
    ids=["too early", "again", "negative", "too long", "too short", "empty"],
)
async def test_bad_chunk_is_refused_and_those_before_it_are_kept(uploading, bad, match):
    conversation, _ = await uploading.begin()
    await conversation.say(chunk=uploading.chunk(0))
    await conversation.say(chunk=bad(uploading))

    with refused(InvalidArgument, match):
        await conversation.hear()

    _, wanted = await uploading.begin()
    assert wanted.first_index == 1


async def test_upload_that_ends_too_early_is_refused_and_goes_on_in_the_next_stream(uploading):
    conversation, wanted = await uploading.begin()
    await conversation.say_chunks(uploading.data, wanted, but=1)
    await conversation.say_no_more()

    with refused(InvalidArgument, "ended before its last chunk"):
        await conversation.hear()

    _, wanted = await uploading.begin()
    assert wanted.first_index == LAST


async def test_message_of_another_kind_in_place_of_a_chunk_is_refused(uploading):
    conversation, _ = await uploading.begin()
    await conversation.say(**uploading.first[0])

    with refused(InvalidArgument, "a chunk was expected"):
        await conversation.hear()


async def test_bytes_that_are_not_those_announced_are_refused_and_sent_again(uploading):
    forgery = bytes(len(uploading.data))
    conversation, wanted = await uploading.begin()
    await conversation.say_chunks(forgery, wanted)

    with refused(Corrupt, "do not match the digest announced"):
        await conversation.hear()

    _, wanted = await uploading.begin()
    assert wanted.first_index == 0


async def test_bytes_forged_over_two_streams_are_refused_too(federation, uploading):
    broken, wanted = await uploading.begin()
    await broken.say_chunks(bytes(len(uploading.data)), wanted, but=1)
    await until_stored(federation, chunks=uploading.stored_before + LAST)
    broken.hang_up()
    conversation, wanted = await uploading.begin()
    await conversation.say_chunks(uploading.data, wanted)

    with refused(Corrupt, "do not match the digest announced"):
        await conversation.hear()

    assert wanted.first_index == LAST


async def test_upload_announced_with_other_bytes_begins_again(uploading):
    conversation, _ = await uploading.begin()
    await conversation.say(chunk=uploading.chunk(0))

    _, wanted = await uploading.begin(otherwise=True)

    assert wanted.first_index == 0


async def test_silent_stream_is_ended_so_that_it_holds_nothing_up(uploading, monkeypatch):
    monkeypatch.setattr(request_chunks, "CHUNK_SECONDS", 0.2)
    monkeypatch.setattr(receiving, "CHUNK_SECONDS", 0.2)
    mute = uploading.open()
    conversation, _ = await uploading.begin()

    with refused(Unavailable, "no chunk came for 0.2 s"):
        await conversation.hear()
    with refused(Unavailable, "did not come for 0.2 s; call again"):
        await mute.hear()
