"""What an envoy says to the director, as typed calls. Each call is repeated until a director answers it.

Each call has a time limit, so that a director that hangs counts as one that does not answer. An error that the director
answers is raised, unless the same call may succeed later.
"""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from director.domain.commands import Contribute, Heartbeat
from director.domain.content import Content
from director.domain.envoy import Engagement, Pulse, Session, Shard
from director.domain.experiment import Failure
from director.domain.tensors import Manifest
from director.domain.work import Answer
from director.envoy import transfers
from director.envoy.connections import Connection, Stubs
from director.errors import Corrupt
from director.v1 import envoys_pb2, rounds_pb2
from director.version import __version__
from director.wire import codec
from director.wire.chunks import Download

if TYPE_CHECKING:
    from grpc.aio import UnaryStreamCall

    from director.v1.common_pb2 import DownloadPart

CALL_SECONDS = 10.0
LONG_POLL_SECONDS = 35.0
LEAVE_SECONDS = 2.0


class DirectorClient:
    """The calls of one envoy.

    Every call raises EnvoyRetired once an operator has retired the envoy. Calls that name a session raise StaleSession
    when it has ended. Calls that name an engagement raise NotFound when the envoy takes no part in the experiment, and
    StaleAttempt when the experiment was handed to it again.
    """

    def __init__(self, connection: Connection, envoy: str) -> None:
        """Speak for an envoy."""
        self._connection = connection
        self._envoy = envoy

    async def register(self, shard: Shard) -> Session:
        """Register a shard, or replace its description; return the session that begins.

        Raises:
            ShardRejected, InvalidArgument: the director does not accept the shard.
            Forbidden, Unauthenticated: the caller is not this envoy.
        """
        request = envoys_pb2.RegisterShardRequest(
            shard=codec.write_shard(shard), sdk_version=__version__, python_version=platform.python_version()
        )
        answer = await self._connection.repeat(lambda to: to.envoys.RegisterShard(request, timeout=CALL_SECONDS))
        return codec.read_session(answer)

    async def heartbeat(self, heartbeat: Heartbeat) -> Pulse:
        """Say that the envoy is alive.

        Raises:
            EnvoyNotFound: register first.
        """
        request = codec.write_heartbeat(heartbeat)
        answer = await self._connection.repeat(lambda to: to.envoys.Heartbeat(request, timeout=CALL_SECONDS))
        return codec.read_pulse(answer)

    async def leave(self, session: Session) -> None:
        """Say goodbye: one try of at most two seconds.

        Raises:
            DirectorError: no director heard it.
        """
        request = envoys_pb2.LeaveRequest(envoy=self._envoy, session_id=session.id)
        await self._connection.once(lambda to: to.envoys.Leave(request, timeout=LEAVE_SECONDS))

    async def wait_experiment(self, session: Session) -> Engagement | None:
        """Wait for an experiment, half a minute at most; return None if there was none.

        Raises:
            EnvoyNotFound: register first.
        """
        request = envoys_pb2.WaitExperimentRequest(envoy=self._envoy, session_id=session.id)
        answer = await self._connection.repeat(lambda to: to.envoys.WaitExperiment(request, timeout=LONG_POLL_SECONDS))
        return codec.read_engagement(answer)

    async def download_archive(self, engagement: Engagement, target: Path) -> None:
        """Download an experiment's archive into a file.

        Raises:
            Corrupt: it arrived damaged in three attempts.
        """

        def stream(to: Stubs, download: Download) -> "UnaryStreamCall[Any, DownloadPart]":
            request = envoys_pb2.DownloadArchiveRequest(
                envoy=self._envoy, experiment_uid=engagement.experiment_uid, first_index=download.next_index
            )
            return to.envoys.DownloadArchive(request)

        await transfers.download(self._connection, stream, target)

    async def report_failure(self, engagement: Engagement, failure: Failure) -> None:
        """Say that the envoy cannot go on in an experiment, and why."""
        request = envoys_pb2.ReportFailureRequest(
            envoy=self._envoy,
            experiment_uid=engagement.experiment_uid,
            attempt=engagement.attempt,
            failure=codec.write_failure(failure),
        )
        await self._connection.repeat(lambda to: to.envoys.ReportFailure(request, timeout=CALL_SECONDS))

    async def poll_tasks(self, engagement: Engagement) -> Answer:
        """Ask what to do; the director answers within half a minute."""
        request = rounds_pb2.PollTasksRequest(
            experiment_uid=engagement.experiment_uid, envoy=self._envoy, attempt=engagement.attempt
        )
        answer = await self._connection.repeat(lambda to: to.rounds.PollTasks(request, timeout=LONG_POLL_SECONDS))
        return codec.read_answer(answer)

    async def download_model(
        self, engagement: Engagement, number: int, target: Path, *, held: Manifest | None
    ) -> tuple[Content, Manifest]:
        """Download the payload of a model into a file; return which bytes they are, and the model's manifest.

        A manifest that is held already is not sent again.

        Raises:
            ModelNotFound: the director no longer keeps the model.
            Corrupt: it arrived damaged in three attempts, or without a manifest.
        """

        def stream(to: Stubs, download: Download) -> "UnaryStreamCall[Any, DownloadPart]":
            request = rounds_pb2.DownloadBaseModelRequest(
                envoy=self._envoy,
                experiment_uid=engagement.experiment_uid,
                attempt=engagement.attempt,
                number=number,
                first_index=download.next_index,
                held_manifest_sha256=download.held_manifest_sha256,
            )
            return to.rounds.DownloadBaseModel(request)

        done = await transfers.download(self._connection, stream, target, held)
        if done.header is None or done.manifest is None:
            raise Corrupt(f"model {number} arrived without a manifest")
        return codec.read_content(done.header.blob), done.manifest

    async def contribute(self, result: Contribute, update: Path | None) -> None:
        """Send the result of a task, and the update of a train task from a file; when this returns it is stored.

        Raises:
            RoundClosed: it came late.
            InvalidArgument, TensorMismatch: it is not a result of this task.
            Corrupt: it arrived damaged.
        """
        await transfers.contribute(self._connection, codec.write_contribution(result), update)
