"""Sessions begin, end and begin again; an envoy that is told to stop says goodbye."""

import asyncio
import logging
import time
from datetime import timedelta

import pytest

from director.domain.envoy import Engagement
from director.effects import SeededEntropy
from director.envoy import registration as registration_module
from director.envoy.agent import EnvoyAgent, over
from director.envoy.devices import Devices
from director.envoy.heartbeat_loop import HeartbeatLoop, Service
from director.envoy.registration import Registration
from director.envoy.shard_descriptor import ShardDescriptor, ShardSpec
from director.errors import (
    EnvoyNotFound,
    EnvoyRetired,
    InvalidArgument,
    ShardRejected,
    StaleAttempt,
    StaleSession,
    Unavailable,
)
from tests.unit.envoy.scripted_director import ENGAGEMENT, SHARD, UID, serving

RETIRED = EnvoyRetired("envoy 'clinic' is retired; an operator restores it")
STALE = StaleSession("this session has ended")


class Scans(ShardDescriptor):
    sample_shape = target_shape = (1,)

    def get_dataset(self, kind):
        return []


@pytest.fixture
def registration(client) -> Registration:
    return Registration(client, SHARD, SeededEntropy(1))


@pytest.fixture
def heartbeats(client, registration) -> HeartbeatLoop:
    return HeartbeatLoop(client, registration, Devices())


@pytest.fixture
async def agent(director, tmp_path):
    """Make an envoy that runs, and stop it in the end."""
    async with serving(director) as port:
        made = EnvoyAgent(
            "clinic", ShardSpec(f"{__name__}:Scans"), director=f"127.0.0.1:{port}", directory=tmp_path / "work"
        )
        running = asyncio.create_task(made.run())
        yield running
        await stopped(running)


async def stopped(running: "asyncio.Task[None]") -> None:
    running.cancel()
    await asyncio.wait([running])


async def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


def warnings_in(caplog, text: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING and text in each.message]


async def test_heartbeats_go_on_and_register_again_when_the_director_forgot_the_envoy(
    registration, heartbeats, director
):
    director.heartbeats = [None, None, EnvoyNotFound("who?"), Unavailable("away"), None, InvalidArgument("no"), None]
    await registration.begin()

    beating = asyncio.create_task(heartbeats.run())

    await until(lambda: len(director.beats) > 9)
    beating.cancel()

    assert len(director.registered) == 2


async def test_heartbeats_keep_the_period_that_the_director_said_last(registration, heartbeats, director):
    director.session_period = timedelta(seconds=60)
    await registration.begin()
    beating = asyncio.create_task(heartbeats.run())

    await until(lambda: len(director.beats) > 3)
    beating.cancel()


async def test_heartbeat_tells_an_envoy_that_the_director_wants_it_elsewhere(registration, heartbeats, director):
    director.engagement = ENGAGEMENT
    await registration.begin()
    beating = asyncio.create_task(heartbeats.run())

    with heartbeats.serving(ENGAGEMENT) as service:
        await asyncio.sleep(0.3)
        was_over = service.is_over.is_set()
        director.engagement = Engagement(UID, "digits", 3)
        await asyncio.wait_for(service.is_over.wait(), 5)
    beating.cancel()

    assert not was_over
    assert service.wanted == Engagement(UID, "digits", 3)
    assert all(beat.experiment_running for beat in director.beats)


async def test_later_attempt_at_the_same_experiment_means_another_process():
    service = Service(ENGAGEMENT)
    service.compare(Engagement(UID, "digits", 3))

    with pytest.raises(StaleAttempt, match="attempt 3, not 2"):
        await over(service)


async def test_other_experiment_ends_the_service_without_an_error():
    service = Service(ENGAGEMENT)
    service.compare(Engagement("f" * 32, "digits", 1))

    await over(service)


async def test_ended_session_is_one_warning_a_pause_and_another_session(registration, heartbeats, director, caplog):
    director.heartbeats = [STALE, None, STALE, None]
    await registration.begin()
    began = time.monotonic()
    beating = asyncio.create_task(heartbeats.run())

    await until(lambda: len(director.registered) == 3)
    seconds = time.monotonic() - began
    await until(lambda: director.beats[-1].session_id == "session-3")
    beating.cancel()

    assert seconds >= 2 * registration_module.AFTER_ERROR_SECONDS
    assert len(warnings_in(caplog, "another process may be running as envoy clinic")) == 1


async def test_sessions_that_end_long_apart_are_a_warning_each(registration, monkeypatch, caplog):
    monkeypatch.setattr(registration_module, "INCIDENT_SECONDS", 0.05)

    registration.suspect(STALE)
    await asyncio.sleep(0.1)
    registration.suspect(STALE)

    assert len(warnings_in(caplog, "another process may be running as envoy clinic")) == 2


async def test_tasks_whose_session_ended_at_the_same_time_begin_one_session_together(registration, director):
    await registration.begin()
    ended = registration.session

    await asyncio.gather(*(registration.renew(ended, STALE) for _ in range(3)))

    assert len(director.registered) == 2
    assert registration.session.id == "session-2"


async def test_retired_envoy_asks_slowly_says_so_once_and_works_again_when_restored(registration, director, caplog):
    director.registrations = [RETIRED] * 4
    began = time.monotonic()

    await registration.begin()

    assert time.monotonic() - began >= 4 * 0.5 * registration_module.RETIRED_SECONDS
    assert registration.session.id == "session-1"
    assert len(warnings_in(caplog, "is retired")) == 1


async def test_envoy_retired_in_the_middle_of_an_experiment_gives_it_up(registration, heartbeats, director):
    director.engagement = ENGAGEMENT
    director.heartbeats = [None, RETIRED]
    await registration.begin()
    beating = asyncio.create_task(heartbeats.run())

    with heartbeats.serving(ENGAGEMENT) as service:
        await asyncio.wait_for(service.is_over.wait(), 5)
    beating.cancel()

    assert service.wanted is None


async def test_envoy_waits_in_the_session_that_began_last(agent, director):
    director.waits = [STALE, RETIRED, EnvoyNotFound("who?")]

    await until(lambda: len(director.registered) == 4)
    await until(lambda: not director.waits and director.beats and director.beats[-1].session_id == director.session)

    assert not agent.done()


async def test_retired_envoy_does_not_end(agent, director):
    director.heartbeats = [RETIRED]
    director.registrations = [None, RETIRED, RETIRED]

    await until(lambda: len(director.registered) == 4)
    await until(lambda: director.beats[-1].session_id == director.session)

    assert not agent.done()


async def test_envoy_that_may_not_register_again_ends_with_the_reason(agent, director):
    await until(lambda: director.beats)
    director.heartbeats = [EnvoyNotFound("who?")]
    director.registrations = [ShardRejected("its sample_shape is not the federation's")]

    with pytest.raises(ShardRejected):
        await asyncio.wait_for(agent, 5)


async def test_cancelled_envoy_says_goodbye_in_its_session(agent, director):
    await until(lambda: director.beats)

    await stopped(agent)

    assert director.left == ["session-1"]


async def test_envoy_ends_within_seconds_when_no_director_hears_its_goodbye(agent, director):
    await until(lambda: director.beats)
    director.leaving_takes = 60
    before = time.monotonic()

    await stopped(agent)

    assert 1.5 < time.monotonic() - before < 4
    assert agent.cancelled()


async def test_envoy_without_a_session_has_no_goodbye_to_say(registration, director):
    await registration.end()

    assert director.left == []
