"""Wakeups on topics shorten waits, and are never waited for in vain."""

import asyncio

from director.services.wakeups import Wakeups
from director.store.engine.topics import Topic
from tests.world import World

EXPERIMENT = Topic.experiment(1)
ENVOY = Topic.envoy("a")


async def test_waiter_is_woken_by_any_of_its_topics() -> None:
    wakeups = Wakeups()

    with wakeups.listen(EXPERIMENT, ENVOY) as wakeup:
        for topic in (EXPERIMENT, ENVOY):
            wakeup.clear()
            wakeups.wake([topic])
            assert await wakeup.wait(1)


async def test_waiter_is_not_woken_by_what_does_not_concern_it() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as wakeup:
        wakeups.wake([EXPERIMENT, Topic.envoy("b")])

        assert not await wakeup.wait(0)


async def test_wakeup_that_comes_between_the_look_and_the_wait_is_not_lost() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as wakeup:
        wakeup.clear()
        wakeups.wake([ENVOY])

        assert await wakeup.wait(0)


async def test_everybody_who_listens_is_woken() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as one, wakeups.listen(ENVOY) as two:
        wakeups.wake([ENVOY])

        assert await one.wait(0)
        assert await two.wait(0)


async def test_who_stopped_listening_is_forgotten() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as wakeup:
        pass
    wakeups.wake([ENVOY])
    wakeups.wake_all()

    assert not await wakeup.wait(0)


async def test_all_are_woken_when_wakeups_may_have_been_missed() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as one, wakeups.listen(EXPERIMENT) as two:
        wakeups.wake_all()

        assert await one.wait(0)
        assert await two.wait(0)


async def test_closing_wakes_everybody() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as wakeup:
        wakeups.close()

        assert await wakeup.wait(0)
    assert wakeups.closing


async def test_other_processes_are_told_what_this_one_committed_and_nothing_that_they_told() -> None:
    wakeups, told = Wakeups(), list[Topic]()
    wakeups.relay = told.extend

    wakeups.committed([ENVOY])
    wakeups.committed([])
    wakeups.wake([EXPERIMENT])

    assert told == [ENVOY]


async def test_commit_wakes_whom_it_concerns(federation: World) -> None:
    wakeups = federation.process.runtime.wakeups

    with wakeups.listen(Topic.admission()) as admission, wakeups.listen(ENVOY) as envoy:
        await federation.register("a")

        assert await admission.wait(0)
        assert await envoy.wait(0)


async def test_wait_that_is_cancelled_leaves_the_waiter_usable() -> None:
    wakeups = Wakeups()

    with wakeups.listen(ENVOY) as wakeup:
        waiting = asyncio.create_task(wakeup.wait(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        wakeups.wake([ENVOY])

        assert await wakeup.wait(0)
