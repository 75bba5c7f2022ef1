"""The envoy's calls against a director that goes away or refuses, over a real port."""

import asyncio
import platform
import time
from datetime import timedelta

import grpc
import pytest

from director.domain.commands import Contribute, Heartbeat
from director.domain.envoy import Device, Session
from director.domain.experiment import Failure
from director.domain.tasks import Task
from director.domain.types import TaskKind
from director.domain.work import Idle, Quit, Work
from director.effects import SeededEntropy
from director.envoy import connections
from director.envoy.connections import pauses, until_answered
from director.errors import (
    DiskFull,
    EnvoyNotFound,
    EnvoyRetired,
    ExperimentNotFound,
    InvalidArgument,
    LeaseLost,
    Overloaded,
    StaleAttempt,
    StaleSession,
    TooLarge,
    Unavailable,
)
from director.v1 import envoys_pb2
from director.version import __version__
from director.wire import codec
from tests.unit.envoy.scripted_director import ENGAGEMENT, MANIFEST, PAYLOAD, SHARD, UID, calling, content_of, serving

FAILURE = Failure("out of memory", task="train", error_type="MemoryError")


async def test_shard_is_registered_with_the_versions_of_the_package_and_of_python(client, director):
    session = await client.register(SHARD)

    assert session == Session("session-1", timedelta(seconds=0.05))
    assert director.registered == [
        envoys_pb2.RegisterShardRequest(
            shard=codec.write_shard(SHARD), sdk_version=__version__, python_version=platform.python_version()
        )
    ]


async def test_heartbeat_carries_the_session_and_the_devices(client, director):
    await client.register(SHARD)
    director.engagement = ENGAGEMENT
    heartbeat = Heartbeat("clinic", True, (Device(0, "A100", utilization=0.5),), "session-1")

    pulse = await client.heartbeat(heartbeat)

    assert pulse.engagement == ENGAGEMENT
    assert codec.read_heartbeat(director.beats[0]) == heartbeat


async def test_experiment_is_told_and_none_is_none(client, director):
    session = await client.register(SHARD)

    nothing = await client.wait_experiment(session)
    director.engagement = ENGAGEMENT
    something = await client.wait_experiment(session)

    assert nothing is None
    assert something == ENGAGEMENT


async def test_wait_in_a_session_that_has_ended_is_refused(client):
    session = await client.register(SHARD)
    await client.register(SHARD)

    with pytest.raises(StaleSession, match="session-1 has ended"):
        await client.wait_experiment(session)


async def test_goodbye_carries_the_session(client, director):
    await client.leave(await client.register(SHARD))

    assert director.left == ["session-1"]


async def test_goodbye_is_tried_once(unused_tcp_port):
    before = time.monotonic()

    async with calling(unused_tcp_port) as client:
        with pytest.raises(Unavailable):
            await client.leave(Session("session-1", timedelta(seconds=1)))

    assert time.monotonic() - before < 2.5


async def test_tasks_are_read_with_their_settings(client, director):
    tasks = (Task("train", TaskKind.TRAIN, "a:b", {"rate": 0.5}), Task("check", TaskKind.VALIDATE, "a:c", {}))
    work = Work(3, 2, content_of(PAYLOAD), MANIFEST.digest, tasks)
    director.answers = [work, Quit("finished")]

    answers = [await client.poll_tasks(ENGAGEMENT) for _ in range(3)]

    asked = director.requests[0]
    assert answers == [work, Quit("finished"), Idle()]
    assert (asked.experiment_uid, asked.envoy, asked.attempt) == (UID, "clinic", 2)


async def test_failure_is_told_with_task_error_and_message_apart(client, director):
    await client.report_failure(ENGAGEMENT, FAILURE)

    told = director.failures[0]
    assert (told.experiment_uid, told.envoy, told.attempt) == (UID, "clinic", 2)
    assert codec.read_failure(told.failure) == FAILURE


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("shutting down"),
        Overloaded("too many"),
        DiskFull("no room"),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ],
)
async def test_call_that_may_succeed_later_is_repeated_until_it_does(client, director, failure):
    director.script = [failure] * 3

    await client.report_failure(ENGAGEMENT, FAILURE)

    assert len(director.requests) == 4


@pytest.mark.parametrize(
    "answer",
    [
        EnvoyNotFound("who?"),
        EnvoyRetired("restore it first"),
        ExperimentNotFound("which?"),
        StaleAttempt("handed out again"),
        LeaseLost("not mine"),
        InvalidArgument("no"),
        TooLarge("too large"),
    ],
)
async def test_answer_that_stays_the_same_is_raised_as_the_director_raised_it(client, director, answer):
    director.script = [answer]

    with pytest.raises(type(answer), match=str(answer)):
        await client.report_failure(ENGAGEMENT, FAILURE)

    assert len(director.requests) == 1


@pytest.mark.parametrize("kind", [Overloaded, DiskFull, Unavailable])
async def test_call_is_not_repeated_before_the_delay_that_the_director_asks_for(client, director, kind):
    later = kind("come back")
    later.retry_after = timedelta(seconds=0.5)
    director.script = [later]
    before = time.monotonic()

    await client.report_failure(ENGAGEMENT, FAILURE)

    assert 0.5 <= time.monotonic() - before < 2


async def test_call_goes_to_the_next_address_when_one_is_dead_and_stays_there(director, unused_tcp_port):
    async with serving(director) as port, calling(unused_tcp_port, port) as client:
        await client.report_failure(ENGAGEMENT, FAILURE)
        await client.report_failure(ENGAGEMENT, FAILURE)

        preferred = client._connection._preferred

    assert len(director.requests) == 2
    assert preferred == 1


async def test_call_waits_for_a_director_that_comes_up_later(director, unused_tcp_port):
    async with calling(unused_tcp_port) as client:
        waiting = asyncio.create_task(client.register(SHARD))
        await asyncio.sleep(0.5)
        async with serving(director, unused_tcp_port):
            session = await asyncio.wait_for(waiting, 10)

    assert session.id == "session-1"


async def test_restarted_director_is_found_again_within_seconds(director, unused_tcp_port):
    async with calling(unused_tcp_port) as client:
        for _ in range(3):
            async with serving(director, unused_tcp_port):
                await asyncio.wait_for(client.report_failure(ENGAGEMENT, FAILURE), 10)

    assert len(director.requests) == 3


async def test_outage_is_one_warning_and_its_end_one_line(client, director, caplog):
    director.script = [grpc.StatusCode.UNAVAILABLE] * 4
    caplog.set_level("INFO", logger="director.envoy")

    await client.report_failure(ENGAGEMENT, FAILURE)

    assert [record.levelname for record in caplog.records if record.name == "director.envoy"] == ["WARNING", "INFO"]


async def test_result_without_an_update_is_one_message(client, director):
    director.script = ["held already"]
    result = Contribute(UID, "clinic", 2, 3, "check", samples=5, metrics={"accuracy": 0.75})

    await client.contribute(result, None)

    assert codec.read_contribution(director.contributions[0]) == result
    assert not director.contributions[0].HasField("update")


def test_pauses_grow_to_five_seconds_and_are_jittered_in_full(monkeypatch):
    monkeypatch.setattr(connections, "LONGEST_PAUSE_SECONDS", 5.0)
    waits = pauses(SeededEntropy(1))
    drawn = [next(waits) for _ in range(2000)]

    ceilings = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(drawn, ceilings, strict=False))
    assert 4.9 < max(drawn) <= 5
    assert min(drawn[10:]) < 0.1


async def test_polls_that_are_answered_empty_at_once_do_not_become_a_busy_loop():
    asked = 0

    async def poll() -> str | None:
        nonlocal asked
        asked += 1
        return None

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(until_answered(poll, SeededEntropy(1)), 1)

    assert 3 < asked < 50
