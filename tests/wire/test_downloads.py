"""Bytes out of the stash over the wire: each chunk and the whole as they were, from whichever chunk on."""

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from director.domain.tensors import Manifest
from director.errors import InvalidArgument, ModelNotFound, ModelNotReady, NotFound
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, rounds_pb2
from director.wire.chunks import Download, manifest_message
from tests.store.words import owned
from tests.wire.calls import blob_of, gather, on_both_engines, refused
from tests.world import archive_of, payload_of

WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
MODEL = payload_of(WEIGHTS)
ARCHIVE = archive_of(**{"notes.txt": "n" * 12000})
SIZE = 4096
COUNT = 4

Open = Callable[..., AsyncIterator[common_pb2.DownloadPart]]


@pytest.fixture
async def engagement(federation):
    await federation.drive(await owned(federation, envoys=["a"], archive=ARCHIVE, model=WEIGHTS))
    return await federation.wait("a")


@pytest.fixture(params=["DownloadArchive", "DownloadModel of an envoy", "DownloadModel of a user"])
def download(request, engagement, clients) -> tuple[bytes, Open]:
    """What is downloaded, and the call that does so."""
    who = {"experiment_id": engagement.experiment_id, "envoy": "a"}

    def archive(first_index: int = 0) -> AsyncIterator[common_pb2.DownloadPart]:
        return clients("a").envoys.DownloadArchive(envoys_pb2.DownloadArchiveRequest(**who, first_index=first_index))

    def of_envoy(first_index: int = 0) -> AsyncIterator[common_pb2.DownloadPart]:
        asked = rounds_pb2.DownloadRoundModelRequest(**who, attempt=1, number=0, first_index=first_index)
        return clients("a").rounds.DownloadModel(asked)

    def of_user(first_index: int = 0) -> AsyncIterator[common_pb2.DownloadPart]:
        asked = experiments_pb2.DownloadModelRequest(name="experiment", number=0, first_index=first_index)
        return clients("researcher").experiments.DownloadModel(asked)

    known: dict[str, tuple[bytes, Open]] = {
        "DownloadArchive": (ARCHIVE, archive),
        "DownloadModel of an envoy": (MODEL, of_envoy),
        "DownloadModel of a user": (MODEL, of_user),
    }
    return known[request.param]


@on_both_engines
async def test_header_says_what_comes_and_each_chunk_is_what_its_digest_says(download):
    data, open_stream = download

    header, *parts = await gather(open_stream())

    chunks = [part.chunk for part in parts]
    assert header.header.blob == blob_of(data)
    assert header.header.chunk_bytes == SIZE
    assert [chunk.index for chunk in chunks] == list(range(COUNT))
    assert [chunk.sha256 for chunk in chunks] == [hashlib.sha256(chunk.data).digest() for chunk in chunks]
    assert [len(chunk.data) for chunk in chunks] == [SIZE] * (COUNT - 1) + [len(data) % SIZE]
    assert b"".join(chunk.data for chunk in chunks) == data


async def test_download_goes_on_from_whichever_chunk_it_is_asked_for(download):
    data, open_stream = download

    for first in range(COUNT + 1):
        header, *parts = await gather(open_stream(first_index=first))
        assert header.HasField("header")
        assert b"".join(part.chunk.data for part in parts) == data[first * SIZE :]


@pytest.mark.parametrize("first_index", [-1, COUNT + 1, 1 << 62])
async def test_chunk_that_is_none_is_refused(download, first_index):
    _, open_stream = download

    with refused(InvalidArgument, "there is no chunk"):
        await gather(open_stream(first_index=first_index))


async def test_download_that_breaks_off_after_each_chunk_is_whole_in_the_end(download):
    data, open_stream = download
    whole, received = Download(), b""

    while not whole.complete:
        stream: Any = open_stream(first_index=whole.next_index)
        for _ in range(2):  # the header, and one chunk
            received += whole.take(await stream.read())
        stream.cancel()

    assert received == data


@pytest.fixture
def model_of(clients) -> Callable[..., Any]:
    """Downloads a model as a user; returns its header."""

    async def ask(**which: Any) -> common_pb2.DownloadHeader:
        request = experiments_pb2.DownloadModelRequest(name="experiment", **which)
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

    initial = await model_of(choice=experiments_pb2.MODEL_CHOICE_INITIAL)
    best = await model_of(choice=experiments_pb2.MODEL_CHOICE_BEST)
    last = await model_of(choice=experiments_pb2.MODEL_CHOICE_LAST)

    assert [header.model_number for header in (initial, best, last)] == [0, 1, 2]
    assert best == await model_of(number=1)
    assert last.manifest == manifest_message(Manifest.of({"weights": np.zeros(8, np.float32)}))


@on_both_engines
@pytest.mark.parametrize("number", [1, -1, 1 << 40, (1 << 63) - 1])
async def test_model_that_is_none_is_not_found(engagement, model_of, clients, number):
    asked = rounds_pb2.DownloadRoundModelRequest(
        experiment_id=engagement.experiment_id, envoy="a", attempt=1, number=number
    )

    with refused(ModelNotFound, "no model"):
        await model_of(number=number)
    with refused(ModelNotFound, "no model"):
        await gather(clients("a").rounds.DownloadModel(asked))


async def test_result_of_no_round_is_not_ready(engagement, model_of):
    for choice in (experiments_pb2.MODEL_CHOICE_BEST, experiments_pb2.MODEL_CHOICE_LAST):
        with refused(ModelNotReady, "no round has closed"):
            await model_of(choice=choice)


async def test_model_has_to_be_named(engagement, model_of):
    with refused(InvalidArgument, "name the model"):
        await model_of()
    with refused(InvalidArgument, "name the model"):
        await model_of(choice=7)


async def test_archive_of_a_removed_experiment_is_gone(federation, engagement, clients):
    await federation.process.experiments.remove("experiment", federation.process.caller("researcher"))
    asked = envoys_pb2.DownloadArchiveRequest(envoy="a", experiment_id=engagement.experiment_id)

    with refused(NotFound, "was removed"):
        await gather(clients("a").envoys.DownloadArchive(asked))
