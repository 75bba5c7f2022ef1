"""A contribution counts once, however often it is sent, and only while its round collects."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.commands import Contribute
from director.domain.envoy import Engagement
from director.domain.tensors import Manifest
from director.errors import NotFound, RoundClosed, StaleAttempt, Unavailable
from director.store import contributions, experiments, rounds, stash
from director.store.contributions import Counted, Stored
from director.store.engine.database import Database
from director.store.leases import Fence
from tests.store.words import only_postgresql, owned, waits
from tests.tables import blob_rows, changes, event_rows, result_rows, round_rows
from tests.world import World, content_of, payload_of

UPDATE = {"weights": np.full(8, 2.0, np.float32)}
DIGEST = content_of(payload_of(UPDATE)).digest
METRICS = {"loss": 0.5, "accuracy": 0.25}


@pytest.fixture
async def fence(federation: World) -> Fence:
    """An owned experiment of two envoys whose first round collects."""
    fence = await owned(federation)
    await federation.drive(fence)
    return fence


@pytest.fixture
async def a(federation: World, fence: Fence) -> Engagement:
    """What envoy a was given."""
    given = await federation.wait("a")
    await federation.work(given, "a")
    return given


async def train(federation: World, given: Engagement, envoy: str = "a", *, number: int = 1) -> Stored:
    return await federation.contribute(
        given, envoy, "train", round_number=number, samples=7, metrics=METRICS, update=UPDATE
    )


def trained(a: Engagement) -> Contribute:
    manifest = Manifest.of(UPDATE).digest
    return Contribute(a.experiment_uid, "a", 1, 1, "train", 7, METRICS, content_of(payload_of(UPDATE)), manifest)


async def everything(federation: World) -> tuple[object, ...]:
    """What a repeat must not change."""
    return (
        await result_rows.contributions(federation.db),
        await result_rows.metrics(federation.db),
        await event_rows.of_experiments(federation.db),
        await blob_rows.blobs(federation.db),
    )


async def test_contribution_is_stored_with_its_metrics_and_its_update(federation: World, a: Engagement) -> None:
    assert await train(federation, a) == Stored(DIGEST)

    [stored] = await result_rows.contributions(federation.db)
    assert stored[1:6] == (1, "a", "train", 7, DIGEST)
    assert stored.attempt == 1
    assert stored.seconds is not None
    assert await result_rows.metrics(federation.db) == [
        (1, 1, "a", "train", "accuracy", 0.25),
        (2, 1, "a", "train", "loss", 0.5),
    ]
    assert stored.blob is not None
    assert await blob_rows.state(federation.db, stored.blob) == "taken"


async def test_contribution_sent_again_is_answered_as_the_first_time_and_changes_nothing(
    federation: World, a: Engagement
) -> None:
    first = await train(federation, a)
    before = await everything(federation)

    assert await train(federation, a) == first

    assert await everything(federation) == before


async def test_contribution_sent_again_with_other_content_is_answered_with_what_is_held(
    federation: World, a: Engagement
) -> None:
    await train(federation, a)
    other = {"weights": np.zeros(8, np.float32)}

    found = await federation.contribute(a, "a", "train", round_number=1, samples=999, update=other)

    assert found == Stored(DIGEST)
    assert await result_rows.contributed_samples(federation.db) == [7]


async def test_contribution_sent_many_times_at_once_is_stored_once(federation: World, a: Engagement) -> None:
    outcomes = await asyncio.gather(*(train(federation, a) for _ in range(6)), return_exceptions=True)

    assert Stored(DIGEST) in outcomes
    assert all(outcome == Stored(DIGEST) or isinstance(outcome, Unavailable) for outcome in outcomes)
    assert await train(federation, a) == Stored(DIGEST)
    assert len(await result_rows.contributions(federation.db)) == 1
    assert len(await result_rows.metrics(federation.db)) == 2


async def test_same_key_is_entered_once(federation: World, fence: Fence, a: Engagement) -> None:
    command = Contribute(a.experiment_uid, "a", 1, 1, "validate", 7)

    async def add(command: Contribute) -> bool:
        async with federation.db.write("add") as tx:
            await experiments.lock(tx, fence.experiment_id)
            return await contributions.add(tx, fence.experiment_id, command, None)

    assert await add(command)
    assert not await add(Contribute(a.experiment_uid, "a", 1, 1, "validate", 8))

    assert await result_rows.contributed_samples(federation.db) == [7]
    async with federation.db.read() as tx:
        assert await contributions.find(tx, fence.experiment_id, command) == Stored(None)


@pytest.mark.parametrize("task", ["train", "validate"])
async def test_contribution_that_was_stored_meanwhile_is_answered_and_changes_nothing(
    federation: World, fence: Fence, a: Engagement, task: str
) -> None:
    update = UPDATE if task == "train" else None
    first = await federation.contribute(a, "a", task, round_number=1, samples=7, metrics=METRICS, update=update)
    before = await everything(federation)
    command = trained(a)
    if task == "validate":
        command = Contribute(a.experiment_uid, "a", 1, 1, task, 7, METRICS)

    assert await federation.process.rounds.contribute(command) == first

    assert await everything(federation) == before


async def test_contribution_is_found_after_its_round_and_under_an_older_attempt(
    federation: World, fence: Fence, a: Engagement
) -> None:
    await federation.finish_round({"a": a, "b": await federation.wait("b")})
    await federation.drive(fence)
    await federation.process.envoys.wait_experiment("a", seconds=0)
    before = await everything(federation)

    found = await federation.contribute(a, "a", "train", round_number=1, update=UPDATE)

    assert found.digest is not None
    assert await everything(federation) == before
    with pytest.raises(StaleAttempt):
        await train(federation, a, number=2)


@pytest.mark.parametrize("task", ["train", "validate"])
async def test_contribution_to_a_frozen_round_comes_late_and_leaves_only_an_event(
    federation: World, fence: Fence, a: Engagement, task: str
) -> None:
    async with federation.db.write("freeze") as tx:
        await experiments.lock(tx, fence.experiment_id)
        await rounds.freeze(tx, fence.experiment_id, 1, complete=[])

    with pytest.raises(RoundClosed, match="LATE"):
        await federation.contribute(a, "a", task, round_number=1, update=UPDATE if task == "train" else None)

    assert await result_rows.contributions(federation.db) == []
    assert await result_rows.metrics(federation.db) == []
    assert await event_rows.actors(federation.db, "contribution_late") == ["a"]


async def test_contribution_that_comes_late_between_its_bytes_and_its_turn_keeps_none_of_them(
    federation: World, fence: Fence, a: Engagement
) -> None:
    command = trained(a)
    begun = await federation.process.rounds.begin_contribution(command)
    assert isinstance(begun, stash.Upload)
    async with federation.db.write("arrive") as tx:
        await stash.put(tx, begun.blob_id, 0, payload_of(UPDATE))
        await stash.seal(tx, begun.blob_id, DIGEST)
        await rounds.freeze(tx, fence.experiment_id, 1, complete=[])

    with pytest.raises(RoundClosed):
        await federation.process.rounds.contribute(command)

    await federation.process.periodic_jobs.sweep()
    assert await blob_rows.uploaded_for(federation.db, "contribution") == []
    assert await result_rows.contributions(federation.db) == []


@pytest.mark.parametrize(
    "end", [changes.end_experiments_alone, changes.end_rounds_alone], ids=["the experiment", "the round"]
)
async def test_contribution_to_what_has_ended_is_not_taken_whatever_the_assignments_row_says(
    federation: World, a: Engagement, end: Callable[[Database], Awaitable[None]]
) -> None:
    await end(federation.db)

    with pytest.raises(RoundClosed, match="LATE"):
        await train(federation, a)

    assert await round_rows.assignment_states(federation.db) == ["asked", "asked"]
    assert await result_rows.contributions(federation.db) == []
    assert await result_rows.metrics(federation.db) == []


async def test_contribution_without_its_bytes_is_to_be_sent_again(
    federation: World, fence: Fence, a: Engagement
) -> None:
    command = trained(a)

    with pytest.raises(Unavailable, match="send it again"):
        await federation.process.rounds.contribute(command)

    assert await result_rows.metrics(federation.db) == []
    assert await train(federation, a) == Stored(DIGEST)


async def test_envoy_that_was_not_asked_cannot_contribute(federation: World, fence: Fence) -> None:
    await federation.register("stranger")

    with pytest.raises(NotFound):
        await train(federation, Engagement((await federation.row("experiment")).uid, "experiment", 1), "stranger")
    with pytest.raises(IntegrityError):
        await changes.contribute_unasked(federation.db, fence.experiment_id, "stranger")


async def test_counted_are_those_of_complete_envoys_in_the_order_of_their_names(
    federation: World,
) -> None:
    envoys = ("b", "ä", "A", "a")
    fence = await owned(federation, envoys=envoys)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in envoys}
    incomplete = given.pop("b")
    await federation.finish_round(given)
    await train(federation, incomplete, "b")
    async with federation.db.write("freeze") as tx:
        await rounds.freeze(tx, fence.experiment_id, 1, complete=sorted(given))

    async with federation.db.read() as tx:
        counted = await contributions.counted(tx, fence.experiment_id, 1)
        trained = [each for each in counted if each.task == "train"]
        blobs = contributions.updates(trained)

    assert [(each.envoy, each.task) for each in counted] == [
        (envoy, task) for envoy in ("A", "a", "ä") for task in ("train", "validate")
    ]
    assert [blob.id for blob in blobs] == [each.update and each.update.id for each in trained]
    with pytest.raises(NotFound, match="has ended"):
        async with federation.db.read() as tx:
            contributions.updates([*trained, Counted("b", "train", 1, None)])


async def test_blob_belongs_to_one_contribution(federation: World, fence: Fence, a: Engagement) -> None:
    await train(federation, a)
    await federation.contribute(a, "a", "validate", round_number=1)

    with pytest.raises(IntegrityError):
        await changes.share_one_update(federation.db)


@only_postgresql
async def test_freeze_waits_for_the_contribution_in_flight_and_the_next_one_is_late(
    federation: World, fence: Fence, a: Engagement
) -> None:
    async def freeze() -> None:
        async with federation.db.write("freeze") as tx:
            await experiments.lock(tx, fence.experiment_id)
            await rounds.freeze(tx, fence.experiment_id, 1, complete=["a"])

    async with federation.db.write("in flight") as tx:
        await experiments.lock(tx, fence.experiment_id)
        in_flight = Contribute(a.experiment_uid, "a", 1, 1, "validate", 7)
        await contributions.add(tx, fence.experiment_id, in_flight, None)
        freezing = asyncio.create_task(freeze())
        assert await waits(freezing)
        late = asyncio.create_task(train(federation, a))
        assert await waits(late)

    await freezing
    with pytest.raises(RoundClosed):
        await late
    assert await result_rows.contributed(federation.db) == [("a", "validate")]
