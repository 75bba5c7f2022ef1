"""While nobody is up, nothing is decided: no deadline passes, nobody becomes absent, and work goes on afterwards."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from director.domain.commands import Heartbeat
from director.domain.envoy import Envoy
from director.domain.history import EventKind
from director.domain.types import ExperimentState
from director.effects import ManualClock, SeededEntropy
from director.errors import Unavailable
from director.services import checking
from director.services.supervision import SHORTEST_PAUSE, supervise
from director.store import clock as clocks
from director.store.engine.database import Database, Failpoints
from director.store.envoys import liveness
from director.store.leases import Fence
from tests.services.words import Collecting, collecting, complete, state_of
from tests.store.words import claim, enter, live, only_postgresql
from tests.tables import changes, event_rows, presence_rows, round_rows
from tests.world import PLAN, RESEARCHER, World, world

DAY = timedelta(days=1)
HOUR = 3600.0
PERIOD = 60.0
LEASE = timedelta(minutes=1)
WITHIN_AN_HOUR = "\nmin_collaborators: 1\nround_deadline: 1h\nenvoy_grace: 5m\nstart_deadline: 1h\n"


@pytest.fixture
async def timed(migrated_url: str, clock: ManualClock) -> AsyncIterator[World]:
    """A federation whose time stands still until the clock is moved; its ticks are long, so that hours pass quickly."""
    async with world(migrated_url, clock=clock, lease=LEASE) as opened:
        yield opened


async def heard(federation: World, *envoys: str) -> None:
    for envoy in envoys:
        await federation.process.envoys.heartbeat(Heartbeat(envoy, experiment_running=True))


async def look(federation: World) -> None:
    """Do once what is done all the time."""
    await federation.process.ticker.tick()
    await federation.admit()
    await federation.do_periodic_jobs()


async def envoys(federation: World) -> dict[str, Envoy]:
    return {each.name: each for each in (await federation.process.federation.envoys(RESEARCHER)).items}


async def absence(federation: World, envoy: str) -> float:
    """Return for how many service seconds an envoy was not heard of."""
    async with federation.db.read() as tx:
        found = await liveness(tx, [envoy], lease=LEASE)
        return found[envoy].absence(await clocks.now(tx))


async def service_seconds(db: Database) -> float:
    async with db.read() as tx:
        return (await clocks.now(tx)).now


@dataclass
class Night:
    """A federation before the outage: one experiment at work, one that waits for an envoy that has been gone."""

    clock: ManualClock
    url: str
    begun: Collecting


async def evening(federation: World, clock: ManualClock, url: str) -> Night:
    await federation.register("a", "b", "gone")
    await live(federation, clock, HOUR / 2)
    await heard(federation, "a", "b")
    await look(federation)
    begun = await collecting(federation, "at work", plan=PLAN + WITHIN_AN_HOUR)
    await complete(federation, begun, "a")
    await federation.submit("waiting", envoys=("gone",), plan=PLAN + WITHIN_AN_HOUR)
    await live(federation, clock, PERIOD)
    await look(federation)
    return Night(clock, url, begun)


@asynccontextmanager
async def morning(federation: World, night: Night, *, director: str) -> AsyncIterator[World]:
    """A day without a director, or without its database; then the same one goes on, or another one starts."""
    if director == "goes on":
        night.clock.advance(DAY)
        yield federation
        return
    await federation.process.close()
    night.clock.advance(DAY)
    async with world(night.url, clock=night.clock, seed=2, lease=LEASE) as another:
        yield another


async def adopted(federation: World) -> Fence:
    """Have another director take the experiment that is at work."""
    await changes.give_to(federation.db, None)
    await enter(federation.db, "heir")
    [fence], _ = await claim(federation.db, "heir")
    return fence


@pytest.mark.parametrize("director", ["goes on", "is another"])
async def test_day_without_a_director_decides_nothing(
    timed: World, clock: ManualClock, migrated_url: str, director: str
) -> None:
    night = await evening(timed, clock, migrated_url)
    before = await service_seconds(timed.db)
    async with morning(timed, night, director=director) as federation:
        await look(federation)
        fence = await adopted(federation)

        pause = await federation.drive(fence)

        tick = federation.process.runtime.settings.tick.total_seconds()
        passed = await service_seconds(federation.db) - before
        assert passed <= 2 * tick
        assert pause == pytest.approx(5 * PERIOD, abs=tick), "b was there before, and is given its whole grace again"
        assert await state_of(federation, "at work") is ExperimentState.IN_PROGRESS
        assert await round_rows.assignment_states(federation.db, night.begun.id) == ["asked", "asked"]
        assert await state_of(federation, "waiting") is ExperimentState.PENDING
        seen = await envoys(federation)
        assert [seen[name].online for name in ("a", "b", "gone")] == [True, True, False]
        assert await absence(federation, "gone") == pytest.approx(HOUR / 2 + PERIOD, abs=2 * tick)
        assert await event_rows.actors(federation.db, EventKind.ENVOY_OFFLINE) == ["gone"]
        assert await presence_rows.envoys_with_open_sessions(federation.db) == ["a", "b"]
        assert [finding async for finding in checking.findings(federation.db)] == []


@pytest.mark.parametrize("director", ["goes on", "is another"])
async def test_after_a_day_without_a_director_time_counts_again(
    timed: World, clock: ManualClock, migrated_url: str, director: str
) -> None:
    night = await evening(timed, clock, migrated_url)
    async with morning(timed, night, director=director) as federation:
        await look(federation)
        await heard(federation, "a")
        await live(federation, clock, HOUR)
        await heard(federation, "a")
        await look(federation)
        fence = await adopted(federation)

        await federation.drive(fence)

        assert await round_rows.assignments(federation.db, 1) == [
            ("a", "counted"),
            ("b", "missed"),
        ]
        assert await state_of(federation, "waiting") is ExperimentState.FAILED
        assert await event_rows.actors(federation.db, EventKind.ENVOY_OFFLINE) == ["gone", "b"]


async def test_envoy_that_answers_after_the_outage_is_still_waited_for(timed: World, clock: ManualClock) -> None:
    night = await evening(timed, clock, "")
    clock.advance(DAY)
    await look(timed)
    await live(timed, clock, 2 * PERIOD - 10)
    await heard(timed, "b")
    await look(timed)
    await complete(timed, night.begun, "b")

    await timed.drive(night.begun.fence)

    assert await round_rows.assignments(timed.db, 1) == [("a", "counted"), ("b", "counted")]
    assert await event_rows.actors(timed.db, EventKind.ENVOY_OFFLINE) == ["gone"]


@pytest.mark.parametrize("seed", range(3))
async def test_clock_that_jumps_back_and_forth_decides_nothing(timed: World, clock: ManualClock, seed: int) -> None:
    chance, tick = random.Random(seed), timed.process.runtime.settings.tick.total_seconds()
    night = await evening(timed, clock, "")
    before, lived = await service_seconds(timed.db), 0.0

    for _ in range(25):
        clock.advance(timedelta(seconds=chance.choice((-1, 1)) * 10 ** chance.uniform(-1, 7)))
        earlier = await service_seconds(timed.db)
        await heard(timed, "a", "b")
        await look(timed)
        await timed.drive(night.begun.fence)
        assert 0 <= await service_seconds(timed.db) - earlier <= 2 * tick
        seconds = chance.uniform(0, 2 * tick)
        await live(timed, clock, seconds)
        lived += seconds

    assert await service_seconds(timed.db) - before <= lived + 25 * 2 * tick
    assert await round_rows.assignment_states(timed.db, night.begun.id) == ["asked", "asked"]
    assert await state_of(timed, "waiting") is ExperimentState.PENDING
    assert await event_rows.actors(timed.db, EventKind.ENVOY_OFFLINE) == ["gone"]
    assert await presence_rows.envoys_with_open_sessions(timed.db) == ["a", "b"]
    assert [finding async for finding in checking.findings(timed.db)] == []


class Away(Failpoints):
    """A database that is away, and counts how often it is asked."""

    asked = 0

    def enter(self, name: str) -> None:
        self.asked += 1
        raise Unavailable(f"no database for {name}")


@only_postgresql
async def test_director_whose_database_is_away_asks_for_it_only_now_and_then(migrated_url: str) -> None:
    lease, seconds = timedelta(seconds=1), 0.5
    async with world(migrated_url, lease=lease) as federation:
        federation.db.failpoints = away = Away()
        with contextlib.suppress(TimeoutError):
            presence = supervise("presence", federation.process.presence.run, SeededEntropy(1))
            await asyncio.wait_for(presence, seconds)
        federation.db.failpoints = Failpoints()

    assert 1 < away.asked <= 1 + 2 * seconds / SHORTEST_PAUSE
