"""A researcher: submits until it is told so, reads the metrics with a cursor, cancels what it was meant to cancel."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from director.domain.commands import ModelReference
from director.domain.history import Cursor, Metric
from director.domain.types import ExperimentState, Tensors
from director.errors import InvalidArgument, PreconditionFailed
from director.store.engine.topics import Topic
from tests.simulation.actors import Client, Surroundings
from tests.world import RESEARCHER, World, archive_of

POLL = 40.0


@dataclass(frozen=True, slots=True)
class Submission:
    """An experiment to submit, under an id that stays the same however often it is sent."""

    name: str
    envoys: Sequence[str]
    plan: str
    elements: int = 8
    cancelled_by: str | None = None
    """The origin whose first metric has the researcher cancel it."""
    begins_as: str | None = None
    """The experiment, submitted before, whose initial model it takes instead of uploading one."""

    @property
    def archive(self) -> bytes:
        """The workspace."""
        return archive_of(self.plan)

    @property
    def weights(self) -> np.ndarray:
        """The initial model."""
        seed = hashlib.sha256((self.begins_as or self.name).encode()).digest()
        return np.random.default_rng(list(seed)).standard_normal(self.elements).astype(np.float32)


@dataclass(slots=True)
class Stream:
    """What was read of an experiment's metrics, and the state that was seen with it."""

    submission: Submission
    experiment_id: int
    uid: str
    read: list[Metric] = field(default_factory=list)
    state: ExperimentState = ExperimentState.PENDING
    to_cancel: bool = False
    ended: bool = False


@dataclass(eq=False)
class Researcher(Client):
    """One user and its ledger."""

    todo: list[Submission]
    streams: list[Stream] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all that it submitted has ended, and is read to the end."""
        return not self.todo and all(stream.ended for stream in self.streams)

    def hears(self) -> Iterable[Topic]:
        """It polls, but for what it means to cancel."""
        return [Topic.experiment(stream.experiment_id) for stream in self.streams if stream.to_cancel]

    async def act(self, around: Surroundings) -> float:
        """Submit the next experiment, or read the streams on: where its topic woke it, only the one it is about."""
        if self.todo:
            submission = self.todo[0]
            model = self._model(submission)
            try:
                experiment_id, uid = await around.ask(lambda world: submit(world, submission, model))
            except InvalidArgument:
                return 1.0  # its envoys have not registered yet
            self.streams.append(Stream(submission, experiment_id, uid, to_cancel=submission.cancelled_by is not None))
            del self.todo[0]
            return 0.0
        for stream in self.streams:
            if not stream.ended and (stream.to_cancel or not self.was_woken):
                await self._follow(around, stream)
        return POLL

    def _model(self, submission: Submission) -> Tensors | ModelReference:
        for stream in self.streams:
            if stream.submission.name == submission.begins_as:
                return ModelReference(stream.uid, 0)
        return {"weights": submission.weights}

    async def _follow(self, around: Surroundings, stream: Stream) -> None:
        uid, cursor = stream.uid, stream.read[-1].cursor if stream.read else None
        state, rows = await around.ask(lambda world: read_on(world, uid, cursor))
        assert not stream.state.terminal or state is stream.state, "a terminal state stays"
        stream.read += rows
        stream.state, stream.ended = state, state.terminal
        if stream.to_cancel and any(row.origin == stream.submission.cancelled_by for row in stream.read):
            await around.ask(lambda world: cancel(world, uid))
            stream.to_cancel = False


async def submit(world: World, submission: Submission, model: Tensors | ModelReference) -> tuple[int, str]:
    """Submit an experiment; return its id and its uid."""
    row = await world.submit(
        submission.name,
        envoys=submission.envoys,
        archive=submission.archive,
        model=model,
        submission_id=f"id-of-{submission.name}",
    )
    return row.id, row.uid


async def read_on(world: World, uid: str, cursor: Cursor | None) -> tuple[ExperimentState, list[Metric]]:
    """Return an experiment's state, and the metrics behind a cursor read after it."""
    state = (await world.process.experiments.get(uid, RESEARCHER)).state
    rows = [row async for rows in world.process.streams.metrics(uid, RESEARCHER, after=cursor) for row in rows]
    return state, rows


async def cancel(world: World, uid: str) -> None:
    """Cancel an experiment; one that has ended meanwhile stays as it is."""
    try:
        await world.process.experiments.cancel(uid, RESEARCHER)
    except PreconditionFailed:
        return
