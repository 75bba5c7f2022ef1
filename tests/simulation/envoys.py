"""An envoy: it registers, sends heartbeats, waits, asks for tasks, hands in results, leaves and comes back.

It repeats what got no answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.types import ExperimentId
from director.domain.work import Quit, Work
from director.errors import EnvoyRetired, NotFound, RoundClosed, StaleAttempt, StaleSession
from director.store import contents
from director.store.engine.topics import Topic
from tests.simulation import laboratory
from tests.simulation.actors import LONG_AGO, Client, Surroundings
from tests.world import World

PERIOD = timedelta(seconds=60)
POLL = 30.0
EXCUSE = "out of memory"
AWAY = timedelta(seconds=5)
"""How long it stays away after a goodbye: less than a round's cutoff, and less than its grace."""


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
    leaves: frozenset[tuple[str, int]] = frozenset()
    """Experiments and rounds that it leaves in the middle of, once, to come back."""


@dataclass(eq=False)
class Envoy(Client):
    """One envoy, and its ledger of what was acknowledged."""

    habits: Habits = field(default_factory=Habits)
    acknowledged: dict[Key, str | None] = field(default_factory=dict)
    too_late: set[Key] = field(default_factory=set)
    session: str | None = None
    next_beat: datetime = LONG_AGO
    away_until: datetime = LONG_AGO
    left: set[tuple[str, int]] = field(default_factory=set)
    given: Engagement | None = None
    experiment_id: ExperimentId | None = None
    work: Assignment | None = None
    postponed: Assignment | None = None

    @property
    def done(self) -> bool:
        """An envoy waits for ever; it rests while it has no experiment."""
        return self.given is None

    def hears(self) -> Iterable[Topic]:
        """Its own name, and the experiment that it is in."""
        yield Topic.envoy(self.name)
        if self.experiment_id is not None:
            yield Topic.experiment(self.experiment_id)

    async def act(self, around: Surroundings) -> float:
        """Make one call, the first that is due."""
        try:
            return await self._act(around)
        except StaleSession:
            self.session = None  # its own registration, delivered once more, began another one
            return 0.0
        except EnvoyRetired:
            self._drop()
            self.session = None
            return POLL

    async def _act(self, around: Surroundings) -> float:
        if self.session is None:
            if around.now < self.away_until:
                return (self.away_until - around.now).total_seconds()
            [begun] = await around.ask(lambda world: world.register(self.name))
            self.session = begun.id
        elif around.now >= self.next_beat:
            await self._beat(around, self.session)
        elif self.given is None:
            return await self._wait(around, self.session)
        elif self.work is None:
            return await self._ask_for_tasks(around, self.given)
        else:
            await self._contribute(around, self.given, self.work, self.session)
        return 0.0

    async def _wait(self, around: Surroundings, session: str) -> float:
        found = await around.ask(lambda world: wait(world, self.name, session))
        if found is None:
            return self._patience(around)
        self.given, self.experiment_id = found
        return 0.0

    def _patience(self, around: Surroundings) -> float:
        return min(POLL, (self.next_beat - around.now).total_seconds())

    async def _beat(self, around: Surroundings, session: str) -> None:
        beat = Heartbeat(self.name, self.given is not None, session_id=session)
        told = (await around.ask(lambda world: world.process.envoys.heartbeat(beat))).engagement
        self.next_beat = around.now + PERIOD
        if told is None or told != self.given:
            self._drop()  # the director's word counts; what it thinks given is offered again to who asks

    def crash(self) -> None:
        """Lose all but the ledger, and come back."""
        self._drop()
        self.session = None
        self.woken = True

    def _drop(self) -> None:
        self.given = self.experiment_id = self.work = self.postponed = None

    async def _say_goodbye(self, around: Surroundings, session: str) -> None:
        await around.ask(lambda world: world.process.envoys.leave(self.name, session))
        self._drop()
        self.session, self.away_until = None, around.now + AWAY

    async def _ask_for_tasks(self, around: Surroundings, given: Engagement) -> float:
        try:
            found = await around.ask(lambda world: ask_for_tasks(world, given, self.name))
        except (NotFound, StaleAttempt):
            found = Quit("not mine any more")
        if isinstance(found, Quit):
            self._drop()
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

    async def _contribute(self, around: Surroundings, given: Engagement, work: Assignment, session: str) -> None:
        key = Key(work.experiment, work.round_number, work.todo[0])
        here = key.experiment, key.round_number
        if here in self.habits.leaves - self.left:
            await self._say_goodbye(around, session)
            self.left.add(here)
            return
        done = laboratory.compute(key.experiment, key.round_number, self.name, key.task, work.base)
        try:
            if here in self.habits.fails:
                await around.ask(lambda world: give_up(world, given, self.name))
                self._drop()
                return
            stored = await around.ask(lambda world: hand_in(world, given, self.name, key, done))
        except RoundClosed:
            self.too_late.add(key)
            self.work = None
        except (NotFound, StaleAttempt):
            self._drop()
        else:
            self.acknowledged[key] = stored
            work.todo.remove(key.task)
            if not work.todo:
                self.work = None


async def wait(world: World, envoy: str, session: str) -> tuple[Engagement, ExperimentId] | None:
    """Wait for an experiment; return it with the id that its topic has."""
    given = await world.process.envoys.wait_experiment(envoy, session_id=session, seconds=0)
    return None if given is None else (given, (await world.row(given.experiment_uid)).id)


async def ask_for_tasks(world: World, given: Engagement, envoy: str) -> Assignment | Quit | None:
    """Ask for tasks, and fetch the model to start from."""
    rounds, part = world.process.rounds, (given.experiment_uid, envoy, given.attempt)
    found = await rounds.poll_tasks(*part, seconds=0)
    if isinstance(found, Quit):
        return found
    if not isinstance(found, Work):
        return None
    model, _ = await rounds.model(*part, found.base_model)
    base = b"".join([data async for _number, data in contents.chunks(world.db, model.blob)])
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
        envoy, given.experiment_uid, attempt=given.attempt, failure=Failure(EXCUSE)
    )
