"""Downloads and uploads that are cut off, stand still or arrive damaged, over a real port."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from director.domain.commands import Contribute
from director.domain.tensors import Manifest
from director.envoy import transfers
from director.errors import Corrupt, RoundClosed, TensorMismatch
from director.wire import codec
from tests.unit.envoy.scripted_director import CHUNKS, ENGAGEMENT, MANIFEST, PAYLOAD, UID, content_of

OTHER = Manifest.of({"other": np.zeros(2)})
RESULT = Contribute(
    experiment_uid=UID,
    envoy="clinic",
    attempt=2,
    round_number=3,
    task="train",
    samples=12,
    metrics={"loss": 0.5},
    update=content_of(PAYLOAD),
    manifest_digest=MANIFEST.digest,
)


@pytest.fixture
def update(tmp_path) -> Path:
    path = tmp_path / "update"
    path.write_bytes(PAYLOAD)
    return path


async def test_archive_is_downloaded(client, director, tmp_path):
    await client.download_archive(ENGAGEMENT, tmp_path / "archive.zip")

    assert (tmp_path / "archive.zip").read_bytes() == PAYLOAD
    assert len(list(tmp_path.iterdir())) == 1
    assert director.requests[0].experiment_uid == UID


async def test_model_is_its_payload_alone_and_its_manifest_comes_with_it(client, director, tmp_path):
    content, manifest = await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None)

    asked = director.requests[0]
    assert content == content_of(PAYLOAD)
    assert manifest == MANIFEST
    assert (tmp_path / "model").read_bytes() == PAYLOAD
    assert (asked.experiment_uid, asked.envoy, asked.attempt, asked.number) == (UID, "clinic", 2, 1)


async def test_manifest_that_is_held_is_not_sent_again(client, director, tmp_path):
    _, manifest = await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=MANIFEST)

    assert manifest is MANIFEST
    assert director.requests[0].held_manifest_sha256 == MANIFEST.content.sha256


async def test_manifest_that_is_another_one_is_replaced(client, tmp_path):
    _, manifest = await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=OTHER)

    assert manifest == MANIFEST


async def test_large_manifest_is_read_while_heartbeats_go_on(client, tmp_path, monkeypatch):
    decode = Manifest.decode
    monkeypatch.setattr(Manifest, "decode", lambda encoded: time.sleep(0.5) or decode(encoded))
    downloading = asyncio.create_task(client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None))

    longest, last = 0.0, time.monotonic()
    while not downloading.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()

    assert longest < 0.3


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_download_that_broke_off_goes_on_where_it_was(client, director, tmp_path, how):
    director.script = [("cut manifest", 1), (how, 2), (how, 2), (how, 3)]

    content, _ = await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None)

    assert content == content_of(PAYLOAD)
    assert (tmp_path / "model").read_bytes() == PAYLOAD
    assert [request.first_index for request in director.requests] == [0, 0, 2, 2, 3]
    assert [bool(request.held_manifest_sha256) for request in director.requests] == [False, False, True, True, True]


async def test_download_that_stands_still_goes_on_in_another_stream(client, director, tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "STALLED_AFTER_SECONDS", 0.3)
    director.script = [("stall", 3)]

    await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None)

    assert (tmp_path / "model").read_bytes() == PAYLOAD
    assert [request.first_index for request in director.requests] == [0, 3]


async def test_damaged_download_begins_again(client, director, tmp_path):
    director.script = [("damage", 2), ("damage", 4)]

    await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None)

    assert (tmp_path / "model").read_bytes() == PAYLOAD
    assert [request.first_index for request in director.requests] == [0, 0, 0]


async def test_download_that_is_always_damaged_is_given_up_and_leaves_nothing(client, director, tmp_path):
    director.script = [("damage", 1)] * 3

    with pytest.raises(Corrupt):
        await client.download_model(ENGAGEMENT, 1, tmp_path / "model", held=None)

    assert list(tmp_path.iterdir()) == []


async def test_update_is_sent_in_the_chunks_that_the_director_wants(client, director, update):
    await client.contribute(RESULT, update)

    assert b"".join(director.received[index] for index in sorted(director.received)) == PAYLOAD
    assert codec.read_contribution(director.contributions[0]) == RESULT


async def test_update_that_the_director_holds_already_is_not_sent(client, director, update):
    director.script = ["held already"]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == []


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_upload_that_broke_off_goes_on_at_the_first_missing_chunk(client, director, update, how):
    director.script = [(how, 2), (how, 4)]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == [0, 1, 2, 2, 3, 4, 4]
    assert b"".join(director.received[index] for index in sorted(director.received)) == PAYLOAD


async def test_chunks_wanted_once_more_in_the_same_call_are_sent_once_more(client, director, update):
    director.script = [("lose", 3)]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == [0, 1, 2, 3, 4, 3, 4]


async def test_update_refused_at_its_end_is_raised_and_not_sent_again(client, director, update):
    director.script = [("refuse", CHUNKS - 1)]

    with pytest.raises(TensorMismatch, match="'w' holds NaN"):
        await client.contribute(RESULT, update)

    assert len(director.requests) == 1


async def test_late_result_is_told_so(client, director, update):
    director.script = [RoundClosed("round 3 is closed")]

    with pytest.raises(RoundClosed):
        await client.contribute(RESULT, update)
