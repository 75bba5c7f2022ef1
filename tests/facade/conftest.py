"""Directors in process, with envoys that train in this process too."""

import asyncio
import hashlib
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from director import Director
from director.domain.commands import Contribute
from director.domain.content import Content
from director.domain.envoy import Engagement
from director.domain.tensors import Manifest, payload_pieces
from director.domain.types import Tensors
from director.domain.work import Quit, Work
from director.store.stash import Upload
from tests.world import PLAN, chunks_of

MODEL = {"weights": np.zeros(8, np.float32)}


@pytest.fixture
async def director(migrated_url: str) -> AsyncIterator[Director]:
    """A director without TLS; its execution loop does not run."""
    async with Director(tls=False, database=migrated_url, sample_shape=["4"], target_shape=["1"]) as director:
        yield director


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A workspace archive."""
    return write_archive(tmp_path / "workspace.zip", PLAN)


def write_archive(path: Path, plan: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("plan/plan.yaml", plan)
    return path


def shard(name: str, sample_shape: tuple[str, ...] = ("4",), target_shape: tuple[str, ...] = ("1",)) -> dict[str, Any]:
    return {
        "node_info": {"name": name},
        "shard_description": "scans",
        "n_samples": 7,
        "sample_shape": list(sample_shape),
        "target_shape": list(target_shape),
    }


async def submit(director: Director, archive: Path, name: str = "experiment", **changes: Any) -> bool:
    wanted: dict[str, Any] = {
        "experiment_name": name,
        "sender_name": "researcher",
        "tensor_dict": MODEL,
        "collaborator_names": ["a", "b"],
        "experiment_archive_path": archive,
    }
    return await director.set_new_experiment(**(wanted | changes))


async def work_as(director: Director, envoy: str, *, value: float, rounds: int | None = None) -> None:
    """Take part in one experiment as an envoy would, in so many rounds or to its end."""
    given = None
    while given is None:
        given = await director.process.envoys.wait_experiment(envoy)
    done = 0
    while rounds is None or done < rounds:
        answer = await director.process.rounds.poll_tasks(given.experiment_uid, envoy, given.attempt)
        if isinstance(answer, Quit):
            return
        if isinstance(answer, Work):
            for task in answer.tasks:
                update = {"weights": np.full(8, value * answer.round_number, np.float32)}
                await contribute(director, given, envoy, answer.round_number, task.name, update)
            done += 1


async def contribute(
    director: Director, given: Engagement, envoy: str, round_number: int, task: str, update: Tensors
) -> None:
    payload = b"".join(payload_pieces(Manifest.of(update), update))
    content = Content(len(payload), hashlib.sha256(payload).hexdigest())
    trains = task == "train"
    command = Contribute(
        experiment_uid=given.experiment_uid,
        envoy=envoy,
        attempt=given.attempt,
        round_number=round_number,
        task=task,
        samples=10,
        metrics={"accuracy": 0.1 * round_number},
        update=content if trains else None,
        manifest_digest=Manifest.of(update).digest if trains else "",
    )
    begun = await director.process.rounds.begin_contribution(command)
    if isinstance(begun, Upload):
        await director.process.rounds.receive_update(command, begun, chunks_of(payload, begun))
    await director.process.rounds.contribute(command)


async def stop(loop: "asyncio.Task[None]") -> None:
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
