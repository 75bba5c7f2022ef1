"""Bytes out of the stash over the wire: each chunk and the whole as they were, from any chunk on."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from director.domain.tensors import Manifest
from director.errors import InvalidArgument, ModelNotFound, ModelNotReady, NotFound
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, rounds_pb2
from director.wire.chunks import Download
from tests import world
from tests.store.words import owned
from tests.wire.calls import blob_of, gather, on_both_engines, refused

WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
MODEL = world.payload_of(WEIGHTS)
MANIFEST = Manifest.of(WEIGHTS)
ARCHIVE = world.archive_of(**{"notes.txt": "n" * 12000})
SIZE = 4096
COUNT = 4

Open = Callable[..., AsyncIterator[common_pb2.DownloadPart]]


@pytest.fixture
async def engagement(federation):
    await federation.drive(await owned(federation, envoys=["a"], archive=ARCHIVE, model=WEIGHTS))
    return await federation.wait("a")


def archive(engagement, clients, **more: Any) -> AsyncIterator[common_pb2.DownloadPart]:
    request = envoys_pb2.DownloadArchiveRequest(experiment_uid=engagement.experiment_uid, envoy="a", **more)
    return clients("a").envoys.DownloadArchive(request)


def base_model(engagement, clients, number: int = 0, **more: Any) -> AsyncIterator[common_pb2.DownloadPart]:
    who = {"experiment_uid": engagement.experiment_uid, "envoy": "a", "attempt": 1}
    request = rounds_pb2.DownloadBaseModelRequest(**who, number=number, **more)
    return clients("a").rounds.DownloadBaseModel(request)


def users_model(engagement, clients, number: int = 0, **more: Any) -> AsyncIterator[common_pb2.DownloadPart]:
    uid = engagement.experiment_uid
    request = experiments_pb2.DownloadModelRequest(experiment_uid=uid, number=number, **more)
    return clients("researcher").experiments.DownloadModel(request)


CALLS: dict[str, tuple[bytes, Manifest | None, Any]] = {
    "DownloadArchive": (ARCHIVE, None, archive),
    "DownloadBaseModel": (MODEL, MANIFEST, base_model),
    "DownloadModel": (MODEL, MANIFEST, users_model),
}
"""What is downloaded, its manifest, and the call."""


@dataclass
class Downloading:
    """What is downloaded, and the call that does so."""

    data: bytes
    manifest: Manifest | None
    open: Open


@pytest.fixture(params=CALLS)
def download(request, engagement, clients) -> Downloading:
    """Each kind of download in turn."""
    data, manifest, call = CALLS[request.param]
    return Downloading(data, manifest, partial(call, engagement, clients))


@pytest.fixture(params=["DownloadBaseModel", "DownloadModel"])
def model(request, engagement, clients) -> Open:
    """Downloads a model, as an envoy and as a user."""
    _, _, call = CALLS[request.param]
    return partial(call, engagement, clients)


def bytes_of(parts: Sequence[common_pb2.DownloadPart]) -> bytes:
    """Return the bytes of a download, without its header and its manifest."""
    return b"".join(part.chunk.data for part in parts)


def manifest_of(parts: Sequence[common_pb2.DownloadPart]) -> bytes:
    """Return the manifest of a download."""
    return b"".join(part.manifest_chunk.data for part in parts)


@on_both_engines
async def test_header_and_manifest_come_first_and_then_each_chunk_in_turn(download):
    parts = await gather(download.open())

    header = parts[0].header
    assert header.blob == blob_of(download.data)
    assert header.chunk_bytes == SIZE
    assert header.HasField("manifest") == (download.manifest is not None)
    if download.manifest is not None:
        assert header.manifest == blob_of(download.manifest.encoded)
        assert parts.pop(1).manifest_chunk == common_pb2.Chunk(index=0, data=download.manifest.encoded)
    chunks = [part.chunk for part in parts[1:]]
    assert [chunk.index for chunk in chunks] == list(range(COUNT))
    assert [len(chunk.data) for chunk in chunks] == [SIZE] * (COUNT - 1) + [len(download.data) % SIZE]
    assert bytes_of(parts) == download.data


async def test_download_goes_on_from_whichever_chunk_it_is_asked_for(download):
    for first in range(COUNT + 1):
        header, *parts = await gather(download.open(first_index=first))

        assert header.HasField("header")
        assert bytes_of(parts) == download.data[first * SIZE :]


async def test_manifest_in_front_of_the_payload_is_a_file_that_others_read(model):
    parts = await gather(model())

    read = safetensors.numpy.load(manifest_of(parts) + bytes_of(parts))

    assert read.keys() == WEIGHTS.keys()
    assert np.array_equal(read["weights"], WEIGHTS["weights"])


async def test_manifest_that_the_caller_holds_is_not_sent_again(model):
    held = await gather(model(held_manifest_sha256=MANIFEST.content.sha256))
    other = await gather(model(held_manifest_sha256=bytes(32)))

    assert held[0] == other[0]
    assert (manifest_of(held), manifest_of(other)) == (b"", MANIFEST.encoded)
    assert bytes_of(held) == bytes_of(other) == MODEL


@pytest.mark.parametrize("first_index", [-1, COUNT + 1, 1 << 62])
async def test_chunk_that_is_none_is_refused(download, first_index):
    with refused(InvalidArgument, "there is no chunk"):
        await gather(download.open(first_index=first_index))


async def test_download_that_breaks_off_after_each_chunk_is_whole_in_the_end(download):
    whole, received = Download(), b""

    while not whole.complete:
        held = {"held_manifest_sha256": whole.held_manifest_sha256} if whole.manifest is not None else {}
        stream: Any = download.open(first_index=whole.next_index, **held)
        for _ in range(2):  # the header, and one chunk
            received += whole.take(await stream.read())
        stream.cancel()

    assert received == download.data
    assert whole.manifest == download.manifest


@pytest.fixture
def model_of(clients, federation) -> Callable[..., Any]:
    """Downloads a model as a user; returns its header."""

    async def ask(**which: Any) -> common_pb2.DownloadHeader:
        request = experiments_pb2.DownloadModelRequest(experiment_uid=(await federation.row("experiment")).uid, **which)
        header, *_ = await gather(clients("researcher").experiments.DownloadModel(request))
        return header.header

    return ask


async def test_models_are_chosen_by_number_or_by_word(federation, model_of):
    fence = await owned(federation)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    for value in (2.0, 3.0, 1.0):  # each round measures the model before it
        await federation.finish_round(given, value=value)
        await federation.drive(fence)

    initial = await model_of(choice=experiments_pb2.DownloadModelRequest.INITIAL)
    best = await model_of(choice=experiments_pb2.DownloadModelRequest.BEST)
    last = await model_of(choice=experiments_pb2.DownloadModelRequest.LAST)

    assert [header.model_number for header in (initial, best, last)] == [0, 1, 2]
    assert best == await model_of(number=1)
    assert {header.manifest.sha256 for header in (initial, best, last)} == {Manifest.of(world.MODEL).content.sha256}


@on_both_engines
@pytest.mark.parametrize("number", [1, -1, 1 << 40, (1 << 63) - 1])
async def test_model_that_the_experiment_does_not_have_is_not_found(model, number):
    with refused(ModelNotFound, "no model"):
        await gather(model(number=number))


async def test_result_of_no_round_is_not_ready(engagement, model_of):
    for choice in (experiments_pb2.DownloadModelRequest.BEST, experiments_pb2.DownloadModelRequest.LAST):
        with refused(ModelNotReady, "no round has closed"):
            await model_of(choice=choice)


async def test_model_has_to_be_named(engagement, model_of):
    with refused(InvalidArgument, "name the model"):
        await model_of()
    with refused(InvalidArgument, "name the model"):
        await model_of(choice=7)


async def test_archive_of_a_removed_experiment_is_gone(federation, engagement, clients):
    await federation.process.experiments.remove(engagement.experiment_uid, federation.process.caller("researcher"))

    with refused(NotFound, "was removed"):
        await gather(archive(engagement, clients))
