"""An envoy: it registers, sends heartbeats, waits, asks for tasks, hands in results, and repeats what got no answer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from director.domain.messages import Heartbeat
from director.domain.types import ExperimentId
from director.errors import NotFound, RoundClosed, StaleAttempt
from director.services.round_use_cases import Quit, Work
from director.store import contents
from director.store.engine.database import Hint
from director.store.envoys import Engagement
from tests.simulation import laboratory
from tests.simulation.actors import LONG_AGO, Client, Surroundings
from tests.world import World

PERIOD = timedelta(seconds=60)
POLL = 30.0
EXCUSE = "out of memory"


@dataclass(frozen=True, slots=True)
class Key:
    """What a contribution is known by, its envoy apart."""

    experiment: str
    round_number: int
    task: str


@dataclass(slots=True)
class Assignment:
    """Tasks that were given, and the model to start from."""

    experiment: str
    round_number: int
    base: bytes
    todo: list[str]


@dataclass(frozen=True, slots=True)
class Habits:
    """What an envoy does not do as it is asked."""

    late: frozenset[tuple[str, int]] = frozenset()
    """Experiments and rounds whose results it sends only in the next round."""
    refuses: frozenset[tuple[str, str]] = frozenset()
    """Experiments and tasks that it never does."""
    fails: frozenset[tuple[str, int]] = frozenset()
    """Experiments and rounds in which it says that it cannot go on."""


@dataclass(eq=False)
class Envoy(Client):
    """One envoy, and its ledger of what was acknowledged."""

    habits: Habits = field(default_factory=Habits)
    acknowledged: dict[Key, str | None] = field(default_factory=dict)
    too_late: set[Key] = field(default_factory=set)
    registered: bool = False
    next_beat: datetime = LONG_AGO
    given: Engagement | None = None
    work: Assignment | None = None
    postponed: Assignment | None = None

    @property
    def done(self) -> bool:
        """An envoy waits for ever; it rests while it has no experiment."""
        return self.given is None

    def hears(self) -> Iterable[Hint]:
        """Its own name, and the experiment that it is in."""
        yield "envoy", self.name
        if self.given is not None:
            yield "experiment", self.given.experiment_id

    async def act(self, around: Surroundings) -> float:
        """Make one call, the first that is due."""
        if not self.registered:
            await around.ask(lambda world: world.register(self.name))
            self.registered = True
        elif around.now >= self.next_beat:
            await self._beat(around)
        elif self.given is None:
            self.given = await around.ask(lambda world: world.process.envoys.wait_experiment(self.name, seconds=0))
            return 0.0 if self.given is not None else self._patience(around)
        elif self.work is None:
            return await self._ask_for_tasks(around, self.given)
        else:
            await self._contribute(around, self.given, self.work)
        return 0.0

    def _patience(self, around: Surroundings) -> float:
        return min(POLL, (self.next_beat - around.now).total_seconds())

    async def _beat(self, around: Surroundings) -> None:
        beat = Heartbeat(self.name, self.given is not None)
        told = await around.ask(lambda world: world.process.envoys.heartbeat(beat))
        self.next_beat = around.now + PERIOD
        if told is None or told != self.given:
            self._leave()  # the director's word counts; what it thinks given is offered again to who asks

    def crash(self) -> None:
        """Lose all but the ledger, and come back."""
        self._leave()
        self.registered = False
        self.woken = True

    def _leave(self) -> None:
        self.given = self.work = self.postponed = None

    async def _ask_for_tasks(self, around: Surroundings, given: Engagement) -> float:
        try:
            found = await around.ask(lambda world: ask_for_tasks(world, given, self.name))
        except (NotFound, StaleAttempt):
            found = Quit("not mine any more")
        if isinstance(found, Quit):
            self._leave()
            return 0.0
        if found is None:
            return self._patience(around)
        found.todo = [task for task in found.todo if (found.experiment, task) not in self.habits.refuses]
        late, self.postponed = self.postponed, None
        if (found.experiment, found.round_number) in self.habits.late:
            self.postponed = found
        elif late is not None:
            self.work = late
        elif found.todo:
            self.work = found
        return self._patience(around) if self.work is None else 0.0

    async def _contribute(self, around: Surroundings, given: Engagement, work: Assignment) -> None:
        key = Key(work.experiment, work.round_number, work.todo[0])
        done = laboratory.compute(key.experiment, key.round_number, self.name, key.task, work.base)
        try:
            if (key.experiment, key.round_number) in self.habits.fails:
                await around.ask(lambda world: give_up(world, given, self.name))
                self._leave()
                return
            stored = await around.ask(lambda world: hand_in(world, given, self.name, key, done))
        except RoundClosed:
            self.too_late.add(key)
            self.work = None
        except (NotFound, StaleAttempt):
            self._leave()
        else:
            self.acknowledged[key] = stored
            work.todo.remove(key.task)
            if not work.todo:
                self.work = None


async def ask_for_tasks(world: World, given: Engagement, envoy: str) -> Assignment | Quit | None:
    """Ask for tasks, and fetch the model to start from."""
    found = await world.process.rounds.get_tasks(ExperimentId(given.experiment_id), envoy, given.attempt, seconds=0)
    if isinstance(found, Quit):
        return found
    if not isinstance(found, Work):
        return None
    base = b"".join([data async for _number, data in contents.chunks(world.db, found.base.blob)])
    return Assignment(given.experiment_name, found.round_number, base, [task.name for task in found.tasks])


async def hand_in(world: World, given: Engagement, envoy: str, key: Key, done: laboratory.Result) -> str | None:
    """Hand in a result; return the digest that is held."""
    stored = await world.contribute(
        given,
        envoy,
        key.task,
        round_number=key.round_number,
        samples=done.samples,
        metrics=done.metrics,
        update=done.update,
    )
    return stored.digest


async def give_up(world: World, given: Engagement, envoy: str) -> None:
    """Say that an envoy cannot go on with an experiment."""
    await world.process.envoys.report_failure(
        envoy, ExperimentId(given.experiment_id), attempt=given.attempt, error=EXCUSE
    )
