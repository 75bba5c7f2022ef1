"""What the settings say is kept no longer goes, in small steps, and nothing that anyone refers to."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest

from director.domain.types import ExperimentId, ExperimentState
from director.effects import ManualClock
from director.errors import ModelNotFound
from director.services import checking
from director.store import contents, models, pruning
from tests.services.busy import busy
from tests.store.words import live, only_postgresql
from tests.tables import blob_rows, changes, experiment_rows, locks, presence_rows, result_rows, round_rows
from tests.tables.everything import history_counts
from tests.world import PLAN, RESEARCHER, World, world

LONG = PLAN.replace("rounds: 2", "rounds: 7")
DAY = timedelta(days=1)

Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def opened(migrated_url: str, clock: ManualClock) -> Open:
    """Opens a federation with some settings."""

    def open_(**settings: Any) -> AbstractAsyncContextManager[World]:
        return world(migrated_url, clock=clock, **settings)

    return open_


async def finished(federation: World, name: str = "experiment", *, plan: str = LONG, best: int = 2) -> ExperimentId:
    """Run an experiment to its end; its best model is not the last."""
    await federation.process.ticker.tick()
    await federation.register("a", "b")
    view = await federation.submit(name, plan=plan)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    while await federation.drive(fence) is not None:
        number = await round_rows.last_number(federation.db, view.id)
        await federation.finish_round(given, value=9.0 if number == best + 1 else 1.0)
    return view.id


async def keep_house(federation: World) -> None:
    await federation.do_periodic_jobs()


async def removed(federation: World, name: str = "experiment") -> ExperimentId:
    """Run an experiment to its end, and remove it."""
    experiment_id = await finished(federation, name, plan=PLAN)
    await federation.process.experiments.remove(name, RESEARCHER)
    return experiment_id


async def test_every_model_is_kept_by_default(opened: Open) -> None:
    async with opened() as federation:
        experiment_id = await finished(federation)

        await keep_house(federation)

        assert await result_rows.models_kept(federation.db, experiment_id) == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_first_best_and_last_models_are_kept_and_those_between_as_set(opened: Open) -> None:
    async with opened(keep_models_every=3) as federation:
        experiment_id = await finished(federation)

        await keep_house(federation)

        assert await result_rows.models_kept(federation.db, experiment_id) == [0, 2, 3, 6, 7]
        for which in ("initial", "best", "last", 3):
            await federation.process.experiments.model("experiment", RESEARCHER, which)
        with pytest.raises(ModelNotFound, match="model 4 is no longer kept"):
            await federation.process.experiments.model("experiment", RESEARCHER, 4)
        assert (await checking.report(federation.db)).findings == []


async def test_model_that_is_no_longer_the_best_goes(opened: Open) -> None:
    async with opened(keep_models_every=100) as federation:
        await federation.register("a", "b")
        experiment_id = (await federation.submit(plan=LONG)).id
        await federation.admit()
        [fence] = await federation.claim()
        await federation.drive(fence)
        given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
        kept = []
        for value in (1.0, 3.0, 2.0, 9.0, 4.0):
            await federation.finish_round(given, value=value)
            await federation.drive(fence)
            await keep_house(federation)
            kept.append(await result_rows.models_kept(federation.db, experiment_id))

        assert kept == [[0, 1], [0, 1, 2], [0, 1, 3], [0, 3, 4], [0, 3, 5]]


async def test_reader_of_a_pruned_model_has_an_hour_to_finish(opened: Open, clock: ManualClock) -> None:
    async with opened(keep_models_every=3) as federation:
        experiment_id = await finished(federation)
        async with federation.db.read() as tx:
            model = await models.get(tx, experiment_id, 1)

        await keep_house(federation)

        assert [number async for number, _ in contents.chunks(federation.db, model.blob)] == [0]
        clock.advance(timedelta(minutes=61))
        await keep_house(federation)
        assert model.blob.id not in await blob_rows.ids(federation.db)


@only_postgresql
async def test_experiment_that_somebody_holds_is_pruned_later(opened: Open) -> None:
    async with opened(keep_models_every=3) as federation:
        experiment_id = await finished(federation)

        async with locks.every_experiment(federation.db):
            await keep_house(federation)
            assert len(await result_rows.models_kept(federation.db, experiment_id)) == 8
        await keep_house(federation)

        assert len(await result_rows.models_kept(federation.db, experiment_id)) == 5


async def test_models_are_pruned_a_few_at_a_time(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "STEP", 2)
    async with opened(keep_models_every=100) as federation:
        experiment_id = await finished(federation)

        for _ in range(2):
            await keep_house(federation)
        left = await result_rows.models_kept(federation.db, experiment_id)
        for _ in range(2):
            await keep_house(federation)

        assert left == [0, 2, 6, 7]
        assert await result_rows.models_kept(federation.db, experiment_id) == [0, 2, 7]


async def test_history_is_kept_for_ever_by_default(opened: Open, clock: ManualClock) -> None:
    async with opened() as federation:
        experiment_id = await removed(federation)
        before = await history_counts(federation.db, experiment_id)

        clock.advance(3650 * DAY)
        await keep_house(federation)

        assert await history_counts(federation.db, experiment_id) == before
        assert all(before.values())


async def test_history_of_a_removed_experiment_is_dropped_after_its_time(opened: Open, clock: ManualClock) -> None:
    async with opened(history_retention=30 * DAY) as federation:
        old = await removed(federation, "old")
        kept = await finished(federation, "kept", plan=PLAN)
        clock.advance(20 * DAY)
        young = await removed(federation, "young")
        before = [await history_counts(federation.db, each) for each in (kept, young)]

        clock.advance(11 * DAY)
        await keep_house(federation)

        assert not any((await history_counts(federation.db, old)).values())
        assert [await history_counts(federation.db, each) for each in (kept, young)] == before
        assert (await checking.report(federation.db)).findings == []


async def test_submission_of_a_dropped_history_is_still_known(opened: Open, clock: ManualClock) -> None:
    async with opened(history_retention=0) as federation:
        experiment_id = await removed(federation)
        clock.advance(DAY)
        await keep_house(federation)

        name = await experiment_rows.name_of(federation.db, experiment_id)
        state = await experiment_rows.state(federation.db, experiment_id)
        again = await federation.submit(submission_id="another-one")

        assert (name, state) == ("experiment", "finished")
        assert again.id > experiment_id


async def test_nothing_is_found_between_the_steps_of_dropping_a_history(
    opened: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as federation:
        experiment_id = await removed(federation)
        monkeypatch.setattr(pruning, "STEP", 3)
        steps, found, more = 0, [], True

        while more:
            async with federation.db.write("drop history") as tx:
                more = await pruning.drop_history(tx, experiment_id)
            found += (await checking.report(federation.db)).findings
            steps += 1

        assert found == []
        assert steps > 15
        assert not any((await history_counts(federation.db, experiment_id)).values())


async def test_uptime_of_more_than_a_year_ago_is_forgotten(opened: Open, clock: ManualClock) -> None:
    async with opened() as federation:
        await federation.register("a", "b")
        await live(federation, clock, 130)
        await keep_house(federation)  # both were silent: their sessions end
        clock.advance(300 * DAY)
        await federation.process.ticker.tick()
        await federation.register("a")

        await keep_house(federation)
        before = await presence_rows.envoys_with_sessions(federation.db)
        clock.advance(66 * DAY)
        await federation.process.ticker.tick()
        await federation.register("a")
        await keep_house(federation)

        assert before == ["a", "b", "a"]
        assert set(await presence_rows.envoys_with_sessions(federation.db)) == {"a"}
        assert await presence_rows.envoys(federation.db) == ["a", "b"]


async def test_directors_of_more_than_a_year_ago_are_forgotten_unless_they_own_something(
    migrated_url: str, clock: ManualClock
) -> None:
    async with world(migrated_url, clock=clock, seed=1) as federation:
        await finished(federation, plan=PLAN)
    async with world(migrated_url, clock=clock, seed=2) as federation:
        await federation.submit("owned", plan=LONG)
        await federation.admit()
        await federation.claim()
        owner = federation.process.presence.director_id
    clock.advance(366 * DAY)

    async with world(migrated_url, clock=clock, seed=3) as federation:
        # As if nobody had freed it.
        owned = await experiment_rows.id_of(federation.db, "owned")
        await changes.give_experiment_to(federation.db, owned, owner)

        await keep_house(federation)

        me = federation.process.presence.director_id
        assert set(await presence_rows.directors(federation.db)) == {owner, me}


@pytest.mark.system
async def test_what_is_referenced_is_never_touched_while_everybody_works(migrated_url: str) -> None:
    settings: dict[str, Any] = {
        "keep_models_every": 3,
        "history_retention": 0,
        "presence_retention": 0,
        "chunk_bytes": 4096,
    }
    async with busy(migrated_url, "abc", **settings) as federation:
        for name in ("removed", "kept"):
            await federation.world.submit(name, envoys="abc", plan=LONG)
        assert await federation.ended("removed") is ExperimentState.FINISHED
        await federation.world.process.experiments.remove("removed", RESEARCHER)
        assert await federation.ended("kept") is ExperimentState.FINISHED

        db = federation.world.db
        kept = await experiment_rows.id_of(db, "kept")
        async with asyncio.timeout(30):
            while (
                await round_rows.collaborators_of_removed_experiments(db)
                or len(await result_rows.models_kept(db, kept)) > 5
            ):
                await asyncio.sleep(0.05)
        assert set(await result_rows.models_kept(db, kept)) >= {0, 3, 6, 7}
        assert (await checking.report(db)).findings == []
