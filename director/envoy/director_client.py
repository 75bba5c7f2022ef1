"""What an envoy says to the director, as typed calls: each goes on until some director answers it.

Each call has an end of its own, so that a director that hangs is one that does not answer. What the director answers
with an error is raised as that error, unless repeating the call may help.
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from director.domain.envoys import Shard
from director.domain.messages import Contribute
from director.envoy import transfers
from director.envoy.answers import Engagement, Pulse, Quit, Work
from director.envoy.connections import Connection, Stubs
from director.v1 import envoys_pb2, rounds_pb2
from director.wire import chunks

if TYPE_CHECKING:
    from grpc.aio import UnaryStreamCall

    from director.v1.common_pb2 import DownloadPart

CALL_SECONDS = 10.0
LONG_POLL_SECONDS = 35.0


class DirectorClient:
    """The calls of one envoy.

    Those that name an engagement raise NotFound when the envoy takes no part in the experiment, and StaleAttempt when
    the experiment was handed to it again since.
    """

    def __init__(self, connection: Connection, envoy: str) -> None:
        """Speak for an envoy."""
        self._connection = connection
        self._envoy = envoy

    async def register(self, shard: Shard) -> timedelta:
        """Register a shard; return how often to send heartbeats.

        Raises:
            ShardRejected, InvalidArgument: the shard will not do.
            Forbidden, Unauthenticated: the caller is not this envoy.
        """
        request = envoys_pb2.RegisterShardRequest(
            shard=envoys_pb2.Shard(
                envoy=shard.envoy,
                description=shard.description,
                samples=shard.samples,
                sample_shape=shard.sample_shape,
                target_shape=shard.target_shape,
            )
        )
        answer = await self._connection.repeat(lambda to: to.envoys.RegisterShard(request, timeout=CALL_SECONDS))
        return answer.heartbeat_period.ToTimedelta()

    async def heartbeat(self, *, is_experiment_running: bool) -> Pulse:
        """Say that the envoy is alive.

        Raises:
            EnvoyNotFound: register first.
        """
        request = envoys_pb2.HeartbeatRequest(envoy=self._envoy, is_experiment_running=is_experiment_running)
        answer = await self._connection.repeat(lambda to: to.envoys.Heartbeat(request, timeout=CALL_SECONDS))
        return Pulse(answer.period.ToTimedelta(), Engagement.of(answer))

    async def wait_experiment(self) -> Engagement | None:
        """Wait for an experiment, half a minute at most; None if there was none.

        Raises:
            EnvoyNotFound: register first.
        """
        request = envoys_pb2.WaitExperimentRequest(envoy=self._envoy)
        answer = await self._connection.repeat(lambda to: to.envoys.WaitExperiment(request, timeout=LONG_POLL_SECONDS))
        return Engagement.of(answer)

    async def download_archive(self, engagement: Engagement, target: Path) -> None:
        """Put an experiment's archive into a file.

        Raises:
            Corrupt: it arrived damaged, time after time.
        """

        def stream(to: Stubs, first: int) -> "UnaryStreamCall[Any, DownloadPart]":
            request = envoys_pb2.DownloadArchiveRequest(
                envoy=self._envoy, experiment_id=engagement.experiment_id, first_index=first
            )
            return to.envoys.DownloadArchive(request)

        await transfers.download(self._connection, stream, target)

    async def report_failure(self, engagement: Engagement, error: str) -> None:
        """Say that the envoy cannot go on in an experiment, and why."""
        request = envoys_pb2.ReportFailureRequest(
            envoy=self._envoy, experiment_id=engagement.experiment_id, attempt=engagement.attempt, error=error
        )
        await self._connection.repeat(lambda to: to.envoys.ReportFailure(request, timeout=CALL_SECONDS))

    async def get_tasks(self, engagement: Engagement) -> Work | Quit | None:
        """Wait for tasks, half a minute at most; None if there were none."""
        request = rounds_pb2.GetTasksRequest(
            envoy=self._envoy, experiment_id=engagement.experiment_id, attempt=engagement.attempt
        )
        answer = await self._connection.repeat(lambda to: to.rounds.GetTasks(request, timeout=LONG_POLL_SECONDS))
        match answer.WhichOneof("answer"):
            case "work":
                return Work.of(answer.work)
            case "quit":
                return Quit(answer.quit.reason)
            case _:
                return None

    async def download_model(self, engagement: Engagement, number: int, target: Path) -> str:
        """Put the payload of a model into a file; return its SHA-256 in hexadecimal.

        Raises:
            ModelNotFound: it is kept no longer.
            Corrupt: it arrived damaged, time after time.
        """

        def stream(to: Stubs, first: int) -> "UnaryStreamCall[Any, DownloadPart]":
            request = rounds_pb2.DownloadRoundModelRequest(
                envoy=self._envoy,
                experiment_id=engagement.experiment_id,
                attempt=engagement.attempt,
                number=number,
                first_index=first,
            )
            return to.rounds.DownloadModel(request)

        return await transfers.download(self._connection, stream, target)

    async def contribute(self, result: Contribute, update: Path | None) -> None:
        """Send the result of a task, and of a train task the update in a file; when this returns it is stored.

        Raises:
            RoundClosed: it came late.
            InvalidArgument, TensorMismatch: it is not a result of this task.
            Corrupt: it arrived damaged.
        """
        message = rounds_pb2.Contribution(
            experiment_id=result.experiment_id,
            envoy=result.envoy,
            attempt=result.attempt,
            round=result.round_number,
            task=result.task,
            samples=result.samples,
            metrics=result.metrics,
        )
        if result.update is not None and result.manifest is not None:
            digest = bytes.fromhex(result.update.digest)
            message.update.CopyFrom(chunks.blob_info(result.update.size_bytes, digest))
            message.manifest.CopyFrom(chunks.manifest_message(result.manifest))
        await transfers.contribute(self._connection, message, update)
