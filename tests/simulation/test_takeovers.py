"""Deaths in a row, deaths in a place of their own, and what comes between a decision and its transaction."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

from director.domain.envoy import Engagement
from director.effects import ManualClock
from director.errors import LeaseLost, Unavailable
from director.store.leases import Fence, pause_after
from tests.simulation.deaths import Point, die_at, live_on
from tests.simulation.directors import LEASE, Director
from tests.simulation.endings import outcome
from tests.simulation.harness import Federation
from tests.simulation.one_thread import one_thread
from tests.simulation.operators import OPERATOR, retired
from tests.simulation.scenario import TASKS, plain_federation, small_federation
from tests.simulation.turnstiles import Turnstile
from tests.store.words import only_postgresql, owned, running
from tests.tables import event_rows, experiment_rows, round_rows
from tests.world import RESEARCHER, World

New = Callable[[], str]
UPDATE = {"weights": np.ones(8, np.float32)}
SEEDS = count(1)


def new_director(url: str, clock: ManualClock, **more: Any) -> Director:
    """Make a director that nobody else wakes."""
    fate = more.pop("fate", live_on)
    return Director(url, clock, seed=next(SEEDS), fate=fate, tally=Counter(), heard=lambda _topics: None, **more)


def test_death_between_entering_and_freeing_leaves_nothing_to_the_dead(new_database: New) -> None:
    expected = outcome(Federation(new_database(), small_federation()))
    fate = die_at(Point("after", "open round", 1), Point("before", "free", 2))

    federation = Federation(new_database(), small_federation(), fate=fate)
    found = outcome(federation)

    assert not found.unlike(expected)
    assert federation.directors == 3


@only_postgresql
def test_death_between_reaping_and_freeing_leaves_nothing_to_the_dead(new_database: New) -> None:
    url, clock = new_database(), ManualClock()

    async def run() -> list[Any]:
        owner = new_director(url, clock)
        survivor = new_director(url, clock, fate=die_at(Point("after", "reap", 1)))
        heir = new_director(url, clock)
        await owner.open()
        await survivor.open()
        await running(owner.world)
        await owner.process.execution.reconcile()
        await owner.let_go()
        clock.advance(LEASE / 2)
        await survivor.process.presence.renew(survivor.db)
        clock.advance(LEASE * 0.75)
        with pytest.raises(Unavailable):
            await survivor.while_alive(survivor.process.presence.expire_leases())
        await survivor.let_go()
        left = experiment_rows.are_owned_from_outside(url)
        await heir.open()
        await heir.process.execution.reconcile()
        [fence] = await experiment_rows.fences(heir.db)
        await heir.let_go()
        return [*left, fence]

    with one_thread():
        owned_by_the_dead, fence = asyncio.run(run())

    assert owned_by_the_dead
    assert fence == 2


def test_six_takeovers_in_one_collecting_round_fail_nothing_and_are_no_crashes(new_database: New) -> None:
    expected = outcome(Federation(new_database(), plain_federation()))
    url, crashes = new_database(), []
    fatal = [Point("before", "give tasks", 1), Point("after", "give tasks", 2)]
    fatal += [Point("after", "contribute", number) for number in range(1, 5)]

    def fate(point: Point) -> None:
        if point == Point("before", "freeze round", 1):
            crashes.extend(experiment_rows.crashes_from_outside(url))
        die_at(*fatal)(point)

    federation = Federation(url, plain_federation(), fate=fate)
    found = outcome(federation)

    assert not found.unlike(expected)
    assert federation.directors == 7
    assert crashes == [0]


def test_six_takeovers_in_one_fold_fail_nothing_and_back_off_from_the_third_on(new_database: New) -> None:
    expected = outcome(Federation(new_database(), plain_federation()))
    url, crashes = new_database(), []
    begun: list[datetime] = []
    fatal = [Point("after", "begin fold", number) for number in range(1, 7)]

    def fate(point: Point) -> None:
        if point.when == "before" and point.operation == "begin fold":
            begun.append(federation.now)
            crashes.extend(experiment_rows.crashes_from_outside(url))
        die_at(*fatal)(point)

    federation = Federation(url, plain_federation(), fate=fate)
    found = outcome(federation)

    assert not found.unlike(expected)
    assert crashes == [0, 1, 2, 3, 4, 5, 6, 0]
    waited = [later - earlier for earlier, later in pairwise(begun[:7])]
    assert all(length >= pause_after(number) for number, length in enumerate(waited, start=1))
    assert waited[-1] >= timedelta(seconds=80)


RETIREMENT = [
    Point(when, name, number)
    for name, number in (("retire envoy", 1), ("release retired", 1), ("release retired", 2))
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", RETIREMENT, ids=str)
def test_retirement_that_a_death_cut_short_is_finished_by_the_next_director(new_database: New, point: Point) -> None:
    url, clock = new_database(), ManualClock()

    async def run() -> tuple[list[str], list[tuple[str, str]], list[str]]:
        operator = new_director(url, clock, fate=die_at(point))
        heir = new_director(url, clock)
        await operator.open()
        await running(operator.world, "first")
        await operator.world.submit("second", envoys=("b",))
        with pytest.raises(Unavailable):
            await operator.while_alive(operator.process.federation.retire("b", OPERATOR))
        await operator.let_go()
        clock.advance(LEASE * 1.5)
        await heir.open()
        await heir.process.ticker.tick()
        await heir.world.do_periodic_jobs()
        found = await retired(heir.world), await round_rows.collaborators(heir.db)
        told = [event.details["envoy"] for event in await event_rows.of_kind(heir.db, "collaborator_failed")]
        await heir.let_go()
        return *found, told

    with one_thread():
        found = asyncio.run(run())

    if point == RETIREMENT[0]:
        assert found == ([], [("a", "queued"), ("b", "queued"), ("b", "waiting")], [])
    else:
        assert found == (["b"], [("a", "queued"), ("b", "failed"), ("b", "failed")], ["b", "b"])


async def hand_in_the_last_result(world: World, given: Engagement) -> None:
    await world.contribute(given, "b", "validate", round_number=1)


async def cancel(world: World, _given: Engagement) -> None:
    await world.process.experiments.cancel("experiment", RESEARCHER)


def test_result_between_the_decision_to_fail_and_the_failure_saves_the_experiment(new_database: New) -> None:
    found = between("fail", hand_in_the_last_result, new_database(), "round_deadline: 60")

    assert found == ("in_progress", {"a": "counted", "b": "counted"})


def test_result_between_the_decision_to_freeze_and_the_freeze_counts(new_database: New) -> None:
    found = between("freeze round", hand_in_the_last_result, new_database(), "min_collaborators: 1\ncutoff: 60")

    assert found == ("in_progress", {"a": "counted", "b": "counted"})


def test_cancellation_between_the_decision_to_freeze_and_the_freeze_stands(new_database: New) -> None:
    found = between("freeze round", cancel, new_database(), "min_collaborators: 1\ncutoff: 60")

    assert found == ("cancelled", {"a": "missed", "b": "missed"})


def between(
    step: str, happens: Callable[[World, Engagement], Awaitable[None]], url: str, policy: str
) -> tuple[str, dict[str, str]]:
    """Let something happen after an owner has chosen a step, and before its transaction.

    Of two envoys a is complete, b lacks its validation, and 72 s have passed. Returns the experiment's state, and what
    became of the two.
    """
    clock, turnstile = ManualClock(), Turnstile()

    async def run() -> tuple[str, dict[str, str]]:
        director = new_director(url, clock, database=turnstile.open)
        fence, given = await turnstile.usher(half_done(director, clock, policy))
        steps = director.world.steps(fence)
        chosen = asyncio.ensure_future(steps.next())
        await turnstile.settle()
        while all(each.name != step for each in turnstile.waiting):
            await turnstile.let_in(turnstile.waiting[0])
        await turnstile.usher(happens(director.world, given), past=step)
        for doing in (chosen, steps.next()):
            with suppress(LeaseLost):
                await turnstile.usher(doing)
        [state] = await turnstile.usher(experiment_rows.states(director.db))
        became = await turnstile.usher(round_rows.assignments(director.db, 1))
        await director.let_go()
        return state, dict(became)

    with one_thread():
        return asyncio.run(run())


async def half_done(director: Director, clock: ManualClock, policy: str) -> tuple[Fence, Engagement]:
    """Bring a round to where b lacks one result, and let 72 s pass; return the owner's fence, and what b was given."""
    await director.open()
    world = director.world
    fence = await owned(world, plan=f"rounds: 2\n{policy}\n{TASKS}")
    await world.drive(fence)
    given = {envoy: await world.wait(envoy) for envoy in ("a", "b")}
    for envoy, engagement in given.items():
        await world.work(engagement, envoy)
        await world.contribute(engagement, envoy, "train", round_number=1, update=UPDATE)
    await world.contribute(given["a"], "a", "validate", round_number=1)
    for _ in range(4):
        clock.advance(timedelta(seconds=18))
        await director.process.ticker.tick()
    return fence, given["b"]
