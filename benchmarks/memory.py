"""How much memory does the director take to receive and fold a model larger than its budget, and how fast is it?

The director is a process of its own (this one's child) on SQLite in memory-backed storage; collaborators are generated,
so their bytes never exist as a whole anywhere.

    python -m benchmarks.memory [--megabytes N] [--collaborators N]
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from director.domain.commands import Contribute, ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.envoy import Shard
from director.domain.tensor_info import TensorInfo
from director.domain.tensors import Manifest
from director.domain.work import Work
from director.facade import Director
from director.services.submissions import Wanted
from director.services.uploads import Chunks
from director.settings import Settings
from director.store.stash import Upload
from tests.postgres import parent
from tests.world import archive_of, chunks_of, content_of

PLAN = 'rounds: 1\ntasks:\n  - {name: train, kind: train, function: "work:train"}\n'
MEGABYTE = 1 << 20


def piece(seed: int) -> bytes:
    """Return a megabyte of float32 values."""
    return np.random.default_rng(seed).normal(size=MEGABYTE // 4).astype(np.float32).tobytes()


def content(seed: int, megabytes: int) -> Content:
    """Return the identity of a payload that repeats one piece."""
    digest, data = hashlib.sha256(), piece(seed)
    for _ in range(megabytes):
        digest.update(data)
    return Content(megabytes * MEGABYTE, digest.hexdigest())


async def chunks(seed: int, megabytes: int, upload: Upload) -> AsyncIterator[tuple[int, bytes]]:
    """Yield such a payload's chunks."""
    assert upload.chunk_bytes == MEGABYTE, "pieces are chunks here"
    data = piece(seed)
    for number in range(upload.missing or 0, megabytes):
        yield number, data


async def run(url: str, megabytes: int, collaborators: int) -> tuple[float, float]:
    """Submit, contribute, fold; return seconds of receiving and of folding."""
    manifest = Manifest((TensorInfo("weights", "F32", (megabytes * MEGABYTE // 4,)),))
    names = [f"envoy-{number}" for number in range(collaborators)]
    async with Director(settings=Settings(database=url), tls=False) as director:
        process = director.process
        for name in names:
            await process.envoys.register(Shard(name, "", 1, (), ()))
        archive = archive_of(PLAN)
        model = ModelUpload(content(0, megabytes), manifest)
        command = SubmitExperiment("benchmark-memory", "large", names, content_of(archive), model)

        def wanted_chunks(wanted: Wanted) -> Chunks:
            if wanted.part == "archive":
                return chunks_of(archive, wanted.upload)
            return chunks(0, megabytes, wanted.upload)

        async for _step in process.submissions.submit(command, process.caller("user"), wanted_chunks):
            pass
        loop = asyncio.create_task(director.start_experiment_execution_loop())

        async def collaborate(number: int, name: str) -> None:
            given = await process.envoys.wait_experiment(name)
            assert given is not None
            work = await process.rounds.poll_tasks(given.experiment_uid, name, given.attempt)
            assert isinstance(work, Work)
            result = Contribute(
                experiment_uid=given.experiment_uid,
                envoy=name,
                attempt=given.attempt,
                round_number=work.round_number,
                task="train",
                samples=number,
                update=content(number, megabytes),
                manifest_digest=work.manifest_digest,
            )
            upload = await process.rounds.begin_contribution(result)
            assert isinstance(upload, Upload)
            await process.rounds.receive_update(result, upload, chunks(number, megabytes, upload))
            await process.rounds.contribute(result)

        began = time.perf_counter()
        await asyncio.gather(*(collaborate(number, name) for number, name in enumerate(names, start=1)))
        received = time.perf_counter() - began
        began = time.perf_counter()
        async for _metric in director.stream_metrics("large", "user"):
            pass
        folded = time.perf_counter() - began
        assert await director.get_experiment_status("large", "user") == "finished"
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    return received, folded


def child(url: str, megabytes: int, collaborators: int, answers: "Queue[tuple[float, float, int]]") -> None:
    """Run in a process of its own, whose peak is then that of the director."""
    received, folded = asyncio.run(run(url, megabytes, collaborators))
    answers.put((received, folded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--collaborators", type=int, default=8)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent()))
    spawn = multiprocessing.get_context("spawn")
    answers: Queue[tuple[float, float, int]] = spawn.Queue()
    try:
        arguments = (f"sqlite:///{folder / 'director.db'}", options.megabytes, options.collaborators, answers)
        process = spawn.Process(target=child, args=arguments)
        process.start()
        received, folded, peak = answers.get()
        process.join()
    finally:
        shutil.rmtree(folder)
    total = options.megabytes * options.collaborators
    print(f"received {total} MB in {received:.1f} s: {total / received:.0f} MB/s")
    print(f"folded   {total} MB in {folded:.1f} s: {total / folded:.0f} MB/s")
    print(f"peak resident size {peak / 1024:.0f} MB, {peak / 1024 / options.megabytes:.2f} of one model")


if __name__ == "__main__":
    main()
