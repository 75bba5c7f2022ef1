"""Things that run side by side end in order, also when they are cancelled, once or twice."""

import asyncio
import threading

import pytest

from director.envoy.side_by_side import in_daemon_thread, until_first


async def test_first_to_end_stops_the_others_and_waits_for_what_they_clean_up():
    cleaned = []

    async def quick() -> None:
        await asyncio.sleep(0.01)

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append("slow")

    await until_first(quick(), slow())

    assert cleaned == ["slow"]


async def test_error_of_the_first_to_end_is_raised():
    async def failing() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await until_first(failing(), asyncio.sleep(60))


async def test_second_cancellation_does_not_cut_the_cleaning_up_short():
    cleaned = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append("slow")

    running = asyncio.create_task(until_first(slow(), asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await running

    assert cleaned == ["slow"]


async def test_daemon_thread_answers_or_raises():
    assert await in_daemon_thread(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(divmod, 7, 0)


async def test_daemon_thread_that_is_not_waited_for_any_more_does_no_harm():
    go = threading.Event()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(in_daemon_thread(go.wait), 0.01)
    go.set()
    await asyncio.sleep(0.05)
