"""Long polls: answered at once when there is something, empty when their time is up, and never left hanging."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from director.errors import EnvoyNotFound, ExperimentNotFound, NotFound, StaleAttempt
from director.v1 import envoys_pb2, rounds_pb2
from tests.store.words import owned
from tests.wire.calls import AT_ONCE, on_both_engines, refused
from tests.world import World

BRIEFLY = pytest.mark.parametrize("settings", [{"long_poll": timedelta(seconds=0.2)}])
NOBODYS = "0" * 32


async def waiting(call: Any) -> "asyncio.Future[Any]":
    """Begin a call, and see that it waits."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done, "it was to wait"
    return task


async def at_once(task: "asyncio.Future[Any]") -> Any:
    """Return the answer, which comes long before anything is looked at again."""
    return await asyncio.wait_for(task, AT_ONCE)


async def request_of(federation: World, envoy: str) -> envoys_pb2.WaitExperimentRequest:
    """Begin a session of an envoy; return how it waits for an experiment."""
    [session] = await federation.register(envoy)
    return envoys_pb2.WaitExperimentRequest(envoy=envoy, session_id=session.id)


async def start(federation: World) -> tuple[Any, Any, rounds_pb2.PollTasksRequest]:
    """Give an experiment of one envoy to it; its first round is not open yet."""
    fence = await owned(federation, envoys=["a"])
    given = await federation.wait("a")
    return (
        fence,
        given,
        rounds_pb2.PollTasksRequest(experiment_uid=given.experiment_uid, envoy="a", attempt=given.attempt),
    )


@on_both_engines
async def test_envoy_that_waits_is_told_of_an_experiment_at_once(federation, clients):
    request = await request_of(federation, "a")
    task = await waiting(clients("a").envoys.WaitExperiment(request))

    await federation.submit(envoys=["a"])
    await federation.admit()
    answer = await at_once(task)

    assert (answer.engagement.experiment_name, answer.engagement.attempt) == ("experiment", 1)


@on_both_engines
async def test_collaborator_that_waits_is_given_its_tasks_at_once(federation, clients):
    fence, _, request = await start(federation)
    task = await waiting(clients("a").rounds.PollTasks(request))

    await federation.drive(fence)
    answer = await at_once(task)

    assert [each.name for each in answer.work.tasks] == ["train", "validate"]


@on_both_engines
async def test_collaborator_that_waits_learns_at_once_that_it_is_over(federation, clients):
    _, given, request = await start(federation)
    task = await waiting(clients("a").rounds.PollTasks(request))

    await federation.process.experiments.cancel(given.experiment_uid, federation.process.caller("researcher"))
    answer = await at_once(task)

    assert answer.quit.reason == "cancelled"


@on_both_engines
async def test_envoy_that_asks_is_given_the_same_experiment_and_the_older_process_stops(federation, clients):
    fence, first, request = await start(federation)
    await federation.drive(fence)
    a, again = clients("a"), await request_of(federation, "a")

    given = (await at_once(a.envoys.WaitExperiment(again))).engagement

    assert (given.experiment_uid, given.attempt) == (first.experiment_uid, first.attempt + 1)
    with refused(StaleAttempt, "handed the experiment again"):
        await a.rounds.PollTasks(request)


@BRIEFLY
async def test_wait_is_answered_empty_when_its_time_is_up(federation, clients):
    _, _, request = await start(federation)
    b = await request_of(federation, "b")

    nothing = await clients("b").envoys.WaitExperiment(b)
    idle = await clients("a").rounds.PollTasks(request)

    assert not nothing.HasField("engagement")
    assert idle.HasField("idle")


async def test_waits_are_answered_empty_at_once_when_the_director_stops(federation, clients):
    _, _, request = await start(federation)
    nothing = await waiting(clients("b").envoys.WaitExperiment(await request_of(federation, "b")))
    idle = await waiting(clients("a").rounds.PollTasks(request))

    await federation.process.drain()

    assert not (await at_once(nothing)).HasField("engagement")
    assert (await at_once(idle)).HasField("idle")


async def test_caller_that_went_away_takes_no_experiment_from_the_one_that_stays(federation, clients):
    request = await request_of(federation, "a")
    gone = await waiting(clients("a").envoys.WaitExperiment(request))
    gone.cancel()
    await asyncio.sleep(0.1)

    await federation.submit(envoys=["a"])
    await federation.admit()

    assert (await at_once(clients("a").envoys.WaitExperiment(request))).engagement.attempt == 1


async def test_wait_of_nobody_known_is_refused(federation, clients):
    await federation.register("b")
    _, given, _ = await start(federation)

    with refused(EnvoyNotFound, "register"):
        await clients("stranger").envoys.WaitExperiment(envoys_pb2.WaitExperimentRequest(envoy="stranger"))
    with refused(NotFound, "does not take part"):
        await clients("b").rounds.PollTasks(
            rounds_pb2.PollTasksRequest(experiment_uid=given.experiment_uid, envoy="b", attempt=1)
        )
    with refused(ExperimentNotFound, "there is no experiment"):
        await clients("a").rounds.PollTasks(rounds_pb2.PollTasksRequest(experiment_uid=NOBODYS, envoy="a", attempt=1))
