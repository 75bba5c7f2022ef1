"""A whole director on loopback, in a thread of its own, and envoys that do their rounds at once."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc
import numpy as np

from director.domain.tensors import Manifest, payload_pieces
from director.errors import Unavailable
from director.facade import Director
from director.settings import Settings
from director.v1 import envoys_pb2, envoys_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from director.wire.channels import sync_channel
from director.wire.chunks import Download
from director.wire.server import Server
from director.wire.statuses import from_rpc_error
from tests.wire.calls import blob_of, chunk_of

T = TypeVar("T")


class RunningDirector:
    """A director that can be stopped and started again, on the same database and port."""

    def __init__(self, database: Path, **settings: Any) -> None:
        """Prepare a director on a SQLite file."""
        chosen = {"poll": timedelta(milliseconds=200), "chunk_bytes": 16384, "operators": ("operator",)} | settings
        self._settings = Settings(database=f"sqlite:///{database}", **chosen)
        self._port = 0

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start, and return once calls are answered."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(20), "the director did not start"

    def stop(self) -> None:
        """Stop as on SIGTERM."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with Director(tls=False, settings=self._settings) as director:
            server = Server(director.process)
            self._port = await server.start("127.0.0.1", self._port, tls=None)
            running = asyncio.create_task(director.start_experiment_execution_loop())
            self._ready.set()
            await self._stopping.wait()
            await director.process.drain()
            await server.stop(1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Collaborator:
    """An envoy without a worker: it answers each task at once, with numbers that follow from the round."""

    def __init__(self, address: str, name: str) -> None:
        """Register."""
        self.name = name
        self._channel = sync_channel(address, None, name)
        self._envoys = envoys_pb2_grpc.EnvoyServiceStub(self._channel)
        self._rounds = rounds_pb2_grpc.RoundServiceStub(self._channel)
        self._manifest: Manifest | None = None
        shard = envoys_pb2.Shard(envoy=name, description=f"shard of {name}", samples=10)
        self._session = self._envoys.RegisterShard(envoys_pb2.RegisterShardRequest(shard=shard)).session_id

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def take_part(self, *, rounds: int = 1_000_000) -> None:
        """Wait for an experiment and do so many rounds of it, or all."""
        request = envoys_pb2.WaitExperimentRequest(envoy=self.name, session_id=self._session)
        while not (given := patiently(lambda: self._envoys.WaitExperiment(request))).HasField("engagement"):
            pass
        who = {
            "experiment_uid": given.engagement.experiment_uid,
            "envoy": self.name,
            "attempt": given.engagement.attempt,
        }
        done = 0
        while done < rounds:
            answer = patiently(lambda: self._rounds.PollTasks(rounds_pb2.PollTasksRequest(**who)))
            if answer.HasField("quit"):
                return
            for task in answer.work.tasks:
                patiently(partial(self._contribute, who, answer.work, task))
            done += answer.HasField("work")

    def _contribute(self, who: dict[str, Any], work: rounds_pb2.Work, task: rounds_pb2.Task) -> None:
        contribution = rounds_pb2.Contribution(
            **who, round=work.round, task=task.name, samples=10, metrics={"accuracy": work.round / 100}
        )
        data = b""
        if task.kind == rounds_pb2.Task.TRAIN:
            manifest = self._layout(who, work)
            shapes = manifest.arrays(bytes(work.model.size_bytes))
            update = {name: np.full_like(array, work.round) for name, array in shapes.items()}
            data = b"".join(payload_pieces(manifest, update))
            contribution.update.CopyFrom(blob_of(data))
            contribution.manifest_sha256 = manifest.content.sha256
        wanted: SimpleQueue[rounds_pb2.SubmitContributionResponse] = SimpleQueue()
        for answer in self._rounds.SubmitContribution(_messages(contribution, data, wanted)):
            wanted.put(answer)

    def _layout(self, who: dict[str, Any], work: rounds_pb2.Work) -> Manifest:
        """Return the manifest of the model to start from; download it unless it is held already."""
        download = Download(self._manifest)
        if download.held_manifest_sha256 != work.manifest_sha256:
            request = rounds_pb2.DownloadBaseModelRequest(**who, number=work.base_model)
            for part in self._rounds.DownloadBaseModel(request):
                download.take(part)
        assert download.manifest is not None
        self._manifest = download.manifest
        return download.manifest


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call while the director is away."""
    for _ in range(200):
        try:
            return call()
        except grpc.RpcError as error:
            if not isinstance(from_rpc_error(error), Unavailable):
                raise
            time.sleep(0.05)
    raise AssertionError("the director did not come back")


def _messages(
    contribution: rounds_pb2.Contribution, data: bytes, answers: "SimpleQueue[rounds_pb2.SubmitContributionResponse]"
) -> Iterator[rounds_pb2.SubmitContributionRequest]:
    yield rounds_pb2.SubmitContributionRequest(contribution=contribution)
    while (answer := answers.get()).HasField("wanted"):
        size = answer.wanted.chunk_bytes
        for index in range(answer.wanted.first_index, -(-len(data) // size)):
            yield rounds_pb2.SubmitContributionRequest(chunk=chunk_of(data, index, size))
