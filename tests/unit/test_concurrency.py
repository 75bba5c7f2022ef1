"""What has begun is finished, and a cancellation is neither lost nor early."""

import asyncio

import pytest

from director.concurrency import uninterrupted


async def test_work_returns_and_raises_as_it_is():
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("mine")

    assert await uninterrupted(asyncio.sleep(0, "answer")) == "answer"
    assert await uninterrupted(asyncio.sleep(0.001, "answer")) == "answer"
    with pytest.raises(ValueError, match="mine"):
        await uninterrupted(failing())


async def test_work_that_is_cancelled_by_itself_ends_as_it_says():
    inner = asyncio.get_running_loop().create_future()

    async def waiting() -> None:
        await inner

    asyncio.get_running_loop().call_soon(inner.cancel)
    with pytest.raises(asyncio.CancelledError):
        await uninterrupted(waiting())


@pytest.mark.parametrize("times", [1, 3])
async def test_work_is_finished_before_the_cancellation_goes_on(times: int):
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        await asyncio.sleep(0)
        done.append("work")

    running = asyncio.ensure_future(uninterrupted(work()))
    for _ in range(times):
        await asyncio.sleep(0.01)
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert done == ["work"]


async def test_cancellation_goes_on_even_if_the_work_fails():
    async def failing() -> None:
        await asyncio.sleep(0.02)
        raise ValueError("mine")

    running = asyncio.ensure_future(uninterrupted(failing()))
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("turns", range(6))
async def test_cancellation_in_the_moment_in_which_the_work_ends_is_not_lost(turns: int):
    answer = asyncio.get_running_loop().create_future()
    done = []

    async def work() -> None:
        await answer
        done.append("work")

    async def caller() -> None:
        await uninterrupted(work())
        await asyncio.sleep(60)

    running = asyncio.create_task(caller())
    await asyncio.sleep(0.01)
    answer.set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)

    assert done == ["work"]


async def test_deadline_around_work_is_kept_once_it_is_done():
    done = []

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.append("work")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await uninterrupted(work())

    assert done == ["work"]
    assert asyncio.current_task().cancelling() == 0


async def test_two_may_wait_for_the_same():
    answer = asyncio.get_running_loop().create_future()

    async def work() -> int:
        return await answer

    asyncio.get_running_loop().call_later(0.01, answer.set_result, 1)

    assert await asyncio.gather(uninterrupted(work()), uninterrupted(work())) == [1, 1]
