"""RoundService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.domain.types import ExperimentId
from director.errors import InvalidArgument
from director.services.process import Process
from director.store.contributions import Stored
from director.store.stash import Upload
from director.v1 import common_pb2, rounds_pb2, rounds_pb2_grpc
from director.wire import codec, request_chunks, views
from director.wire.downloads import parts
from director.wire.guard import Context, caller_of, require_self


class RoundServicer(rounds_pb2_grpc.RoundServiceServicer):
    """What a collaborator says inside an experiment."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._rounds = process.rounds

    async def GetTasks(self, request: rounds_pb2.GetTasksRequest, context: Context) -> rounds_pb2.GetTasksResponse:
        """Ask what to do."""
        envoy = require_self(context, request.envoy)
        answer = await self._rounds.get_tasks(ExperimentId(request.experiment_id), envoy, request.attempt)
        return views.tasks(answer)

    async def DownloadModel(
        self, request: rounds_pb2.DownloadRoundModelRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download a model."""
        envoy = require_self(context, request.envoy)
        experiment_id = ExperimentId(request.experiment_id)
        model, manifest = await self._rounds.model(experiment_id, envoy, request.attempt, request.number)
        runtime = self._process.runtime
        async for part in parts(
            runtime, model.blob, first_index=request.first_index, manifest=manifest, number=model.number
        ):
            yield part

    async def SubmitContribution(
        self, request_iterator: AsyncIterator[rounds_pb2.SubmitContributionRequest], context: Context
    ) -> AsyncIterator[rounds_pb2.SubmitContributionResponse]:
        """Hand in the result of a task."""
        caller_of(context)  # nobody may stay nobody by saying nothing
        requests = aiter(request_iterator)
        message = await request_chunks.first(requests, "contribution")
        if message.WhichOneof("part") != "contribution":
            raise InvalidArgument("the first message of the stream is the contribution")
        require_self(context, message.contribution.envoy)
        command = codec.contribution(message.contribution)
        begun = await self._rounds.begin_contribution(command)
        if isinstance(begun, Upload):
            if (wanted := request_chunks.wanted(begun)) is not None:
                yield rounds_pb2.SubmitContributionResponse(wanted=wanted)
            await self._rounds.receive_update(command, begun, request_chunks.chunks(requests, chunk_of))
        stored = begun if isinstance(begun, Stored) else await self._rounds.contribute(command)
        accepted = rounds_pb2.ContributionAccepted(sha256=bytes.fromhex(stored.digest or ""))
        yield rounds_pb2.SubmitContributionResponse(accepted=accepted)


def chunk_of(message: rounds_pb2.SubmitContributionRequest) -> common_pb2.Chunk | None:
    """Return the chunk that a message holds."""
    return message.chunk if message.WhichOneof("part") == "chunk" else None
