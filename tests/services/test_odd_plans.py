"""A plan that this director cannot read concerns its own experiment only; a newer director may go on with that one."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from director.domain.plan import PLAN_VERSION
from director.domain.types import ExperimentState
from director.errors import ExperimentNotFound, Unavailable
from director.services import checking
from director.store.experiment_rows import ExperimentRow
from tests.services.words import OPERATOR, collecting, state_of
from tests.store.words import running
from tests.tables import changes, experiment_rows, round_rows
from tests.tables.everything import bytes_held
from tests.world import RESEARCHER, World, world

NEWER: dict[str, Any] = {"version": PLAN_VERSION + 1, "phases": [{"called": "warm-up"}]}
"""A plan as a newer director could have stored it."""


@dataclass
class Restarted:
    """A director that never knew the odd experiment's plan; another experiment waits for the same envoys."""

    world: World
    odd: ExperimentRow


async def make_odd(federation: World) -> None:
    """Give the experiment of this name a newer plan."""
    await changes.replace_plan(federation.db, json.dumps(NEWER), name="odd")
    await changes.raise_plan_version(federation.db, "odd")


@asynccontextmanager
async def restarted(url: str, state: str) -> AsyncIterator[Restarted]:
    """Have an odd experiment that is pending, or that runs and has no owner."""
    async with world(url) as first:
        if state == "pending":
            await first.register("a", "b")
            await first.submit("odd")
        else:
            await running(first, "odd")
        await make_odd(first)
        await first.submit("other")
    async with world(url, seed=2) as second:
        yield Restarted(second, await second.row("odd"))


@pytest.fixture
async def pending(migrated_url: str) -> AsyncIterator[Restarted]:
    """An odd experiment that is first in the queue."""
    async with restarted(migrated_url, "pending") as found:
        yield found


@pytest.fixture
async def in_progress(migrated_url: str) -> AsyncIterator[Restarted]:
    """An odd experiment that runs."""
    async with restarted(migrated_url, "in progress") as found:
        yield found


@pytest.fixture(params=["pending", "in progress"])
async def either(migrated_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Restarted]:
    """Each of them in turn."""
    async with restarted(migrated_url, request.param) as found:
        yield found


async def test_it_is_listed_among_the_others(pending: Restarted) -> None:
    for caller in (RESEARCHER, OPERATOR):
        page = await pending.world.process.experiments.listed(caller, plans=True)

        assert [(each.name, each.state) for each in page.items] == [("other", "pending"), ("odd", "pending")]
        assert page.items[1].plan == NEWER


async def test_it_is_shown_with_its_plan_as_it_is_stored_and_says_what_it_waits_for(either: Restarted) -> None:
    found = await either.world.process.experiments.get("odd", RESEARCHER)

    assert found.plan == NEWER
    [reason] = found.waiting_for
    assert reason.startswith("a director that can read its plan; this one cannot")
    assert f"version {PLAN_VERSION + 1}" in reason


async def test_admission_of_the_others_goes_on_past_it(pending: Restarted) -> None:
    await pending.world.admit()

    assert await state_of(pending.world, "odd") is ExperimentState.PENDING
    assert await state_of(pending.world, "other") is ExperimentState.IN_PROGRESS


async def test_one_that_waits_behind_it_is_explained(pending: Restarted) -> None:
    found = await pending.world.process.experiments.get("other", RESEARCHER)

    assert found.waiting_for == ("its place in the queue: 1 before it (odd)",)


async def test_one_that_runs_is_left_to_a_newer_director_and_is_not_ended(in_progress: Restarted) -> None:
    federation = in_progress.world

    assert await federation.claim() == []
    await federation.process.execution.reconcile()
    await federation.admit()
    await federation.do_periodic_jobs()

    assert await experiment_rows.owner(federation.db, "odd") == []
    assert await state_of(federation, "odd") is ExperimentState.IN_PROGRESS
    assert await state_of(federation, "other") is ExperimentState.PENDING, "its envoys serve the odd one"


async def test_envoys_of_one_that_runs_are_sent_to_the_newer_director_and_do_not_fail(migrated_url: str) -> None:
    async with world(migrated_url) as newer:
        begun = await collecting(newer, "odd")
        await make_odd(newer)

    async with world(migrated_url, seed=2) as older:
        for envoy in ("a", "b"):
            with pytest.raises(Unavailable, match="belongs to a newer director"):
                await older.work(begun.given[envoy], envoy)
        with pytest.raises(Unavailable, match="belongs to a newer director"):
            await older.contribute(begun.given["a"], "a", "validate", round_number=1)

        assert await round_rows.collaborator_states(older.db, begun.id) == ["working", "assigned"]
        assert await round_rows.assignment_states(older.db, begun.id) == ["asked", "asked"]


async def test_it_is_cancelled_and_frees_its_envoys_for_the_others(either: Restarted) -> None:
    federation = either.world

    cancelled = await federation.process.experiments.cancel("odd", RESEARCHER, reason="too new")
    await federation.admit()

    assert (cancelled.state, cancelled.reason) == (ExperimentState.CANCELLED, "too new")
    assert await round_rows.collaborator_states(federation.db, either.odd.id) == ["released", "released"]
    assert await state_of(federation, "other") is ExperimentState.IN_PROGRESS
    found = await federation.process.experiments.get("odd", RESEARCHER)
    assert (found.plan, found.waiting_for) == (NEWER, ("nothing: it is cancelled",))


async def test_it_is_removed_with_all_its_bytes(either: Restarted) -> None:
    federation = either.world
    await federation.process.experiments.remove("other", RESEARCHER)

    await federation.process.experiments.remove("odd", RESEARCHER)
    await federation.process.periodic_jobs.sweep()

    assert await bytes_held(federation.db) == []
    with pytest.raises(ExperimentNotFound):
        await federation.process.experiments.get("odd", OPERATOR)
    assert (await checking.report(federation.db)).findings == []


async def test_its_envoys_are_retired_as_others_are(either: Restarted) -> None:
    await either.world.process.federation.retire("b", OPERATOR)

    states = await round_rows.collaborator_states(either.world.db, either.odd.id)
    assert states == ["waiting" if either.odd.state is ExperimentState.PENDING else "queued", "failed"]


async def test_its_archive_and_its_initial_model_are_still_to_be_had(in_progress: Restarted) -> None:
    experiments = in_progress.world.process.experiments

    _, model = await experiments.model("odd", RESEARCHER, "initial")

    assert model.number == 0
    assert (await experiments.archive("odd")).size_bytes > 0
