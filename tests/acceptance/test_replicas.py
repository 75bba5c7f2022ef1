"""Several directors on one database: whichever dies, hangs, restarts or loses the database, the work is done once."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import asyncpg
import grpc
import pytest

from director.v1 import envoys_pb2
from director.v1.envoys_pb2_grpc import EnvoyServiceStub
from director.wire.channels import aio_channel, sync_channel
from tests.acceptance.material import WARDS
from tests.acceptance.processes import Machine, eventually
from tests.acceptance.replicas import Replicas, begun, pause, resume
from tests.store.words import only_postgresql
from tests.tables import changes, event_rows, everything, locks, presence_rows, round_rows

pytestmark = [only_postgresql, pytest.mark.timeout(240)]

LEASE = 2.0
SLACK = 5.0
"""Units: seconds. For a machine that is busy with other things, too."""


def seconds(instant: datetime, since: datetime) -> float:
    return (instant - since).total_seconds()


@pytest.fixture
def at_work(machine: Machine, migrated_url: str) -> Replicas:
    """Three directors, and two experiments on their way."""
    return begun(machine, migrated_url, lease=LEASE)


def test_third_director_finishes_what_two_began_that_were_killed(at_work: Replicas) -> None:
    victims = {at_work.owner("north"), at_work.owner("south")}
    victims |= set(list(set(at_work.directors) - victims)[: 2 - len(victims)])

    for victim in victims:
        at_work.directors[victim].kill()
    killed = datetime.now(UTC)
    at_work.finish()

    assert at_work.broken_promises() == []
    [survivor] = set(at_work.directors) - victims
    taken = {
        name: at for name, at, details in at_work.happened("experiment_claimed") if details["director"] == survivor
    }
    assert taken.keys() == {"north", "south"}
    assert max(seconds(at, killed) for at in taken.values()) < LEASE + 1 + SLACK


@pytest.mark.system
def test_director_that_wakes_up_after_its_lease_changes_nothing(machine: Machine, migrated_url: str) -> None:
    federation = Replicas(machine, migrated_url, directors=3, lease=LEASE, rounds=2)
    register(federation.addresses[0], *WARDS)
    federation.submit("north")
    owner = federation.owner("north")
    zombie, gate = federation.directors[owner], machine.folder / "gate"
    wards = WARDS | {"rome": WARDS["rome"].gated(gate, round_number=1)}
    federation.start_envoys(wards, but=federation.listening[owner])
    eventually(lambda: len(federation.database.ask(round_rows.given_their_tasks)) == 2, "both are at work")

    held = asyncio.run(stopped_with_the_mutex(federation, zombie.process.pid, gate.touch))

    assert held < 3 + SLACK
    federation.finish()
    ending = federation.database.ask(everything.work)
    resume(zombie)
    zombie.wait_for("it has registered again")
    eventually(lambda: len(federation.database.ask(presence_rows.directors_alive)) == 3, "it is back")
    assert federation.database.ask(everything.work) == ending
    assert federation.broken_promises() == []
    assert [details["fence"] for _, _, details in federation.happened("experiment_claimed")] == [1, 2]


async def stopped_with_the_mutex(federation: Replicas, pid: int, go_on: Any) -> float:
    """Stop an owner in the middle of a transaction; return for how many seconds it holds its experiment's row then."""
    connection, watcher = await asyncpg.connect(federation.database.url), await asyncpg.connect(federation.database.url)
    try:
        async with connection.transaction():
            await locks.take_rounds(connection)
            go_on()
            async with asyncio.timeout(30):
                while not await locks.are_rounds_waited_for(watcher):
                    await asyncio.sleep(0.01)
            os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(asyncpg.LockNotAvailableError):
            await locks.take_experiments(watcher, wait=False)
        await locks.take_experiments(watcher)
        return time.monotonic() - start
    finally:
        await connection.close()
        await watcher.close()


@pytest.mark.system
def test_directors_restarted_one_after_the_other_lose_nothing_and_hand_over_at_once(
    machine: Machine, migrated_url: str
) -> None:
    federation = begun(machine, migrated_url, lease=10)

    for old, address in list(federation.listening.items()):
        assert federation.directors.pop(old).stop() == 0
        federation.start_director(address)
    federation.finish()

    assert federation.broken_promises() == []
    for name in federation.experiments:
        owners = federation.owners(name)
        handed_over = [(one, other) for one, other in pairwise(owners) if one[0] == "experiment_released"]
        assert all(other[0] == "experiment_claimed" for _, other in handed_over)
        assert all(seconds(taken, released) < SLACK for (_, released), (_, taken) in handed_over)
        assert owners[-1][0] == "experiment_claimed"
    assert federation.happened("experiment_released"), "somebody owned something"
    assert federation.database.ask(event_rows.of_kind, "director_reaped") == []


def test_thousand_waiting_envoys_are_answered_before_a_director_stops(machine: Machine, migrated_url: str) -> None:
    federation = Replicas(machine, migrated_url, directors=1, lease=10, rounds=1)
    [director] = federation.directors.values()
    names = [f"envoy-{number}" for number in range(1000)]
    asyncio.run(changes.add_envoys_from_outside(migrated_url, names, session_id=SESSION))

    async def wait_for_all() -> tuple[float, int, list[Any]]:
        channels = [aio_channel(f"ipv4:{federation.addresses[0]}", None, None) for _ in range(10)]
        calls = [
            EnvoyServiceStub(channels[number % 10]).WaitExperiment(
                envoys_pb2.WaitExperimentRequest(envoy=name, session_id=SESSION),
                metadata=[("client_id", name)],
                timeout=60,
            )
            for number, name in enumerate(names)
        ]
        waiting = [asyncio.ensure_future(answer(call)) for call in calls]
        await asyncio.sleep(4)
        assert not any(task.done() for task in waiting)
        start = time.monotonic()
        director.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*waiting)
        status = await asyncio.to_thread(director.process.wait, 30)
        took = time.monotonic() - start
        for channel in channels:
            await channel.close()
        return took, status, answers

    took, status, answers = asyncio.run(wait_for_all())

    assert answers == [envoys_pb2.WaitExperimentResponse()] * 1000
    assert status == 0
    assert took < 10


async def answer(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.RpcError as error:
        return error.code()


def register(address: str, *names: str) -> None:
    """Register envoys that do nothing yet."""
    for name in names:
        with sync_channel(address, None, name) as channel:
            shard = envoys_pb2.Shard(envoy=name, samples=1, sample_shape=[3])
            EnvoyServiceStub(channel).RegisterShard(envoys_pb2.RegisterShardRequest(shard=shard), timeout=20)


SESSION = "5" * 32
KILLS = int(os.environ.get("DIRECTOR_KILLS", "40"))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_directors_killed_frozen_and_restarted_at_random_lose_nothing(machine: Machine, migrated_url: str) -> None:
    seed = int(os.environ.get("DIRECTOR_SEED", random.randrange(1 << 32)))
    print(f"DIRECTOR_SEED={seed} DIRECTOR_KILLS={KILLS}")
    chance = random.Random(seed)
    federation = begun(machine, migrated_url, lease=10)

    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 8))
        victim = chance.choice(list(federation.directors))
        process, address = federation.directors.pop(victim), federation.listening.pop(victim)
        match chance.choice(("kill", "stop", "freeze")):
            case "kill":
                process.kill()
            case "stop":
                assert process.stop() == 0
            case "freeze":
                pause(process)
                time.sleep(chance.uniform(8, 25))
                resume(process)
                federation.directors[victim], federation.listening[victim] = process, address
                continue
        federation.start_director(address)
    federation.finish(seconds=600)

    assert federation.broken_promises() == []
