"""ExperimentService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.errors import InvalidArgument
from director.services.process import Process
from director.services.runtime import Caller
from director.services.submissions import Submitting
from director.v1 import common_pb2, experiments_pb2, experiments_pb2_grpc
from director.version import __version__
from director.wire import codec, request_chunks, views
from director.wire.downloads import parts
from director.wire.guard import Context, caller_of

Decision = experiments_pb2.ReviewRequest


class ExperimentServicer(experiments_pb2_grpc.ExperimentServiceServicer):
    """What researchers and operators say."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._submissions = process.submissions
        self._experiments = process.experiments
        self._streams = process.streams

    def _caller(self, context: Context) -> Caller:
        return self._process.caller(caller_of(context))

    async def Submit(
        self, request_iterator: AsyncIterator[experiments_pb2.SubmitRequest], context: Context
    ) -> AsyncIterator[experiments_pb2.SubmitResponse]:
        """Submit an experiment."""
        caller, requests = self._caller(context), aiter(request_iterator)
        message = await request_chunks.first(requests, "submission")
        if message.WhichOneof("part") != "submission":
            raise InvalidArgument("the first message of the stream is the submission")
        begun = await self._submissions.begin(codec.submission(message.submission), caller)
        if isinstance(begun, Submitting):
            chunks = request_chunks.chunks(requests, chunk_of)
            if (wanted := request_chunks.wanted(begun.archive)) is not None:
                yield experiments_pb2.SubmitResponse(archive_wanted=wanted)
            await self._submissions.receive_archive(begun, chunks)
            if (wanted := request_chunks.wanted(begun.model)) is not None:
                yield experiments_pb2.SubmitResponse(model_wanted=wanted)
            await self._submissions.receive_model(begun, chunks)
            begun = await self._submissions.accept(begun)
        yield experiments_pb2.SubmitResponse(experiment=views.experiment(begun))

    async def Get(self, request: experiments_pb2.GetExperimentRequest, context: Context) -> experiments_pb2.Experiment:
        """Read one experiment."""
        caller = self._caller(context)
        view = await self._experiments.get(request.name, caller)
        waiting_for = await self._process.explaining.why(request.name, caller)
        return views.experiment(view, waiting_for=waiting_for, plan=True)

    async def List(
        self, request: experiments_pb2.ListExperimentsRequest, context: Context
    ) -> experiments_pb2.ListExperimentsResponse:
        """List the caller's experiments."""
        found, token = await self._experiments.listed(
            self._caller(context), page_size=request.page_size, page_token=request.page_token
        )
        return experiments_pb2.ListExperimentsResponse(
            experiments=[views.experiment(each) for each in found], next_page_token=token
        )

    async def Cancel(
        self, request: experiments_pb2.CancelExperimentRequest, context: Context
    ) -> experiments_pb2.Experiment:
        """Cancel an experiment."""
        view = await self._experiments.cancel(request.name, self._caller(context), reason=request.reason)
        return views.experiment(view)

    async def Remove(
        self, request: experiments_pb2.RemoveExperimentRequest, context: Context
    ) -> experiments_pb2.RemoveExperimentResponse:
        """Remove an experiment."""
        await self._experiments.remove(request.name, self._caller(context))
        return experiments_pb2.RemoveExperimentResponse()

    async def Review(self, request: experiments_pb2.ReviewRequest, context: Context) -> experiments_pb2.Experiment:
        """Approve or reject an experiment."""
        caller = self._caller(context)
        if request.decision not in (Decision.DECISION_APPROVE, Decision.DECISION_REJECT):
            raise InvalidArgument("decide: approve or reject")
        approve = request.decision == Decision.DECISION_APPROVE
        view = await self._experiments.review(request.name, caller, approve=approve, reason=request.reason)
        return views.experiment(view)

    async def StreamMetrics(
        self, request: experiments_pb2.StreamMetricsRequest, context: Context
    ) -> AsyncIterator[experiments_pb2.Metric]:
        """Stream metrics from a cursor on."""
        stream = self._streams.metrics(
            request.name, self._caller(context), after=request.after_seq, epoch=request.epoch, follow=request.follow
        )
        async for metric, epoch in stream:
            if metric is not None:
                yield views.metric(metric, epoch)

    async def StreamEvents(
        self, request: experiments_pb2.StreamEventsRequest, context: Context
    ) -> AsyncIterator[experiments_pb2.Event]:
        """Stream events from a cursor on."""
        stream = self._streams.events(
            request.name, self._caller(context), after=request.after_seq, epoch=request.epoch, follow=request.follow
        )
        async for event, epoch in stream:
            if event is not None:
                yield views.event(event, epoch)

    async def DownloadModel(
        self, request: experiments_pb2.DownloadModelRequest, context: Context
    ) -> AsyncIterator[common_pb2.DownloadPart]:
        """Download a model."""
        caller, which = self._caller(context), codec.model_choice(request)
        experiment, model = await self._experiments.model(request.name, caller, which)
        async for part in parts(
            self._process.runtime,
            model.blob,
            first_index=request.first_index,
            manifest=experiment.manifest,
            number=model.number,
        ):
            yield part

    async def ListEnvoys(
        self, request: experiments_pb2.ListEnvoysRequest, context: Context
    ) -> experiments_pb2.ListEnvoysResponse:
        """List the envoys."""
        del request
        found = await self._process.envoys.listed(self._caller(context))
        return experiments_pb2.ListEnvoysResponse(envoys=[views.envoy(each) for each in found])

    async def GetFederation(
        self, request: experiments_pb2.GetFederationRequest, context: Context
    ) -> experiments_pb2.Federation:
        """Read what the federation expects."""
        del request
        caller_of(context)
        settings = self._process.runtime.settings
        return experiments_pb2.Federation(
            epoch=await self._process.epoch(),
            sample_shape=settings.sample_shape or (),
            target_shape=settings.target_shape or (),
            version=__version__,
        )


def chunk_of(message: experiments_pb2.SubmitRequest) -> common_pb2.Chunk | None:
    """Return the chunk that a message holds."""
    return message.chunk if message.WhichOneof("part") == "chunk" else None
