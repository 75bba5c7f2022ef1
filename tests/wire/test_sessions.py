"""Sessions of envoys: a goodbye is heard at once, and nothing that an older session says changes anything."""

import asyncio
from typing import Any

import pytest

from director.domain.envoy import Session
from director.errors import EnvoyNotFound, Forbidden, InvalidArgument, StaleSession
from director.v1 import envoys_pb2, federation_pb2
from tests.tables import event_rows
from tests.wire.calls import AT_ONCE, Client, on_both_engines, refused
from tests.world import World


class Calls:
    """The calls of envoy "a", in any session."""

    def __init__(self, federation: World, client: Client) -> None:
        self.federation = federation
        self.client = client

    async def register(self, **shard: Any) -> Session:
        """Begin a session."""
        request = envoys_pb2.RegisterShardRequest(shard=envoys_pb2.Shard(**{"envoy": "a", "samples": 10} | shard))
        answer = await self.client.envoys.RegisterShard(request)
        return Session(answer.session_id, answer.heartbeat_period.ToTimedelta())

    async def beat(self, session: str, *, running: bool = False) -> envoys_pb2.HeartbeatResponse:
        request = envoys_pb2.HeartbeatRequest(envoy="a", session_id=session, experiment_running=running)
        return await self.client.envoys.Heartbeat(request)

    async def wait(self, session: str) -> envoys_pb2.WaitExperimentResponse:
        return await self.client.envoys.WaitExperiment(envoys_pb2.WaitExperimentRequest(envoy="a", session_id=session))

    async def leave(self, session: str) -> None:
        await self.client.envoys.Leave(envoys_pb2.LeaveRequest(envoy="a", session_id=session))

    async def seen(self) -> federation_pb2.Envoy:
        """Return the envoy as everybody sees it."""
        [found] = (await self.client.federation.ListEnvoys(federation_pb2.ListEnvoysRequest(names=["a"]))).envoys
        return found

    async def history(self) -> list[str]:
        """Return what happened to the envoy."""
        return [event.kind for event in await event_rows.of_the_federation(self.federation.db) if event.actor == "a"]


@pytest.fixture
def a(federation: World, clients: Any) -> Calls:
    return Calls(federation, clients("a"))


async def waiting(call: Any) -> "asyncio.Future[Any]":
    """Begin a call, and see that it waits."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    return task


async def test_each_registration_begins_another_session(a):
    first, second = await a.register(), await a.register()

    assert len(first.id) == 32
    assert first.id != second.id
    assert first.period.total_seconds() == 60


@on_both_engines
async def test_envoy_that_says_goodbye_is_offline_at_once(a):
    session = await a.register()
    before = (await a.seen()).online

    await a.leave(session.id)

    assert (before, (await a.seen()).online) == (True, False)
    assert await a.history() == ["shard_registered", "envoy_online", "envoy_left"]


async def test_goodbye_is_harmless_when_it_is_repeated_or_comes_from_a_stranger(a):
    session = await a.register()

    for _ in range(3):
        await a.leave(session.id)

    assert (await a.history()).count("envoy_left") == 1
    stranger = a.client.envoys.Leave(envoys_pb2.LeaveRequest(envoy="b", session_id=session.id))
    with refused(Forbidden):
        await stranger


@on_both_engines
async def test_envoy_that_left_is_given_no_new_experiment_until_it_registers_again(federation, a):
    session = await a.register()
    await a.leave(session.id)

    submitted = await federation.submit(envoys=["a"])
    await federation.admit()
    before = (await federation.row(submitted.uid)).state
    with refused(StaleSession):
        await a.wait(session.id)
    again = await a.register()
    await federation.admit()
    given = await a.wait(again.id)

    assert before == "pending"
    assert given.engagement.experiment_uid == submitted.uid


@on_both_engines
async def test_late_goodbye_does_not_hide_the_successor(a):
    older, newer = await a.register(), await a.register()

    await a.leave(older.id)

    assert (await a.seen()).online
    assert "envoy_left" not in await a.history()
    assert await a.beat(newer.id)


@on_both_engines
async def test_late_heartbeat_of_an_older_session_changes_nothing(a):
    older, newer = await a.register(), await a.register()
    await a.beat(newer.id, running=True)
    before = await a.seen()

    with refused(StaleSession, "has ended"):
        await a.beat(older.id, running=False)

    assert await a.seen() == before
    assert before.experiment_running


@on_both_engines
async def test_late_heartbeat_does_not_bring_back_an_envoy_that_left(a):
    session = await a.register()
    await a.leave(session.id)
    before = await a.seen()

    with refused(StaleSession, "register its shard"):
        await a.beat(session.id)

    assert await a.seen() == before
    assert not before.online


@pytest.mark.parametrize("session", ["", "0" * 32, "x" * 10_000])
async def test_call_without_its_session_is_refused(a, session):
    await a.register()

    with refused(StaleSession):
        await a.beat(session)
    with refused(StaleSession):
        await a.wait(session)
    await a.leave(session)

    assert (await a.seen()).online


@on_both_engines
async def test_wait_ends_when_its_session_does(a):
    older = await a.register()
    first = await waiting(a.wait(older.id))
    newer = await a.register()
    with refused(StaleSession):
        await asyncio.wait_for(first, AT_ONCE)

    second = await waiting(a.wait(newer.id))
    await a.leave(newer.id)

    with refused(StaleSession):
        await asyncio.wait_for(second, AT_ONCE)


async def test_envoy_that_never_registered_has_no_session(a):
    for call in (a.beat, a.wait):
        with refused(EnvoyNotFound, "register its shard first"):
            await call("0" * 32)
    await a.leave("0" * 32)


async def test_versions_of_sdk_and_python_are_shown_as_they_were_told(a):
    shard = envoys_pb2.Shard(envoy="a", samples=10)
    request = envoys_pb2.RegisterShardRequest(shard=shard, sdk_version="0.3.0", python_version="3.13.1")
    await a.client.envoys.RegisterShard(request)

    seen = await a.seen()

    assert (seen.sdk_version, seen.python_version) == ("0.3.0", "3.13.1")
    assert (seen.shard, seen.HasField("retire_time")) == (shard, False)
    assert seen.register_time.ToDatetime() <= seen.last_seen_time.ToDatetime()


@on_both_engines
async def test_devices_of_the_last_heartbeat_are_shown(a):
    session = await a.register()
    devices = [
        envoys_pb2.Device(index=0, name="A100", memory_total_bytes=1 << 40, memory_used_bytes=7, utilization=0.0),
        envoys_pb2.Device(index=1, name="Größe", driver_version="570.1"),
    ]
    for sent in (devices[:1], devices):
        request = envoys_pb2.HeartbeatRequest(envoy="a", session_id=session.id, devices=sent)
        await a.client.envoys.Heartbeat(request)

    seen = list((await a.seen()).devices)

    assert seen == devices
    assert [device.HasField("utilization") for device in seen] == [True, False]


@pytest.mark.parametrize(
    ("devices", "match"),
    [
        ([envoys_pb2.Device()] * 65, "65 devices; at most 64"),
        ([envoys_pb2.Device(name="x" * 70_000)], "more than 65536 characters"),
        ([envoys_pb2.Device(utilization=float("nan"))], "devices"),
        ([envoys_pb2.Device(name="\0")], "devices"),
    ],
    ids=["too many", "too long", "not a number", "NUL"],
)
async def test_devices_that_cannot_be_stored_are_refused(a, devices, match):
    session = await a.register()
    request = envoys_pb2.HeartbeatRequest(envoy="a", session_id=session.id, devices=devices)

    with refused(InvalidArgument, match):
        await a.client.envoys.Heartbeat(request)

    assert list((await a.seen()).devices) == []
