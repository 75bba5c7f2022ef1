"""A supervised loop goes on whatever ends it, and says so sparingly."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from director.effects import ManualClock, SeededEntropy
from director.errors import DiskFull, Unavailable
from director.services import supervision
from director.services.supervision import (
    KINDS,
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    Succeeded,
    Trouble,
    every,
    supervise,
    supervise_all,
)

MINUTE = timedelta(minutes=1)


class Ended(BaseException):
    """Not an Exception."""


async def raise_a_defect() -> None:
    raise ZeroDivisionError("no such luck")


async def raise_an_outage() -> None:
    raise Unavailable("the database is away")


async def raise_what_is_no_exception() -> None:
    raise Ended("at once")


async def raise_a_cancellation() -> None:
    raise asyncio.CancelledError


async def cancel_the_loop() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def return_at_once() -> None:
    pass


WAYS_TO_END = [
    raise_a_defect,
    raise_an_outage,
    raise_what_is_no_exception,
    raise_a_cancellation,
    cancel_the_loop,
    return_at_once,
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", 0.0)


@pytest.fixture
def trouble(clock: ManualClock) -> Trouble:
    return Trouble("work", SeededEntropy(1), now=lambda: clock.now().timestamp())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


async def stop(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def ended_at_first(way: Callable[[], Awaitable[None]], *, times: int) -> None:
    """Supervise a loop that ends in some way the first times; wait until it has then succeeded."""
    begun, succeeding = 0, asyncio.Event()

    async def loop(succeeded: Succeeded) -> None:
        nonlocal begun
        begun += 1
        if begun <= times:
            await way()
            return
        succeeded()
        succeeding.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(supervise("work", loop, SeededEntropy(1)))
    async with asyncio.timeout(10):
        await succeeding.wait()
    await stop(task)
    assert begun == times + 1


@pytest.mark.parametrize("way", WAYS_TO_END)
@pytest.mark.usefixtures("impatient")
async def test_loop_is_started_again_whatever_ends_it_and_that_is_logged_once(
    way: Callable[[], Awaitable[None]], logged: pytest.LogCaptureFixture
) -> None:
    await ended_at_first(way, times=5)

    beginning, end = logged.records
    assert beginning.getMessage().startswith("work: ")
    assert beginning.levelno == (logging.WARNING if way is raise_an_outage else logging.ERROR)
    assert end.getMessage() == "work: back to normal after 5 failures in 0 s"


@pytest.mark.usefixtures("impatient")
async def test_one_loop_that_fails_stops_no_other() -> None:
    passes = asyncio.Queue[None]()

    async def failing(_succeeded: Succeeded) -> None:
        raise KeyError("always")

    async def work() -> None:
        passes.put_nowait(None)

    task = asyncio.create_task(supervise_all({"failing": failing, "working": every(0, work)}, SeededEntropy(1)))
    async with asyncio.timeout(10):
        for _ in range(20):
            await passes.get()

    assert not task.done()
    await stop(task)


async def test_loop_that_is_stopped_has_ended_when_its_supervisor_has() -> None:
    begun, steps = asyncio.Event(), list[str]()

    async def loop(_succeeded: Succeeded) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    task = asyncio.create_task(supervise("work", loop, SeededEntropy(1)))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    await stop(task)

    assert steps == ["cleaned up"]


async def test_loop_that_is_stopped_while_it_rests_is_not_started_again() -> None:
    begun = asyncio.Queue[None]()

    async def loop(_succeeded: Succeeded) -> None:
        begun.put_nowait(None)
        raise KeyError("always")

    task = asyncio.create_task(supervise("work", loop, SeededEntropy(1)))
    await begun.get()
    await asyncio.sleep(0.01)
    await stop(task)

    assert begun.empty()


async def test_each_pass_of_some_work_that_raises_nothing_succeeds() -> None:
    steps = list[str]()

    async def work() -> None:
        steps.append("work")
        if len(steps) == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await every(0, work)(lambda: steps.append("succeeded"))

    assert steps == ["work", "succeeded", "work", "succeeded", "work"]


@pytest.mark.parametrize("seed", range(5))
def test_pauses_grow_to_a_bound_and_each_is_shortened_by_chance(seed: int) -> None:
    trouble = Trouble("work", SeededEntropy(seed))

    pauses = [trouble.failed(KeyError()) for _ in range(2000)]

    for number, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(number, 10))
        assert longest / 2 < pause <= longest
    assert len({*pauses}) > 1000


def test_pause_after_a_success_is_a_short_one_again(trouble: Trouble) -> None:
    for _ in range(10):
        trouble.failed(KeyError())
    trouble.succeeded()

    assert trouble.failed(KeyError()) <= SHORTEST_PAUSE


def test_defect_is_logged_with_its_traceback_and_once(trouble: Trouble, logged: pytest.LogCaptureFixture) -> None:
    for _ in range(10):
        trouble.failed(ZeroDivisionError("no such luck"))

    [record] = logged.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "work: failed, trying again: ZeroDivisionError: no such luck"
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", [Unavailable, DiskFull])
def test_what_passes_by_itself_is_logged_without_a_traceback_and_once(
    trouble: Trouble, logged: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    for _ in range(10):
        trouble.failed(kind("not now"))

    [record] = logged.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "work: waiting: not now"
    assert not record.exc_info


def test_trouble_that_goes_on_is_logged_once_a_minute_with_a_count_and_when_it_ends(
    trouble: Trouble, clock: ManualClock, logged: pytest.LogCaptureFixture
) -> None:
    for _ in range(181):
        trouble.failed(Unavailable("away"))
        clock.advance(timedelta(seconds=1))
    trouble.succeeded()
    trouble.succeeded()

    assert logged.messages == [
        "work: waiting: away",
        "work: 61 failures in 60 s, most recently: Unavailable: away",
        "work: 121 failures in 120 s, most recently: Unavailable: away",
        "work: 181 failures in 180 s, most recently: Unavailable: away",
        "work: back to normal after 181 failures in 181 s",
    ]
    assert not any(record.exc_info for record in logged.records)


def test_other_trouble_is_logged_too_but_not_each_time_that_they_alternate(
    trouble: Trouble, logged: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        trouble.failed(Unavailable("away"))
        trouble.failed(Unavailable("refused"))

    assert logged.messages == ["work: waiting: away", "work: waiting: refused"]


def test_errors_that_differ_each_time_are_not_all_logged(trouble: Trouble, logged: pytest.LogCaptureFixture) -> None:
    for number in range(10 * KINDS):
        trouble.failed(Unavailable(f"at port {number}"))

    assert len(logged.records) == KINDS


def test_trouble_that_comes_and_goes_is_logged_once_a_minute(
    trouble: Trouble, clock: ManualClock, logged: pytest.LogCaptureFixture
) -> None:
    for _ in range(120):
        trouble.failed(Unavailable("away"))
        trouble.succeeded()
        clock.advance(timedelta(seconds=1))

    assert logged.messages == ["work: waiting: away", "work: back to normal after 1 failure in 0 s"] * 2


def test_success_without_trouble_is_not_logged(trouble: Trouble, logged: pytest.LogCaptureFixture) -> None:
    trouble.succeeded()

    assert logged.messages == []
