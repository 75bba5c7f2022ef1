"""ExperimentService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.errors import InvalidArgument
from director.services.process import Process
from director.services.runtime import Caller
from director.services.submissions import Wanted
from director.v1 import common_pb2, experiments_pb2_grpc
from director.v1 import experiments_pb2 as pb
from director.wire import codec
from director.wire.downloads import model_parts
from director.wire.guard import Context, caller_of, uid_of
from director.wire.pages import batches, write_page
from director.wire.request_chunks import chunks, wanted
from director.wire.submission_stream import next_submission


class ExperimentServicer(experiments_pb2_grpc.ExperimentServiceServicer):
    """What researchers and operators say about experiments."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._experiments = process.experiments
        self._streams = process.streams

    def _caller(self, context: Context) -> Caller:
        return self._process.caller(caller_of(context))

    async def SubmitExperiment(
        self, request_iterator: AsyncIterator[pb.SubmitExperimentRequest], context: Context
    ) -> AsyncIterator[pb.SubmitExperimentResponse]:
        """Submit an experiment."""
        caller, requests = self._caller(context), aiter(request_iterator)
        command = await next_submission(requests)
        bytes_sent = chunks(requests, chunk_of)
        async for step in self._process.submissions.submit(command, caller, lambda _wanted: bytes_sent):
            match step:
                case Wanted("archive", upload):
                    yield pb.SubmitExperimentResponse(archive_wanted=wanted(upload))
                case Wanted(_, upload):
                    yield pb.SubmitExperimentResponse(model_wanted=wanted(upload))
                case experiment:
                    yield pb.SubmitExperimentResponse(experiment=codec.write_experiment(experiment))

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.Experiment:
        """Read one experiment."""
        by_name = request.WhichOneof("experiment") == "experiment_name"
        which = request.experiment_name if by_name else uid_of(request.experiment_uid)
        return codec.write_experiment(await self._experiments.get(which, self._caller(context)))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        """List the caller's experiments."""
        page = await self._experiments.listed(
            self._caller(context), page_size=request.page_size, page_token=request.page_token
        )
        experiments, token = write_page(page, codec.write_experiment)
        return pb.ListExperimentsResponse(experiments=experiments, next_page_token=token)

    async def ListCollaborators(
        self, request: pb.ListCollaboratorsRequest, context: Context
    ) -> pb.ListCollaboratorsResponse:
        """List an experiment's collaborators."""
        page = await self._experiments.collaborators(
            uid_of(request.experiment_uid),
            self._caller(context),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        collaborators, token = write_page(page, codec.write_collaborator)
        return pb.ListCollaboratorsResponse(collaborators=collaborators, next_page_token=token)

    async def CancelExperiment(self, request: pb.CancelExperimentRequest, context: Context) -> pb.Experiment:
        """Cancel an experiment."""
        uid = uid_of(request.experiment_uid)
        found = await self._experiments.cancel(uid, self._caller(context), reason=request.reason)
        return codec.write_experiment(found)

    async def RemoveExperiment(
        self, request: pb.RemoveExperimentRequest, context: Context
    ) -> pb.RemoveExperimentResponse:
        """Remove an experiment."""
        await self._experiments.remove(uid_of(request.experiment_uid), self._caller(context))
        return pb.RemoveExperimentResponse()

    async def ReviewExperiment(self, request: pb.ReviewExperimentRequest, context: Context) -> pb.Experiment:
        """Approve or reject an experiment."""
        caller, uid = self._caller(context), uid_of(request.experiment_uid)
        if request.decision not in (request.APPROVE, request.REJECT):
            raise InvalidArgument("decide: approve or reject")
        approve = request.decision == request.APPROVE
        found = await self._experiments.review(uid, caller, approve=approve, reason=request.reason)
        return codec.write_experiment(found)

    async def StreamMetrics(
        self, request: pb.StreamMetricsRequest, context: Context
    ) -> AsyncIterator[pb.StreamMetricsResponse]:
        """Stream metrics from a cursor on."""
        caller, uid = self._caller(context), uid_of(request.experiment_uid)
        after = codec.read_cursor(request.after) if request.HasField("after") else None
        async for metrics in self._streams.metrics(uid, caller, after=after, follow=request.follow):
            for batch in batches(metrics, codec.write_metric):
                yield pb.StreamMetricsResponse(metrics=batch)

    async def StreamEvents(
        self, request: pb.StreamEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        """Stream events from a cursor on."""
        caller, uid = self._caller(context), uid_of(request.experiment_uid)
        after = codec.read_cursor(request.after) if request.HasField("after") else None
        async for events in self._streams.events(uid, caller, after=after, follow=request.follow):
            for batch in batches(events, codec.write_event):
                yield pb.StreamEventsResponse(events=batch)

    async def DownloadModel(
        self, request: pb.DownloadModelRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download a model."""
        caller, uid, which = self._caller(context), uid_of(request.experiment_uid), codec.read_model(request)
        experiment, model = await self._experiments.model(uid, caller, which)
        async for part in model_parts(
            self._process.runtime,
            model.blob,
            manifest=experiment.manifest,
            number=model.number,
            first_index=request.first_index,
            held=request.held_manifest_sha256,
        ):
            yield part


def chunk_of(message: pb.SubmitExperimentRequest) -> common_pb2.Chunk | None:
    """Return the chunk that a message holds."""
    return message.chunk if message.WhichOneof("part") == "chunk" else None
