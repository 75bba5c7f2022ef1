"""The laws of a batcher: arrival order, a bound, one outcome for each caller, and nothing lost."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.services.batching import Batcher

Submitted = list["asyncio.Task[Any]"]


class Flushes:
    """Flushes that last until the test lets them go on, and what was in each."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []
        self.running: list[asyncio.Future[None]] = []
        self.at_once = 0

    async def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.seen.append(list(items))
        self.at_once += 1
        assert self.at_once == 1, "one flush at a time"
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append(gate)
        try:
            await gate
        finally:
            self.at_once -= 1
        return [item if isinstance(item, Exception) else f"answer {item}" for item in items]

    async def go_on(self, error: Exception | None = None) -> None:
        """Let the flush that runs return, or raise."""
        gate = self.running[-1]
        if error is None:
            gate.set_result(None)
        else:
            gate.set_exception(error)
        await settled()


async def settled() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(10):
        await asyncio.sleep(0)


async def submit(batcher: Batcher[Any, Any], *items: Any) -> Submitted:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await settled()
    return tasks


async def test_items_that_arrive_during_a_flush_go_together_into_the_next_in_their_order() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=10)

    tasks = [*await submit(batcher, 1, 2), *await submit(batcher, 3), *await submit(batcher, 4, 5)]
    await flushes.go_on()
    await flushes.go_on()

    assert flushes.seen == [[1, 2], [3, 4, 5]]
    assert await asyncio.gather(*tasks) == [f"answer {number}" for number in range(1, 6)]


async def test_flush_is_bounded_and_the_rest_follows() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=2)

    tasks = await submit(batcher, *range(5))
    for _ in range(3):
        await flushes.go_on()

    assert flushes.seen == [[0, 1], [2, 3], [4]]
    assert await asyncio.gather(*tasks) == [f"answer {number}" for number in range(5)]


async def test_each_caller_gets_its_own_answer_or_error() -> None:
    flushes = Flushes()

    tasks = await submit(Batcher(flushes, limit=10), "one", KeyError("two"), "three", ValueError("four"))
    await flushes.go_on()

    one, two, three, four = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, three) == ("answer one", "answer three")
    assert isinstance(two, KeyError)
    assert isinstance(four, ValueError)


async def test_error_of_a_flush_reaches_all_its_callers_and_the_batcher_goes_on() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=10)

    tasks = [*await submit(batcher, 1, 2), *await submit(batcher, 3)]
    await flushes.go_on(ZeroDivisionError("broken"))
    await flushes.go_on()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [ZeroDivisionError, ZeroDivisionError, str]


async def test_flush_that_forgets_an_item_is_an_error_for_all_its_callers() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    tasks = await submit(Batcher(forgetful, limit=10), 1, 2)

    for task in tasks:
        with pytest.raises(ValueError, match="2 items returned 1"):
            await task


async def test_caller_cancelled_before_its_flush_is_left_out_and_harms_no_other() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=2)

    first, second, third, fourth = [*await submit(batcher, 1), *await submit(batcher, 2, 3, 4)]
    second.cancel()
    await settled()
    await flushes.go_on()
    await flushes.go_on()

    assert flushes.seen == [[1], [3, 4]]
    assert await asyncio.gather(first, third, fourth) == ["answer 1", "answer 3", "answer 4"]


async def test_caller_cancelled_during_its_flush_harms_no_other() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=10)

    first, second = await submit(batcher, 1, 2)
    first.cancel()
    await settled()
    [third] = await submit(batcher, 3)
    await flushes.go_on()
    await flushes.go_on()

    assert first.cancelled()
    assert await asyncio.gather(second, third) == ["answer 2", "answer 3"]


async def test_nothing_is_flushed_where_all_callers_were_cancelled() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=10)

    [first, second] = [*await submit(batcher, 1), *await submit(batcher, 2)]
    second.cancel()
    await settled()
    await flushes.go_on()

    assert await first == "answer 1"
    assert flushes.seen == [[1]]


async def test_flush_that_is_cancelled_leaves_no_caller_waiting_and_the_batcher_goes_on() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, limit=10)

    first, second = [*await submit(batcher, 1), *await submit(batcher, 2)]
    assert batcher._flushing is not None
    batcher._flushing.cancel()
    await settled()
    await flushes.go_on()

    assert first.cancelled()
    assert await second == "answer 2"


def test_event_loop_that_is_closed_leaves_no_flush_behind() -> None:
    lost = list[Any]()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))
        batcher = Batcher(Flushes(), limit=10)
        await submit(batcher, 1)
        await submit(batcher, 2)

    asyncio.run(run())
    gc.collect()

    assert lost == []


@given(st.data(), st.integers(1, 4))
def test_nothing_is_lost_whatever_arrives_ends_or_is_cancelled_in_whatever_order(
    data: st.DataObject, limit: int
) -> None:
    async def run() -> None:
        flushes = Flushes()
        batcher = Batcher(flushes, limit=limit)
        callers: Submitted = []
        for step in data.draw(st.lists(st.sampled_from(["arrive", "end", "fail", "cancel"]), max_size=30)):
            waiting = [task for task in callers if not task.done()]
            if step == "arrive":
                callers += await submit(batcher, len(callers))
            elif step == "cancel" and waiting:
                data.draw(st.sampled_from(waiting)).cancel()
                await settled()
            elif step in ("end", "fail") and flushes.at_once:
                await flushes.go_on(KeyError("fails") if step == "fail" else None)
        while flushes.at_once:
            await flushes.go_on()

        flushed = [item for batch in flushes.seen for item in batch]
        assert flushed == sorted(set(flushed)), "each at most once, in the order of arrival"
        assert all(0 < len(batch) <= limit for batch in flushes.seen)
        for number, caller in enumerate(callers):
            assert caller.done()
            if not caller.cancelled():
                assert number in flushed
                assert caller.exception() is not None or caller.result() == f"answer {number}"

    asyncio.run(run())
