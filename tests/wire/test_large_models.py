"""A model of 100,000 tensors: submitted, fetched, trained on and contributed in bounded messages."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from director.client import ExperimentHandle, Federation
from director.domain.commands import Contribute
from director.domain.envoy import Engagement, Shard
from director.domain.tensors import Manifest
from director.domain.work import Work
from director.envoy.connections import Connection
from director.envoy.director_client import DirectorClient
from tests.wire.calls import LARGEST_MESSAGE
from tests.wire.traffic import Traffic
from tests.world import World, content_of

COUNT = 100_000
NAMES = [f"encoder.layers.{number:06}.attention.weight" for number in range(COUNT)]
TRAIN_ONLY = "rounds: 2\ntasks:\n  - {name: train, kind: train, function: 'work:train'}\n"
BRIEF = 4096
"""Bytes of a message that neither the model nor its manifest makes longer."""


async def work_for(client: DirectorClient, engagement: Engagement) -> Work:
    answer = await client.poll_tasks(engagement)
    assert isinstance(answer, Work)
    return answer


async def train(client: DirectorClient, engagement: Engagement, work: Work, manifest: Manifest, update: Path) -> None:
    """Contribute a model in which each number is the number of the round."""
    payload = np.full(2 * COUNT, work.round_number, np.float32).tobytes()
    update.write_bytes(payload)
    result = Contribute(
        experiment_uid=engagement.experiment_uid,
        envoy="a",
        attempt=engagement.attempt,
        round_number=work.round_number,
        task="train",
        samples=10,
        update=content_of(payload),
        manifest_digest=manifest.digest,
    )
    await client.contribute(result, update)


# The clock of a federation that is driven by hand stands; within this lease it is not out of date.
@pytest.mark.parametrize("settings", [{"chunk_bytes": 1 << 20, "lease": timedelta(minutes=10)}])
async def test_large_manifest_crosses_once_in_chunks_and_nothing_else_grows_with_it(
    traffic: Traffic,
    federation: World,
    port: int,
    make_workspace: Any,
    tmp_path: Path,
    settings: dict[str, Any],
) -> None:
    initial = dict.fromkeys(NAMES, np.zeros(2, np.float32))
    address, workspace = f"127.0.0.1:{port}", make_workspace(plan=TRAIN_ONLY)

    def submit(far: Federation) -> ExperimentHandle:
        return far.submit("many", workspace=workspace, model=initial, collaborators=["a"])

    async with Connection([address], tls=None, client_id="a") as connection:
        client = DirectorClient(connection, "a")
        session = await client.register(Shard("a", "", 10, (), ()))
        with Federation(address, client_id="researcher") as far:
            handle = await asyncio.to_thread(submit, far)
            await federation.admit()
            [fence] = await federation.claim()
            await federation.drive(fence)
            engagement = await client.wait_experiment(session)
            assert engagement is not None
            first = await work_for(client, engagement)
            _, manifest = await client.download_model(engagement, 0, tmp_path / "first", held=None)
            await train(client, engagement, first, manifest, tmp_path / "update")
            await federation.drive(fence)
            second = await work_for(client, engagement)
            _, held = await client.download_model(engagement, 1, tmp_path / "second", held=manifest)
            await asyncio.to_thread(handle.download_model, "last", tmp_path / "last.safetensors")
            await asyncio.to_thread(handle.refresh)

    expected = np.ones(2 * COUNT, np.float32).tobytes()
    assert (second.round_number, second.base_model, second.manifest_digest) == (2, 1, manifest.digest)
    assert held is manifest
    assert (tmp_path / "second").read_bytes() == expected
    assert (tmp_path / "last.safetensors").read_bytes() == manifest.encoded + expected
    with safetensors.safe_open(tmp_path / "last.safetensors", "numpy") as file:
        assert sorted(file.keys()) == NAMES
        assert file.get_tensor(NAMES[-1]).tolist() == [1.0, 1.0]

    assert len(manifest.encoded) > 2 * LARGEST_MESSAGE
    assert traffic.largest <= LARGEST_MESSAGE
    for method in ("SubmitExperiment", "DownloadBaseModel", "DownloadModel"):
        sent = sum(traffic.of(method, "manifest_chunk"))
        assert len(manifest.encoded) < sent < len(manifest.encoded) + BRIEF, method
    rest = [each for each in traffic.messages if each.part not in ("manifest_chunk", "chunk")]
    assert max(each.size for each in rest) < BRIEF
