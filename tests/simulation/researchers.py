"""A researcher: submits until it is told so, reads the metrics with a cursor, cancels what it was meant to cancel."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from director.domain.types import ExperimentState
from director.errors import InvalidArgument, PreconditionFailed
from director.store.engine.database import Hint
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

    @property
    def archive(self) -> bytes:
        """The workspace."""
        return archive_of(self.plan)

    @property
    def weights(self) -> np.ndarray:
        """The initial model."""
        seed = hashlib.sha256(self.name.encode()).digest()
        return np.random.default_rng(list(seed)).standard_normal(self.elements).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number as it was read."""

    seq: int
    round_number: int
    origin: str
    task: str
    name: str
    value: float


@dataclass(slots=True)
class Stream:
    """What was read of an experiment's metrics, and the state that was seen with it."""

    submission: Submission
    experiment_id: int
    epoch: str = ""
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

    def hears(self) -> Iterable[Hint]:
        """It polls, but for what it means to cancel."""
        return [("experiment", stream.experiment_id) for stream in self.streams if stream.to_cancel]

    async def act(self, around: Surroundings) -> float:
        """Submit the next experiment, or read the streams on: where a hint came only the one that it is about."""
        if self.todo:
            submission = self.todo[0]
            try:
                experiment_id = await around.ask(lambda world: submit(world, submission))
            except InvalidArgument:
                return 1.0  # its envoys have not registered yet
            self.streams.append(Stream(submission, experiment_id, to_cancel=submission.cancelled_by is not None))
            del self.todo[0]
            return 0.0
        for stream in self.streams:
            if not stream.ended and (stream.to_cancel or not self.hinted):
                await self._follow(around, stream)
        return POLL

    async def _follow(self, around: Surroundings, stream: Stream) -> None:
        name, cursor = stream.submission.name, len(stream.read)
        state, rows, epoch = await around.ask(lambda world: read_on(world, name, cursor, stream.epoch))
        assert not stream.state.terminal or state is stream.state, "a terminal state stays"
        stream.read += rows
        stream.state, stream.epoch, stream.ended = state, epoch, state.terminal
        if stream.to_cancel and any(row.origin == stream.submission.cancelled_by for row in stream.read):
            await around.ask(lambda world: cancel(world, name))
            stream.to_cancel = False


async def submit(world: World, submission: Submission) -> int:
    """Submit an experiment; return its id."""
    view = await world.submit(
        submission.name,
        envoys=submission.envoys,
        archive=submission.archive,
        model={"weights": submission.weights},
        submission_id=f"id-of-{submission.name}",
    )
    return view.experiment.id


async def read_on(world: World, name: str, cursor: int, epoch: str) -> tuple[ExperimentState, list[Metric], str]:
    """Return an experiment's state, and the metrics behind a cursor read after it."""
    state = (await world.process.experiments.get(name, RESEARCHER)).experiment.state
    rows = []
    async for row, current in world.process.streams.metrics(name, RESEARCHER, after=cursor, epoch=epoch):
        epoch = current
        if row is not None:
            rows.append(Metric(row.seq, row.round_number, row.origin, row.task, row.name, row.value))
    return state, rows, epoch


async def cancel(world: World, name: str) -> None:
    """Cancel an experiment; one that has ended meanwhile stays as it is."""
    try:
        await world.process.experiments.cancel(name, RESEARCHER)
    except PreconditionFailed:
        return
