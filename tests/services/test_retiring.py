"""Operators retire and restore envoys: a retired one is refused, and no experiment waits for it."""

import asyncio
from datetime import timedelta

import pytest

from director.domain.commands import Heartbeat
from director.domain.types import ExperimentState
from director.errors import EnvoyNotFound, EnvoyRetired, Forbidden, InvalidArgument
from director.services import checking
from director.store import retirements
from director.store.engine.database import Failpoints, Transaction
from director.store.envoy_lists import Filter
from director.store.retirements import Part
from tests.services.words import OPERATOR, collecting, complete, history, reason_of, state_of
from tests.simulation.deaths import Died
from tests.store.words import PATIENCE, waits
from tests.tables import event_rows, round_rows
from tests.tables.everything import contents
from tests.world import PLAN, RESEARCHER, World, world

RELAXED = PLAN + "min_collaborators: 1\n"
WHY = "an operator retired this envoy"


async def retire(federation: World, *envoys: str) -> None:
    for envoy in envoys:
        await federation.process.federation.retire(envoy, OPERATOR)


async def listed(federation: World, *, show_retired: bool) -> list[str]:
    page = await federation.process.federation.envoys(RESEARCHER, Filter(show_retired=show_retired))
    return [each.name for each in page.items]


async def test_pending_experiment_that_needs_the_envoy_fails_at_the_next_admission(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit()
    await retire(federation, "b")

    await federation.admit()

    assert await state_of(federation) is ExperimentState.FAILED
    assert await reason_of(federation) == "its quorum is out of reach: b failed before the start"


async def test_pending_experiment_that_requires_the_envoy_fails_though_others_are_many(federation: World) -> None:
    await federation.register("a", "b", "c")
    await federation.submit(envoys=("a", "b", "c"), plan=RELAXED + "required_collaborators: [b]\n")
    await retire(federation, "b")

    await federation.admit()

    assert await state_of(federation) is ExperimentState.FAILED


async def test_pending_experiment_that_can_do_without_the_envoy_starts(federation: World) -> None:
    await federation.register("a", "b")
    experiment = await federation.submit(plan=RELAXED)
    await retire(federation, "b")

    await federation.admit()

    assert await state_of(federation) is ExperimentState.IN_PROGRESS
    assert await round_rows.collaborator_states(federation.db, experiment.id) == ["queued", "failed"]
    [started] = [each for each in await history(federation, experiment.id) if each.kind == "experiment_started"]
    assert started.details["queued"] == ["a"]


async def test_running_experiment_that_needs_the_envoy_fails_with_the_reason(federation: World) -> None:
    begun = await collecting(federation)

    await retire(federation, "b")
    await federation.drive(begun.fence)

    assert await state_of(federation) is ExperimentState.FAILED
    assert await reason_of(federation) == (f"round 1 cannot reach its minimum of 2 collaborators; b failed: {WHY}")


async def test_running_experiment_that_can_do_without_the_envoy_goes_on(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)

    await retire(federation, "b")
    await complete(federation, begun, "a")
    await federation.drive(begun.fence)

    assert await round_rows.assignments(federation.db, 1) == [("a", "counted"), ("b", "failed")]
    assert [envoy for envoy, _ in await round_rows.assignments(federation.db, 2)] == ["a"]
    assert (await checking.report(federation.db)).findings == []


async def test_what_the_envoy_completed_before_still_counts(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await complete(federation, begun, "a", "b")

    await retire(federation, "b")
    await federation.drive(begun.fence)

    assert await round_rows.assignments(federation.db, 1) == [("a", "counted"), ("b", "counted")]


async def test_its_part_says_why_it_ended(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)

    await retire(federation, "b")

    page = await federation.process.experiments.collaborators(begun.uid, RESEARCHER)
    [failure] = [each.failure for each in page.items if each.envoy == "b"]
    assert failure is not None
    assert (failure.message, failure.task, failure.error_type) == (WHY, "", "")
    [failed] = await event_rows.of_kind(federation.db, "collaborator_failed")
    assert (failed.stream, failed.details["envoy"], failed.reason) == (begun.id, "b", WHY)


class Mortal(Failpoints):
    """Lets the process die before or after its first transaction of a name."""

    def __init__(self, when: str, name: str) -> None:
        self._fatal = when, name

    def enter(self, name: str) -> None:
        self._die("enter", name)

    def before(self, name: str) -> None:
        self._die("before", name)

    def after(self, name: str) -> None:
        self._die("after", name)

    def _die(self, *point: str) -> None:
        if point == self._fatal:
            raise Died(" ".join(point))


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("after", "retire envoy"),
        ("enter", "release retired"),
        ("before", "release retired"),
        ("after", "release retired"),
    ],
)
async def test_what_a_death_left_of_a_retirement_is_done_by_the_periodic_job(
    migrated_url: str, when: str, name: str
) -> None:
    async with world(migrated_url) as first:
        await first.register("a", "b")
        ids = [(await first.submit(each, plan=RELAXED)).id for each in ("one", "two")]
        first.db.failpoints = Mortal(when, name)
        with pytest.raises(Died):
            await retire(first, "b")
        first.db.failpoints = Failpoints()

    async with world(migrated_url, seed=2) as second:
        await second.process.federation.settle_retired()

        assert [await round_rows.collaborator_states(second.db, each) for each in ids] == [["waiting", "failed"]] * 2
        assert [each.stream for each in await event_rows.of_kind(second.db, "collaborator_failed")] == ids
        assert await listed(second, show_retired=False) == ["a"]


async def test_retirement_that_died_before_its_commit_never_happened(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        await federation.register("a", "b")
        before = await contents(federation.db)
        federation.db.failpoints = Mortal("before", "retire envoy")
        with pytest.raises(Died):
            await retire(federation, "b")
        federation.db.failpoints = Failpoints()

        assert await contents(federation.db) == before


async def test_settling_is_one_of_the_periodic_jobs(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        await federation.register("a", "b")
        experiment = await federation.submit(plan=RELAXED)
        federation.db.failpoints = Mortal("after", "retire envoy")
        with pytest.raises(Died):
            await retire(federation, "b")
        federation.db.failpoints = Failpoints()

        await federation.do_periodic_jobs()

        assert await round_rows.collaborator_states(federation.db, experiment.id) == ["waiting", "failed"]


async def test_envoy_that_is_restored_in_the_very_moment_keeps_its_part(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_parts = retirements.open_parts
    async with world(migrated_url) as federation:

        async def and_then_restore(tx: Transaction) -> list[Part]:
            found = await open_parts(tx)
            await federation.process.federation.restore("b", OPERATOR)
            return found

        await federation.register("a", "b")
        experiment = await federation.submit()
        federation.db.failpoints = Mortal("after", "retire envoy")
        with pytest.raises(Died):
            await retire(federation, "b")
        federation.db.failpoints = Failpoints()
        monkeypatch.setattr(retirements, "open_parts", and_then_restore)

        await federation.process.federation.settle_retired()

        assert await round_rows.collaborator_states(federation.db, experiment.id) == ["waiting", "waiting"]


async def test_only_operators_retire_and_restore(federation: World) -> None:
    await federation.register("a", "b")
    await retire(federation, "b")
    before = await contents(federation.db)

    with pytest.raises(Forbidden, match="only operators"):
        await federation.process.federation.retire("a", RESEARCHER)
    with pytest.raises(Forbidden, match="only operators"):
        await federation.process.federation.restore("b", RESEARCHER)

    assert await contents(federation.db) == before


async def test_envoy_that_never_registered_is_not_found(federation: World) -> None:
    before = await contents(federation.db)

    with pytest.raises(EnvoyNotFound):
        await federation.process.federation.retire("nobody", OPERATOR)
    with pytest.raises(EnvoyNotFound):
        await federation.process.federation.restore("nobody", OPERATOR)

    assert await contents(federation.db) == before


async def test_retired_envoy_is_refused_and_does_not_come_back_by_registering(federation: World) -> None:
    [session] = await federation.register("a")
    await retire(federation, "a")
    envoys = federation.process.envoys
    before = await contents(federation.db)

    with pytest.raises(EnvoyRetired):
        await federation.register("a")
    for session_id in (None, session.id):
        with pytest.raises(EnvoyRetired):
            await envoys.heartbeat(Heartbeat("a", False, session_id=session_id))
        with pytest.raises(EnvoyRetired):
            await envoys.wait_experiment("a", session_id=session_id, seconds=0)

    assert await contents(federation.db) == before


async def test_call_that_waits_is_told_at_once(migrated_url: str) -> None:
    async with world(migrated_url, poll=timedelta(minutes=10)) as federation:
        [session] = await federation.register("a")
        wait = federation.process.envoys.wait_experiment("a", session_id=session.id, seconds=600)
        call = asyncio.create_task(wait)
        assert await waits(call)

        await retire(federation, "a")

        with pytest.raises(EnvoyRetired):
            await asyncio.wait_for(call, PATIENCE)


async def test_retired_envoy_cannot_be_named_by_a_submission(federation: World) -> None:
    await federation.register("a", "b")
    await retire(federation, "b")

    with pytest.raises(InvalidArgument, match="no envoy is registered as 'b'"):
        await federation.submit()


async def test_retired_envoy_is_shown_only_to_those_who_ask_for_it(federation: World) -> None:
    await federation.register("a", "b")

    retired = await federation.process.federation.retire("b", OPERATOR)

    assert (retired.name, retired.online) == ("b", False)
    assert retired.retired_at is not None
    assert await listed(federation, show_retired=False) == ["a"]
    assert await listed(federation, show_retired=True) == ["a", "b"]


async def test_restored_envoy_is_back_once_it_registers(federation: World) -> None:
    await federation.register("a", "b")
    await retire(federation, "b")

    restored = await federation.process.federation.restore("b", OPERATOR)
    assert (restored.retired_at, restored.online) == (None, False)
    await federation.register("b")
    await federation.submit()
    await federation.admit()

    assert await state_of(federation) is ExperimentState.IN_PROGRESS
    assert await event_rows.actors(federation.db, "envoy_retired") == ["operator"]
    assert await event_rows.actors(federation.db, "envoy_restored") == ["operator"]


async def test_restoring_does_not_bring_back_its_parts_in_experiments(federation: World) -> None:
    await federation.register("a", "b")
    experiment = await federation.submit(plan=RELAXED)
    await retire(federation, "b")

    await federation.process.federation.restore("b", OPERATOR)
    await federation.register("b")
    await federation.admit()

    assert await round_rows.collaborator_states(federation.db, experiment.id) == ["queued", "failed"]
