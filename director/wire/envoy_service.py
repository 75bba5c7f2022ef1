"""EnvoyService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.domain.types import ExperimentId
from director.services.process import Process
from director.v1 import common_pb2, envoys_pb2, envoys_pb2_grpc
from director.wire import codec, views
from director.wire.downloads import parts
from director.wire.guard import Context, require_self


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
        period = await self._envoys.register(codec.shard(request.shard))
        return envoys_pb2.RegisterShardResponse(heartbeat_period=codec.duration(period))

    async def Heartbeat(self, request: envoys_pb2.HeartbeatRequest, context: Context) -> envoys_pb2.HeartbeatResponse:
        """Say that an envoy is alive."""
        require_self(context, request.envoy)
        given = await self._envoys.heartbeat(codec.heartbeat(request))
        return envoys_pb2.HeartbeatResponse(
            period=codec.duration(self._envoys.period), engagement=views.engagement(given)
        )

    async def WaitExperiment(
        self, request: envoys_pb2.WaitExperimentRequest, context: Context
    ) -> envoys_pb2.WaitExperimentResponse:
        """Wait for an experiment."""
        envoy = require_self(context, request.envoy)
        given = await self._envoys.wait_experiment(envoy)
        return envoys_pb2.WaitExperimentResponse(engagement=views.engagement(given))

    async def DownloadArchive(
        self, request: envoys_pb2.DownloadArchiveRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download the archive of an experiment."""
        envoy = require_self(context, request.envoy)
        archive = await self._envoys.archive(envoy, ExperimentId(request.experiment_id))
        async for part in parts(self._process.runtime, archive, first_index=request.first_index):
            yield part

    async def ReportFailure(
        self, request: envoys_pb2.ReportFailureRequest, context: Context
    ) -> envoys_pb2.ReportFailureResponse:
        """Say that an envoy cannot go on."""
        envoy = require_self(context, request.envoy)
        await self._envoys.report_failure(
            envoy, ExperimentId(request.experiment_id), attempt=request.attempt, error=request.error
        )
        return envoys_pb2.ReportFailureResponse()
