"""An envoy that says goodbye is offline at once and gets nothing new; what it works on is offered when it is back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import EnvoyNotFound, StaleSession
from tests.services.words import collecting, complete, state_of
from tests.store.words import PATIENCE, live, waits
from tests.tables import event_rows, round_rows
from tests.tables.everything import contents
from tests.world import PLAN, RESEARCHER, World, world

RELAXED = PLAN + "min_collaborators: 1\n"


@pytest.fixture
async def slow(migrated_url: str) -> AsyncIterator[World]:
    """A federation that looks at everything only once in ten minutes, unless something wakes it."""
    async with world(migrated_url, poll=timedelta(minutes=10)) as opened:
        yield opened


async def asked(federation: World, envoy: str, session_id: str) -> Engagement | None:
    """Have an envoy ask once for an experiment, in a session."""
    return await federation.process.envoys.wait_experiment(envoy, session_id=session_id, seconds=0)


def waiting(federation: World, envoy: str, session_id: str) -> "asyncio.Task[Engagement | None]":
    """Have an envoy wait for an experiment, in a session."""
    return asyncio.create_task(federation.process.envoys.wait_experiment(envoy, session_id=session_id, seconds=600))


async def online(federation: World) -> list[str]:
    return [each.name for each in (await federation.process.federation.envoys(RESEARCHER)).items if each.online]


async def test_envoy_that_leaves_is_offline_at_once(federation: World) -> None:
    session, _ = await federation.register("a", "b")

    await federation.process.envoys.leave("a", session.id)

    assert await online(federation) == ["b"]
    assert await event_rows.actors(federation.db, "envoy_left") == ["a"]


async def test_call_that_waits_in_the_session_that_ends_is_answered_at_once(slow: World) -> None:
    session, _ = await slow.register("a", "b")
    call = waiting(slow, "a", session.id)
    assert await waits(call)

    await slow.process.envoys.leave("a", session.id)

    with pytest.raises(StaleSession, match="register its shard"):
        await asyncio.wait_for(call, PATIENCE)


async def test_call_of_an_older_session_is_answered_once_another_one_begins(slow: World) -> None:
    [older] = await slow.register("a")
    call = waiting(slow, "a", older.id)
    assert await waits(call)

    await slow.register("a")

    with pytest.raises(StaleSession):
        await asyncio.wait_for(call, PATIENCE)


async def test_late_goodbye_of_an_older_session_leaves_the_waiting_successor_alone(slow: World) -> None:
    [older] = await slow.register("a")
    [newer] = await slow.register("a")
    call = waiting(slow, "a", newer.id)
    assert await waits(call)
    before = await contents(slow.db)

    await slow.process.envoys.leave("a", older.id)

    assert await contents(slow.db) == before
    assert await online(slow) == ["a"]
    await slow.submit(envoys=("a",))
    await slow.admit()
    given = await asyncio.wait_for(call, PATIENCE)
    assert given is not None
    assert given.experiment_name == "experiment"


async def test_experiment_that_was_queued_before_the_goodbye_waits_for_the_next_session(federation: World) -> None:
    session, _ = await federation.register("a", "b")
    experiment = await federation.submit()
    await federation.admit()
    await federation.process.envoys.leave("a", session.id)

    with pytest.raises(StaleSession):
        await asked(federation, "a", session.id)

    assert await round_rows.collaborator_states(federation.db, experiment.id) == ["queued", "queued"]
    [back] = await federation.register("a")
    given = await asked(federation, "a", back.id)
    assert given == Engagement(experiment.uid, "experiment", 1)


async def test_experiment_that_needs_the_envoy_does_not_start_until_it_is_back(federation: World) -> None:
    session, _ = await federation.register("a", "b")
    await federation.process.envoys.leave("a", session.id)
    await federation.submit()

    await federation.admit()

    found = await federation.process.experiments.get("experiment", RESEARCHER)
    assert found.state is ExperimentState.PENDING
    assert found.waiting_for[0].startswith("its quorum: 1 of at least 2 envoys are online")
    assert found.waiting_for[1].startswith("envoy a: offline")
    await federation.register("a")
    await federation.admit()
    assert await state_of(federation) is ExperimentState.IN_PROGRESS


async def test_running_experiment_is_offered_again_once_the_envoy_is_back(federation: World) -> None:
    begun = await collecting(federation)
    [session] = await federation.register("a")  # the session that it leaves; what it works on stays its own
    await federation.process.envoys.leave("a", session.id)
    assert await federation.drive(begun.fence) is not None, "it is waited for"

    [back] = await federation.register("a")
    given = await asked(federation, "a", back.id)

    assert given == Engagement(begun.uid, "experiment", begun.given["a"].attempt + 1)
    await federation.finish_round({"a": given, "b": begun.given["b"]})
    await federation.drive(begun.fence)
    assert await round_rows.assignments(federation.db, 1) == [("a", "counted"), ("b", "counted")]


async def test_envoy_that_left_is_waited_for_during_its_grace_and_no_longer(timed: World, clock: ManualClock) -> None:
    begun = await collecting(timed, plan=RELAXED + "envoy_grace: 60\n")
    [session] = await timed.register("a")
    await complete(timed, begun, "b")

    await timed.process.envoys.leave("a", session.id)
    await live(timed, clock, 59)
    await timed.drive(begun.fence)
    assert await round_rows.assignments(timed.db, 1) == [("a", "asked"), ("b", "asked")]
    await live(timed, clock, 2)
    await timed.drive(begun.fence)

    assert await round_rows.assignments(timed.db, 1) == [("a", "missed"), ("b", "counted")]


async def test_heartbeat_of_the_session_that_ended_does_not_bring_the_envoy_back(federation: World) -> None:
    [session] = await federation.register("a")
    await federation.process.envoys.leave("a", session.id)
    before = await contents(federation.db)

    with pytest.raises(StaleSession):
        await federation.process.envoys.heartbeat(Heartbeat("a", False, session_id=session.id))

    assert await contents(federation.db) == before
    assert await online(federation) == []


async def test_goodbye_of_an_envoy_that_never_registered_changes_nothing(federation: World) -> None:
    before = await contents(federation.db)

    await federation.process.envoys.leave("nobody", "0" * 32)

    assert await contents(federation.db) == before
    with pytest.raises(EnvoyNotFound):
        await federation.process.envoys.wait_experiment("nobody", seconds=0)
