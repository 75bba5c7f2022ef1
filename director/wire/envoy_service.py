"""EnvoyService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.services.process import Process
from director.v1 import common_pb2, envoys_pb2, envoys_pb2_grpc
from director.wire import codec
from director.wire.downloads import archive_parts
from director.wire.guard import Context, require_self, uid_of


class EnvoyServicer(envoys_pb2_grpc.EnvoyServiceServicer):
    """What an envoy says while it is not inside a round."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._envoys = process.envoys

    async def RegisterShard(
        self, request: envoys_pb2.RegisterShardRequest, context: Context
    ) -> envoys_pb2.RegisterShardResponse:
        """Register a shard."""
        require_self(context, request.shard.envoy)
        session = await self._envoys.register(
            codec.read_shard(request.shard), sdk_version=request.sdk_version, python_version=request.python_version
        )
        return codec.write_session(session)

    async def Heartbeat(self, request: envoys_pb2.HeartbeatRequest, context: Context) -> envoys_pb2.HeartbeatResponse:
        """Say that an envoy is alive."""
        require_self(context, request.envoy)
        return codec.write_pulse(await self._envoys.heartbeat(codec.read_heartbeat(request)))

    async def Leave(self, request: envoys_pb2.LeaveRequest, context: Context) -> envoys_pb2.LeaveResponse:
        """Say goodbye."""
        envoy = require_self(context, request.envoy)
        await self._envoys.leave(envoy, request.session_id)
        return envoys_pb2.LeaveResponse()

    async def WaitExperiment(
        self, request: envoys_pb2.WaitExperimentRequest, context: Context
    ) -> envoys_pb2.WaitExperimentResponse:
        """Wait for an experiment."""
        envoy = require_self(context, request.envoy)
        given = await self._envoys.wait_experiment(envoy, session_id=request.session_id)
        return envoys_pb2.WaitExperimentResponse(engagement=codec.write_engagement(given))

    async def DownloadArchive(
        self, request: envoys_pb2.DownloadArchiveRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download the archive of an experiment."""
        envoy = require_self(context, request.envoy)
        archive = await self._envoys.archive(envoy, uid_of(request.experiment_uid))
        async for part in archive_parts(self._process.runtime, archive, first_index=request.first_index):
            yield part

    async def ReportFailure(
        self, request: envoys_pb2.ReportFailureRequest, context: Context
    ) -> envoys_pb2.ReportFailureResponse:
        """Say that an envoy cannot go on."""
        envoy = require_self(context, request.envoy)
        await self._envoys.report_failure(
            envoy,
            uid_of(request.experiment_uid),
            attempt=request.attempt,
            failure=codec.read_failure(request.failure),
        )
        return envoys_pb2.ReportFailureResponse()
