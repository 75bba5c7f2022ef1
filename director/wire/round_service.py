"""RoundService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.errors import InvalidArgument
from director.services.process import Process
from director.store.contributions import Stored
from director.store.stash import Upload
from director.v1 import common_pb2, rounds_pb2, rounds_pb2_grpc
from director.wire import codec
from director.wire.downloads import model_parts
from director.wire.guard import Context, caller_of, require_self, uid_of
from director.wire.request_chunks import chunks, next_message, wanted


class RoundServicer(rounds_pb2_grpc.RoundServiceServicer):
    """What a collaborator says inside an experiment."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._rounds = process.rounds

    async def PollTasks(self, request: rounds_pb2.PollTasksRequest, context: Context) -> rounds_pb2.PollTasksResponse:
        """Ask what to do."""
        envoy = require_self(context, request.envoy)
        answer = await self._rounds.poll_tasks(uid_of(request.experiment_uid), envoy, request.attempt)
        return codec.write_answer(answer)

    async def DownloadBaseModel(
        self, request: rounds_pb2.DownloadBaseModelRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download a model."""
        envoy, uid = require_self(context, request.envoy), uid_of(request.experiment_uid)
        model, manifest = await self._rounds.model(uid, envoy, request.attempt, request.number)
        async for part in model_parts(
            self._process.runtime,
            model.blob,
            manifest=manifest,
            number=model.number,
            first_index=request.first_index,
            held=request.held_manifest_sha256,
        ):
            yield part

    async def SubmitContribution(
        self, request_iterator: AsyncIterator[rounds_pb2.SubmitContributionRequest], context: Context
    ) -> AsyncIterator[rounds_pb2.SubmitContributionResponse]:
        """Hand in the result of a task."""
        caller_of(context)  # a caller that says nothing is still asked who it is
        requests = aiter(request_iterator)
        message = await next_message(requests, "the contribution")
        if message.WhichOneof("part") != "contribution":
            raise InvalidArgument("the first message of the stream is the contribution")
        require_self(context, message.contribution.envoy)
        message.contribution.experiment_uid = uid_of(message.contribution.experiment_uid)
        command = codec.read_contribution(message.contribution)
        begun = await self._rounds.begin_contribution(command)
        if isinstance(begun, Upload):
            if begun.missing is not None:
                yield rounds_pb2.SubmitContributionResponse(wanted=wanted(begun))
            await self._rounds.receive_update(command, begun, chunks(requests, chunk_of))
        stored = begun if isinstance(begun, Stored) else await self._rounds.contribute(command)
        accepted = rounds_pb2.ContributionAccepted(sha256=bytes.fromhex(stored.digest or ""))
        yield rounds_pb2.SubmitContributionResponse(accepted=accepted)


def chunk_of(message: rounds_pb2.SubmitContributionRequest) -> common_pb2.Chunk | None:
    """Return the chunk that a message holds."""
    return message.chunk if message.WhichOneof("part") == "chunk" else None
