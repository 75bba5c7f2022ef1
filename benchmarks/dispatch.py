"""How long from a submission to the first envoy that is told, and from a round's last result to the next round's tasks?

Everything goes over gRPC on loopback, with the director in this process. Each figure stands beside the median of an
empty call in the same run, since these are what a user would wait for anyway.

    python -m benchmarks.dispatch [--experiments N]
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from director.domain.commands import Contribute, ModelUpload, SubmitExperiment
from director.domain.envoy import Engagement, Session, Shard
from director.domain.tensors import Manifest
from director.domain.work import Idle, Quit, Work
from director.facade import Director
from director.settings import Settings
from director.store.engine import schema
from director.v1 import (
    envoys_pb2,
    envoys_pb2_grpc,
    experiments_pb2,
    experiments_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
)
from director.v1.common_pb2 import Chunk
from director.wire import codec
from director.wire.channels import aio_channel
from director.wire.chunks import manifest_chunks
from director.wire.server import Server
from tests.postgres import PostgresServer, parent
from tests.world import archive_of, content_of, payload_of

PLAN = 'rounds: 2\ntasks:\n  - {name: train, kind: train, function: "work:train"}\n'
MODEL = {"weights": np.zeros(1000, np.float32)}
ENVOY = "envoy"


class Client:
    """One user and one envoy, over gRPC."""

    def __init__(self, port: int) -> None:
        """Open a channel for each."""
        self.envoy_channel = aio_channel(f"127.0.0.1:{port}", None, ENVOY)
        self.user_channel = aio_channel(f"127.0.0.1:{port}", None, "user")
        self.envoys = envoys_pb2_grpc.EnvoyServiceStub(self.envoy_channel)
        self.rounds = rounds_pb2_grpc.RoundServiceStub(self.envoy_channel)
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(self.user_channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.user_channel)

    async def close(self) -> None:
        """Close both."""
        await self.envoy_channel.close()
        await self.user_channel.close()

    async def submit(self, name: str) -> None:
        """Submit a small experiment."""
        archive, payload, manifest = archive_of(PLAN), payload_of(MODEL), Manifest.of(MODEL)
        upload = ModelUpload(content_of(payload), manifest)
        command = SubmitExperiment(f"submission-{name}", name, [ENVOY], content_of(archive), upload)
        call = self.experiments.SubmitExperiment()
        await call.write(experiments_pb2.SubmitExperimentRequest(submission=codec.write_submission(command)))
        await call.write(experiments_pb2.SubmitExperimentRequest(collaborators=experiments_pb2.Names(names=[ENVOY])))
        for piece in manifest_chunks(manifest):
            await call.write(experiments_pb2.SubmitExperimentRequest(manifest_chunk=piece))
        while True:
            answer: Any = await call.read()
            match answer.WhichOneof("part"):
                case "archive_wanted":
                    await call.write(experiments_pb2.SubmitExperimentRequest(chunk=Chunk(data=archive)))
                case "model_wanted":
                    await call.write(experiments_pb2.SubmitExperimentRequest(chunk=Chunk(data=payload)))
                case _:
                    await call.done_writing()
                    return

    async def register(self) -> Session:
        """Register the envoy's shard."""
        shard = codec.write_shard(Shard(ENVOY, "", 1, (), ()))
        return codec.read_session(await self.envoys.RegisterShard(envoys_pb2.RegisterShardRequest(shard=shard)))

    async def wait(self, session: Session) -> tuple[float, Engagement]:
        """Wait for an experiment; return when it came."""
        request = envoys_pb2.WaitExperimentRequest(envoy=ENVOY, session_id=session.id)
        while True:
            given = codec.read_engagement(await self.envoys.WaitExperiment(request))
            if given is not None:
                return time.perf_counter(), given

    async def tasks(self, given: Engagement) -> Work | Quit:
        """Ask for tasks until there are some, or none will come."""
        request = rounds_pb2.PollTasksRequest(experiment_uid=given.experiment_uid, envoy=ENVOY, attempt=given.attempt)
        while True:
            answer = codec.read_answer(await self.rounds.PollTasks(request))
            if not isinstance(answer, Idle):
                return answer

    async def contribute(self, given: Engagement, work: Work | Quit) -> None:
        """Hand in an update."""
        assert isinstance(work, Work), work
        payload = payload_of(MODEL)
        result = Contribute(
            experiment_uid=given.experiment_uid,
            envoy=ENVOY,
            attempt=given.attempt,
            round_number=work.round_number,
            task="train",
            samples=1,
            update=content_of(payload),
            manifest_digest=work.manifest_digest,
        )
        call = self.rounds.SubmitContribution()
        await call.write(rounds_pb2.SubmitContributionRequest(contribution=codec.write_contribution(result)))
        await call.read()
        await call.write(rounds_pb2.SubmitContributionRequest(chunk=Chunk(data=payload)))
        await call.read()
        await call.done_writing()


async def measure(url: str, experiments: int) -> dict[str, list[float]]:
    """Run experiments one after the other."""
    figures: dict[str, list[float]] = {"empty call": [], "submit to told": [], "last result to next tasks": []}
    async with Director(settings=Settings(database=url), tls=False) as director:
        server = Server(director.process)
        port = await server.start("127.0.0.1", 0, tls=None)
        loop = asyncio.create_task(director.start_experiment_execution_loop())
        client = Client(port)
        session = await client.register()
        for number in range(experiments):
            waiting = asyncio.create_task(client.wait(session))
            await asyncio.sleep(0.02)
            began = time.perf_counter()
            await client.health.Check(health_pb2.HealthCheckRequest())
            figures["empty call"].append(time.perf_counter() - began)
            began = time.perf_counter()
            await client.submit(f"experiment-{number}")
            told, given = await waiting
            figures["submit to told"].append(told - began)
            await client.contribute(given, await client.tasks(given))
            began = time.perf_counter()
            work = await client.tasks(given)
            figures["last result to next tasks"].append(time.perf_counter() - began)
            await client.contribute(given, work)
            await client.tasks(given)
        await client.close()
        await server.stop(0)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    return figures


def show(engine: str, figures: dict[str, list[float]]) -> None:
    """Print medians, spreads, and how many empty calls each is worth."""
    empty = statistics.median(figures["empty call"])
    for what, seconds in figures.items():
        low, median, high = quantiles(seconds)
        print(
            f"{engine:<11} {what:<26} p50 {1000 * median:7.2f} ms   p10 {1000 * low:7.2f}   p90 {1000 * high:7.2f}   "
            f"{median / empty:6.1f} empty calls"
        )


def quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10 %, 50 % and 90 % points."""
    ordered = sorted(seconds)
    low, median, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.1, 0.5, 0.9))
    return low, median, high


def main() -> None:
    """Measure on both engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=50)
    experiments = parser.parse_args().experiments
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent()))
    show("sqlite", asyncio.run(measure(f"sqlite:///{folder / 'director.db'}", experiments)))
    shutil.rmtree(folder)
    server = PostgresServer()
    try:
        server.start()
        url = asyncio.run(server.create_database("dispatch"))
        schema.upgrade(url)
        show("postgresql", asyncio.run(measure(url, experiments)))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
