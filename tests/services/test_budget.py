"""The budget of bytes: never exceeded, first come first served, and nothing of it is ever lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.services.budget import Budget


async def taking(budget: Budget, size: int, order: list[int], release: asyncio.Event) -> None:
    async with budget.hold(size):
        order.append(size)
        await release.wait()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def release() -> asyncio.Event:
    return asyncio.Event()


async def test_what_fits_is_given_at_once() -> None:
    budget = Budget(100)

    async with AsyncExitStack() as stack, asyncio.timeout(1):
        for _ in range(4):
            await stack.enter_async_context(budget.hold(25))


async def test_what_does_not_fit_waits_until_there_is_room(release: asyncio.Event) -> None:
    budget, order = Budget(100), list[int]()

    async with budget.hold(60):
        waiting = asyncio.create_task(taking(budget, 50, order, release))
        await settle()
        assert order == []
    await settle()

    assert order == [50]
    release.set()
    await waiting


async def test_small_request_does_not_pass_by_a_large_one_that_came_first(release: asyncio.Event) -> None:
    budget, order = Budget(100), list[int]()

    async with budget.hold(60):
        tasks = [asyncio.create_task(taking(budget, size, order, release)) for size in (80, 10, 10)]
        await settle()
        assert order == []
    await settle()

    assert order == [80, 10, 10]
    release.set()
    await asyncio.gather(*tasks)


async def test_request_for_more_than_there_is_gets_all_of_it(release: asyncio.Event) -> None:
    budget, order = Budget(100), list[int]()

    async with budget.hold(1_000_000):
        waiting = asyncio.create_task(taking(budget, 1, order, release))
        await settle()
        assert order == []
    await settle()

    assert order == [1]
    release.set()
    await waiting


async def test_one_that_gives_up_waiting_lets_those_behind_it_pass(release: asyncio.Event) -> None:
    budget, order = Budget(100), list[int]()

    async with budget.hold(60):
        large, small = (asyncio.create_task(taking(budget, size, order, release)) for size in (80, 10))
        await settle()
        large.cancel()
        await settle()
        assert order == [10]
    release.set()

    await small
    assert large.cancelled()


async def test_permit_that_came_just_when_its_waiter_gave_up_is_not_lost(release: asyncio.Event) -> None:
    budget, order = Budget(100), list[int]()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(budget.hold(100))
        granted = asyncio.create_task(taking(budget, 100, order, release))
        await settle()
        await stack.aclose()  # the permit is given in this moment
        granted.cancel()
        await settle()

    async with asyncio.timeout(1), budget.hold(100):
        assert order == []


async def test_error_gives_the_bytes_back() -> None:
    budget = Budget(100)

    with pytest.raises(ValueError, match="on purpose"):
        async with budget.hold(100):
            raise ValueError("on purpose")

    async with asyncio.timeout(1), budget.hold(100):
        pass


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 3), st.booleans()), max_size=12))
@settings(max_examples=50)
def test_never_more_is_held_than_there_is_and_all_of_it_comes_back(requests: list[tuple[int, int, bool]]) -> None:
    held, most = 0, 0

    async def hold(budget: Budget, size: int, turns: int) -> None:
        nonlocal held, most
        async with budget.hold(size):
            held += min(size, 100)
            most = max(most, held)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                held -= min(size, 100)

    async def all_of_them() -> None:
        budget = Budget(100)
        tasks = [(asyncio.create_task(hold(budget, size, turns)), given_up) for size, turns, given_up in requests]
        await asyncio.sleep(0)
        for task, given_up in tasks:
            if given_up:
                task.cancel()
        await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        async with asyncio.timeout(1), budget.hold(100):
            pass

    asyncio.run(all_of_them())

    assert most <= 100
