"""Operators retire and restore envoys: what a retired envoy is told, and what no longer waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from director.client import Federation
from director.errors import EnvoyNotFound, EnvoyRetired, Forbidden, InvalidArgument
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, federation_pb2, rounds_pb2
from tests.store.words import owned
from tests.wire.calls import AT_ONCE, Client, gather, on_both_engines, refused
from tests.world import PLAN


@pytest.fixture
def retire(clients: Any) -> Callable[..., Any]:
    """Retires an envoy, by default as an operator."""

    def call(envoy: str, *, caller: str = "operator") -> Any:
        return clients(caller).federation.RetireEnvoy(federation_pb2.RetireEnvoyRequest(envoy=envoy))

    return call


@pytest.fixture
def restore(clients: Any) -> Callable[..., Any]:
    """Restores an envoy, by default as an operator."""

    def call(envoy: str, *, caller: str = "operator") -> Any:
        return clients(caller).federation.RestoreEnvoy(federation_pb2.RestoreEnvoyRequest(envoy=envoy))

    return call


async def listed(client: Client, **wanted: Any) -> list[str]:
    answer = await client.federation.ListEnvoys(federation_pb2.ListEnvoysRequest(**wanted))
    return [each.shard.envoy for each in answer.envoys]


@on_both_engines
async def test_retired_envoy_is_offline_at_once_and_listed_only_where_that_is_asked_for(federation, clients, retire):
    await federation.register("a", "b")

    answer = await retire("a")

    assert (answer.shard.envoy, answer.online, answer.HasField("retire_time")) == ("a", False, True)
    assert await listed(clients("anybody")) == ["b"]
    assert await listed(clients("anybody"), show_retired=True) == ["a", "b"]
    assert await listed(clients("anybody"), names=["a"]) == []


async def test_only_operators_retire_and_restore(federation, retire, restore):
    await federation.register("a")

    for call in (retire, restore):
        for caller in ("researcher", "a"):
            with refused(Forbidden, "only operators"):
                await call("a", caller=caller)
        with refused(EnvoyNotFound):
            await call("nobody")


@on_both_engines
async def test_retiring_and_restoring_again_change_nothing(federation, clients, retire, restore):
    await federation.register("a")

    first, second = await retire("a"), await retire("a")
    third, fourth = await restore("a"), await restore("a")

    assert first == second
    assert third == fourth
    assert not third.HasField("retire_time")
    kinds = [event.kind async for event in federation_events(clients("operator"))]
    assert [kind for kind in kinds if kind.startswith("envoy_re")] == ["envoy_retired", "envoy_restored"]


async def federation_events(client: Client) -> Any:
    request = federation_pb2.StreamFederationEventsRequest()
    for batch in await gather(client.federation.StreamFederationEvents(request)):
        for event in batch.events:
            yield event


CALLS: dict[str, Callable[[Client, str, str], Any]] = {
    "RegisterShard": lambda a, _session, _uid: a.envoys.RegisterShard(
        envoys_pb2.RegisterShardRequest(shard=envoys_pb2.Shard(envoy="a"))
    ),
    "Heartbeat": lambda a, session, _uid: a.envoys.Heartbeat(
        envoys_pb2.HeartbeatRequest(envoy="a", session_id=session)
    ),
    "WaitExperiment": lambda a, session, _uid: a.envoys.WaitExperiment(
        envoys_pb2.WaitExperimentRequest(envoy="a", session_id=session)
    ),
    "DownloadArchive": lambda a, _session, uid: gather(
        a.envoys.DownloadArchive(envoys_pb2.DownloadArchiveRequest(envoy="a", experiment_uid=uid))
    ),
    "ReportFailure": lambda a, _session, uid: a.envoys.ReportFailure(
        envoys_pb2.ReportFailureRequest(
            envoy="a", experiment_uid=uid, attempt=1, failure=common_pb2.Failure(message="no")
        )
    ),
}


@on_both_engines
@pytest.mark.parametrize("name", CALLS)
async def test_retired_envoy_is_refused_in_whatever_it_says(federation, clients, retire, name):
    await federation.drive(await owned(federation))
    given = await federation.wait("a")
    [session] = await federation.register("a")
    await retire("a")

    with refused(EnvoyRetired, "an operator restores it"):
        await CALLS[name](clients("a"), session.id, given.experiment_uid)


async def test_goodbye_of_a_retired_envoy_is_harmless(federation, clients, retire):
    [session] = await federation.register("a")
    before = await retire("a")

    await clients("a").envoys.Leave(envoys_pb2.LeaveRequest(envoy="a", session_id=session.id))

    assert await retire("a") == before


@on_both_engines
async def test_envoy_that_waits_is_told_at_once_that_it_is_retired(federation, clients, retire):
    [session] = await federation.register("a")
    request = envoys_pb2.WaitExperimentRequest(envoy="a", session_id=session.id)
    waiting = asyncio.ensure_future(clients("a").envoys.WaitExperiment(request))
    await asyncio.sleep(0.2)

    await retire("a")

    with refused(EnvoyRetired):
        await asyncio.wait_for(waiting, AT_ONCE)


@on_both_engines
async def test_restored_envoy_works_again_once_it_registers(federation, clients, retire, restore):
    [before] = await federation.register("a")
    await retire("a")

    restored = await restore("a")
    offline = restored.online
    [session] = await federation.register("a")
    answer = await clients("a").envoys.Heartbeat(envoys_pb2.HeartbeatRequest(envoy="a", session_id=session.id))

    assert not offline
    assert before.id != session.id
    assert answer.period.seconds == 60
    assert await listed(clients("anybody"), online=True) == ["a"]


@on_both_engines
async def test_running_experiment_goes_on_without_a_retired_envoy(federation, clients, retire):
    fence = await owned(federation, plan=PLAN + "min_collaborators: 1\n")
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    uid = given["a"].experiment_uid

    await retire("a")

    told = await clients("a").rounds.PollTasks(rounds_pb2.PollTasksRequest(experiment_uid=uid, envoy="a", attempt=1))
    await federation.finish_round({"b": given["b"]})
    await federation.drive(fence)
    shown = await clients("researcher").experiments.GetExperiment(
        experiments_pb2.GetExperimentRequest(experiment_uid=uid)
    )
    assert "an operator retired this envoy" in told.quit.reason
    assert (shown.round, shown.collaborator_counts.failed) == (2, 1)
    collaborators = await clients("researcher").experiments.ListCollaborators(
        experiments_pb2.ListCollaboratorsRequest(experiment_uid=uid)
    )
    assert collaborators.collaborators[0].failure.message == "an operator retired this envoy"


async def test_retired_envoy_cannot_be_named_as_a_collaborator(federation, port, retire, workspace):
    await federation.register("a", "b")
    await retire("a")

    def submit() -> None:
        with Federation(f"127.0.0.1:{port}", client_id="researcher") as far:
            far.submit("one", workspace=workspace, model={"w": [1.0]}, collaborators=["a", "b"])

    with pytest.raises(InvalidArgument, match="no envoy is registered as 'a'"):
        await asyncio.to_thread(submit)


async def test_client_retires_and_restores(federation, port):
    await federation.register("a")

    def deeds() -> tuple[Any, ...]:
        with Federation(f"127.0.0.1:{port}", client_id="operator") as far:
            retired, hidden = far.retire_envoy("a"), list(far.envoys())
            [shown] = far.envoys(show_retired=True)
            return retired, hidden, shown, far.restore_envoy("a")

    retired, hidden, shown, restored = await asyncio.to_thread(deeds)

    assert retired.retired_at is not None
    assert (hidden, shown) == ([], retired)
    assert restored.retired_at is None
