"""An operator: retires envoys, restores them after a while, and restores what a repeated call retired again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from director.errors import NotFound
from director.services.runtime import Caller
from director.store.engine.topics import Topic
from director.store.envoy_lists import Filter
from tests.simulation.actors import LONG_AGO, Client, Surroundings
from tests.world import RESEARCHER, World

OPERATOR = Caller("operator", operator=True)
POLL = 30.0
REASON = "an operator retired this envoy"
"""What the experiments of a retired envoy tell."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """An envoy to retire: some time after the previous one, and once it has measured something in an experiment."""

    envoy: str
    after_seconds: float = 0.0
    measured_in: str | None = None
    for_seconds: float = 60.0


@dataclass(eq=False)
class Operator(Client):
    """One operator and what it means to do."""

    todo: list[Retirement]
    since: datetime | None = None
    retired: str | None = field(default=None, init=False)
    until: datetime = field(default=LONG_AGO, init=False)

    @property
    def done(self) -> bool:
        """Whether every envoy that it retired is restored."""
        return not self.todo and self.retired is None

    def hears(self) -> Iterable[Topic]:
        """It polls."""
        return ()

    async def act(self, around: Surroundings) -> float:
        """Restore or retire the next envoy."""
        self.since = self.since or around.now
        if self.retired is not None:
            if around.now < self.until:
                return (self.until - around.now).total_seconds()
            await self._restore(around, self.retired)
            self.retired, self.since = None, around.now
        elif self.todo:
            return await self._retire(around, self.todo[0], self.since)
        else:
            for envoy in await around.ask(retired):
                await self._restore(around, envoy)
        return POLL

    async def _retire(self, around: Surroundings, planned: Retirement, since: datetime) -> float:
        left = (since + timedelta(seconds=planned.after_seconds) - around.now).total_seconds()
        if left > 0:
            return min(left, POLL)
        name, envoy = planned.measured_in, planned.envoy
        try:
            if name is not None and not await around.ask(lambda world: has_measured(world, name, envoy)):
                return 1.0
            await around.ask(lambda world: world.process.federation.retire(envoy, OPERATOR))
        except NotFound:
            return 1.0  # neither the envoy nor the experiment is there yet
        self.retired, self.until = envoy, around.now + timedelta(seconds=planned.for_seconds)
        del self.todo[0]
        return planned.for_seconds

    async def _restore(self, around: Surroundings, envoy: str) -> None:
        await around.ask(lambda world: world.process.federation.restore(envoy, OPERATOR))


async def has_measured(world: World, experiment: str, envoy: str) -> bool:
    """Whether an envoy has a metric in an experiment."""
    streams = world.process.streams
    return any([row.origin == envoy async for rows in streams.metrics(experiment, RESEARCHER) for row in rows])


async def retired(world: World) -> Sequence[str]:
    """Return the envoys that are retired."""
    page = await world.process.federation.envoys(OPERATOR, Filter(show_retired=True))
    return [each.name for each in page.items if each.retired_at is not None]
