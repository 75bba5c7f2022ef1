"""Replicas, users and envoys at one experiment at the same moment: one of them comes first (PostgreSQL)."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from time import monotonic
from typing import Any

import asyncpg
import numpy as np
import pytest

from director.domain.envoy import Engagement
from director.domain.history import ENDINGS, EventKind
from director.domain.types import ExperimentId, ExperimentState
from director.errors import (
    ExperimentNotFound,
    LeaseLost,
    NotFound,
    PreconditionFailed,
    RoundClosed,
    StaleAttempt,
    Unavailable,
)
from director.services import checking
from director.services.wakeups import Wakeups
from director.store import leases
from director.store.engine.notifications import Notifications
from director.store.leases import Fence
from tests.postgres import PostgresServer
from tests.services.busy import Busy
from tests.services.replicas import Deadlocks, replicas, running
from tests.services.words import fail, history
from tests.store.words import only_postgresql, waits
from tests.tables import changes, experiment_rows, result_rows, round_rows
from tests.world import MODEL, RESEARCHER, World

pytestmark = only_postgresql

TRIALS = 12
TRAIN_ONLY = 'tasks:\n  - {name: train, kind: train, function: "work:train"}\n'
UPDATE = {"weights": np.ones(8, np.float32)}
AFTERWARDS = {EventKind.EXPERIMENT_REMOVED, EventKind.CONTRIBUTION_LATE}
"""What may still happen to an experiment that has ended."""
HARMLESS = LeaseLost, NotFound, ExperimentNotFound, PreconditionFailed, RoundClosed, StaleAttempt, Unavailable
"""What a latecomer may be told."""
STARVING = 2.5
"""Units: seconds. A stream of sharers kept the owner waiting for longer, one that queues does not."""


@pytest.fixture
def chance() -> random.Random:
    """Chance that can be had again: set DIRECTOR_SEED to what a failing test printed."""
    seed = int(os.environ.get("DIRECTOR_SEED", random.randrange(1 << 32)))
    print(f"DIRECTOR_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
async def three(migrated_url: str) -> AsyncIterator[list[World]]:
    """Three directors that do nothing by themselves, and six envoys."""
    async with replicas(migrated_url, 3, lease=timedelta(hours=1)) as directors:
        await directors[0].register("a", "b", "c", "d", "e", "f")
        yield directors


@pytest.fixture
def deadlocks(postgres: PostgresServer) -> Deadlocks:
    """The deadlocks of this test."""
    return Deadlocks(postgres)


@dataclass
class Race:
    """An experiment at the moment when everybody comes at once."""

    directors: list[World]
    name: str
    fence: Fence
    given: Mapping[str, Engagement]

    @property
    def id(self) -> ExperimentId:
        return ExperimentId(self.fence.experiment_id)

    async def drive(self) -> None:
        await self.directors[0].drive(self.fence)

    async def give_up(self) -> None:
        await self.directors[0].steps(self.fence).give_up("nothing worked")

    async def adopt(self) -> None:
        """Take the experiment from its owner, who does not know, and go on with it."""
        await changes.give_experiment_to(self.directors[1].db, self.id, None)
        for fence in await self.directors[1].claim():
            await self.directors[1].drive(fence)

    async def cancel(self) -> None:
        await self.directors[1].process.experiments.cancel(self.name, RESEARCHER)

    async def remove(self) -> None:
        await self.directors[2].process.experiments.remove(self.name, RESEARCHER)

    async def fail(self) -> None:
        await fail(self.directors[2], "b", self.given["b"].experiment_uid)

    async def contribute(self) -> None:
        await self.directors[2].contribute(self.given["b"], "b", "train", round_number=1, update=UPDATE)


async def begin(directors: list[World], name: str, chance: random.Random) -> Race:
    """Bring an experiment of a and b to some moment of its first round."""
    first = directors[0]
    policy = f"rounds: {chance.choice((1, 2))}\nmin_collaborators: {chance.choice((1, 2))}\n"
    await first.submit(name, plan=TRAIN_ONLY + policy)
    await first.admit()
    [fence] = await first.claim()
    await first.drive(fence)
    race = Race(directors, name, fence, {envoy: await first.wait(envoy) for envoy in ("a", "b")})
    await first.contribute(race.given["a"], "a", "train", round_number=1, update=UPDATE)
    match chance.choice(("collecting", "complete", "aggregating")):
        case "complete":
            await race.contribute()
        case "aggregating":
            await race.contribute()
            await first.steps(fence).next()
    return race


async def soon(action: Callable[[], Awaitable[None]], delay: float) -> None:
    await asyncio.sleep(delay)
    with suppress(*HARMLESS):
        await action()


async def outcome(race: Race) -> tuple[str, list[Any], list[Any]]:
    """What is left of an experiment: its state, its models and its history."""
    db = race.directors[0].db
    state = await experiment_rows.state(db, race.id)
    models = await result_rows.model_digests(db, race.id)
    return state, models, [each.kind for each in await history(race.directors[0], race.id)]


@pytest.mark.parametrize("trials", [TRIALS, pytest.param(500, marks=[pytest.mark.campaign, pytest.mark.timeout(3000)])])
async def test_experiment_ends_once_and_no_model_appears_after_it(
    three: list[World], chance: random.Random, deadlocks: Deadlocks, trials: int
) -> None:
    endings: Counter[str] = Counter()
    for number in range(trials):
        race = await begin(three, f"experiment-{number}", chance)
        others = [race.give_up, race.adopt, race.cancel, race.cancel, race.remove, race.fail, race.contribute]
        actions = [race.drive, *chance.sample(others, chance.randint(1, 4))]

        await asyncio.gather(*(soon(action, chance.random() / 50) for action in actions))
        with suppress(*HARMLESS):
            await race.cancel()

        state, models, happened = await outcome(race)
        for action in (race.drive, race.give_up, race.cancel, race.fail, race.contribute):
            await soon(action, 0)
        assert (await outcome(race))[:2] == (state, models)
        [ending] = [kind for kind in happened if kind in ENDINGS.values()]
        assert ending == ENDINGS[ExperimentState(state)]
        assert set(happened[happened.index(ending) + 1 :]) <= AFTERWARDS
        assert len(models) == 1 + happened.count(EventKind.ROUND_CLOSED)
        assert await round_rows.engaged(three[0].db) == []
        endings[state] += 1
    assert [finding async for finding in checking.findings(three[0].db)] == []
    assert not str(deadlocks)
    if trials > TRIALS:
        assert {"finished", "failed", "cancelled"} <= set(endings), "it depends on who comes first"


async def test_envoy_never_serves_two_however_many_admit_at_once(
    three: list[World], chance: random.Random, deadlocks: Deadlocks
) -> None:
    names = [f"experiment-{number}" for number in range(15)]
    for name in names:
        await three[0].submit(name, envoys=chance.sample("abcdef", chance.randint(1, 3)))
    done = asyncio.Event()

    async def admit(director: World) -> None:
        while not done.is_set():
            await director.admit()
            await asyncio.sleep(0.005)

    async def serve(director: World, envoy: str) -> None:
        while not done.is_set():
            await director.process.envoys.wait_experiment(envoy, seconds=0.05)

    async def end(director: World, name: str) -> None:
        db = director.db
        while await experiment_rows.state(db, name) == "pending":
            serving = await round_rows.engaged(db)
            assert len(serving) == len(set(serving))
            await asyncio.sleep(0.01)
        await director.process.experiments.cancel(name, RESEARCHER)

    busy = [asyncio.create_task(admit(director)) for director in three]
    busy += [asyncio.create_task(serve(chance.choice(three), envoy)) for envoy in "aabbccddeeff"]
    async with asyncio.timeout(60):
        await asyncio.gather(*(end(chance.choice(three), name) for name in names))
    done.set()
    await asyncio.gather(*busy)

    assert len(await experiment_rows.started(three[0].db)) == len(names)
    assert [finding async for finding in checking.findings(three[0].db)] == []
    assert not str(deadlocks)


async def test_stream_of_contributors_does_not_starve_the_owner(three: list[World]) -> None:
    owner, busy, _ = three
    await owner.submit()
    await owner.admit()
    [fence] = await owner.claim()
    await owner.drive(fence)
    given = await owner.wait("a")
    await owner.contribute(given, "a", "validate", round_number=1)
    done = asyncio.Event()
    sent: Counter[int] = Counter()

    async def repeat(number: int) -> None:
        while not done.is_set():
            await busy.contribute(given, "a", "validate", round_number=1)
            sent[number] += 1

    senders = [asyncio.create_task(repeat(number)) for number in range(16)]
    waited = []
    for _ in range(20):
        await asyncio.sleep(0.02)
        start = monotonic()
        async with owner.db.write("hold") as tx:
            await leases.hold(tx, fence, [ExperimentState.IN_PROGRESS])
        waited.append(monotonic() - start)
    done.set()
    await asyncio.gather(*senders)

    assert max(waited) < STARVING
    assert len(sent) == 16


@pytest.fixture
async def two_at_work(migrated_url: str) -> AsyncIterator[list[World]]:
    """Two directors, which look at everything only once in ten minutes unless something wakes them; two envoys."""
    async with replicas(migrated_url, 2, poll=timedelta(minutes=10)) as directors:
        await directors[0].register("a", "b")
        async with running(*directors):
            yield directors


async def listeners(url: str) -> list[int]:
    """The server's processes that listen for a director."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN%'"
        return [row["pid"] for row in await connection.fetch(f"{query} AND pid <> pg_backend_pid()")]
    finally:
        await connection.close()


async def test_director_that_lost_its_listener_looks_at_everything_once_it_is_back(
    two_at_work: list[World], migrated_url: str
) -> None:
    one, two = two_at_work
    async with asyncio.timeout(30):
        while len(await listeners(migrated_url)) < 2:
            await asyncio.sleep(0.01)
    waiting = asyncio.create_task(two.process.envoys.wait_experiment("a", seconds=60))
    assert await waits(waiting), "there is nothing yet, also for the look that follows listening"
    one.process.runtime.wakeups.relay = lambda _topics: None
    await one.submit(envoys=("a",))
    assert await waits(waiting), "nothing tells the other director"

    await ended(migrated_url, await listeners(migrated_url))

    given = await asyncio.wait_for(waiting, 30)
    assert given is not None


@pytest.mark.parametrize("deaf", ["to others", "to everything"])
async def test_without_a_single_wakeup_everything_still_ends(
    migrated_url: str, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = timedelta(seconds=0.1)
    monkeypatch.setattr(Notifications, "send", lambda _self, _topics: None)
    if deaf == "to everything":
        monkeypatch.setattr(Wakeups, "wake", lambda _self, _topics: None)
    async with replicas(migrated_url, 2, poll=poll, long_poll=timedelta(seconds=1)) as directors:
        await directors[0].register("a", "b")
        async with running(*directors), serving(directors, "a", "b") as (busy, _):
            start = monotonic()
            await directors[0].submit(plan=TRAIN_ONLY + "rounds: 1")
            state = await busy.ended("experiment")
            took = monotonic() - start

    assert state is ExperimentState.FINISHED
    assert took > poll.total_seconds()


@asynccontextmanager
async def serving(directors: list[World], *envoys: str) -> AsyncIterator[list[Busy]]:
    """Let envoys work by themselves, each through another director."""
    served = [Busy(director, MODEL) for director in directors]
    tasks = [asyncio.create_task(busy.serve(envoy)) for busy, envoy in zip(cycle(served), envoys, strict=False)]
    try:
        yield served
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ended(url: str, backends: list[int]) -> None:
    """End processes of the server."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", backends)
    finally:
        await connection.close()
