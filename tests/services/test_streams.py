"""Streams of metrics and events: complete, in order, without repeats, and ended only when all was seen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from director.domain.history import Cursor, Measured, metrics_of
from director.domain.types import ExperimentState
from director.errors import Conflict, ExperimentNotFound, InvalidArgument, Unavailable
from director.services import endings
from director.services.runtime import Caller, Runtime
from director.services.streams import PAGE, Streams
from director.store import experiments, metrics
from director.store.engine.database import Database, Transaction
from director.store.engine.opening import open_database
from tests.services.words import collecting, complete, finished
from tests.tables import everything
from tests.world import RESEARCHER, World


async def read(federation: World, **how: Any) -> list[int]:
    """Return the numbers of the metrics that a reader sees."""
    stream = federation.process.streams.metrics("experiment", RESEARCHER, **how)
    return [metric.cursor.seq async for page in stream for metric in page]


async def behind(federation: World, seq: int) -> Cursor:
    """Return the cursor behind a metric."""
    return Cursor(metrics_of((await federation.row("experiment")).uid), await everything.epoch(federation.db), seq)


async def measure(federation: World, count: int) -> None:
    """Have so many metrics in an experiment that has not started."""
    await federation.register("a", "b")
    view = await federation.submit()
    measured = [Measured(1, "a", "validate", "accuracy", number / count) for number in range(count)]
    async with federation.db.write("measure") as tx:
        await metrics.append(tx, view.id, measured)


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
async def test_stream_that_does_not_follow_ends_with_what_there_is(federation: World, count: int) -> None:
    await measure(federation, count)

    assert await read(federation) == [*range(1, count + 1)]


async def test_cursor_goes_on_behind_what_was_seen(federation: World) -> None:
    await measure(federation, 5)

    for seq, rest in [(0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (2**62, [])]:
        assert await read(federation, after=await behind(federation, seq)) == rest


async def test_reader_that_is_slow_still_sees_everything_to_the_end(federation: World) -> None:
    begun = await collecting(federation)
    seen = []

    stream = federation.process.streams.metrics("experiment", RESEARCHER, follow=True)
    async for page in stream:
        seen += [metric.cursor.seq for metric in page]
        if not page and await federation.drive(begun.fence) is not None:
            await federation.finish_round(begun.given)  # the whole next round, between two looks of the reader

    # Two rounds of train and validate and the final validation, of two envoys and their average.
    assert seen == [*range(1, 3 * (2 * 2 + 1) + 1)]


class Interrupted(Database):
    """Another connection to a database, in whose use something happens before each transaction that reads."""

    def __init__(self, url: str, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__(open_database(url)._engine, url=url)
        self._happens = happens

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        await self._happens()
        async with super().read() as tx:
            yield tx


@pytest.mark.parametrize("moment", [2, 3, 4, 5])
async def test_what_is_measured_at_the_very_end_is_seen_whenever_that_is(federation: World, moment: int) -> None:
    await measure(federation, 2)
    reads = 0

    async def end() -> None:
        nonlocal reads
        reads += 1
        if reads == moment:
            async with federation.db.write("end") as tx:
                found = await experiments.find(tx, "experiment", caller=None)
                await experiments.lock(tx, found.id)
                await metrics.append(tx, found.id, [Measured(1, "a", "validate", "accuracy", 1.0)])
                await endings.end(tx, found.id, ExperimentState.CANCELLED)

    reader = Interrupted(federation.db.url, end)
    stream = Streams(Runtime(reader, federation.process.runtime.settings)).metrics(
        "experiment", RESEARCHER, follow=True
    )
    seen = [metric.cursor.seq async for page in stream for metric in page]
    await reader.close()

    assert seen == [1, 2, 3]


async def test_reader_that_follows_is_woken_by_what_is_new(federation: World) -> None:
    begun = await collecting(federation)
    stream = federation.process.streams.metrics("experiment", RESEARCHER, follow=True)
    assert await anext(stream) == ()

    coming = asyncio.ensure_future(first_page(stream))
    await complete(federation, begun, "a")
    async with asyncio.timeout(30):
        metric = (await coming)[0]

    assert (metric.origin, metric.task, metric.name) == ("a", "train", "loss")


async def test_stream_ends_when_its_experiment_is_removed(federation: World) -> None:
    await measure(federation, 1)
    stream = federation.process.streams.events("experiment", RESEARCHER, follow=True)
    kinds = [event.kind async for page in anyway(stream, 2) for event in page]

    await federation.process.experiments.remove("experiment", RESEARCHER)
    kinds += [event.kind async for page in stream for event in page]

    assert kinds == ["experiment_submitted", "experiment_cancelled", "experiment_removed"]


async def first_page(stream: Any) -> Any:
    """Return the next page that is not empty; on a slow machine nothing may be new for a while."""
    while not (page := await anext(stream)):
        pass
    return page


async def anyway(stream: Any, count: int) -> Any:
    """Yield so many items, and leave the stream open."""
    for _ in range(count):
        yield await anext(stream)


async def test_ended_experiments_stream_can_be_read_again_and_ends_at_once(federation: World) -> None:
    await finished(federation)

    async with asyncio.timeout(30):
        assert await read(federation, follow=True) == await read(federation)


async def test_cursor_of_another_epoch_is_worth_nothing(federation: World) -> None:
    await measure(federation, 1)
    start = await behind(federation, 0)

    assert await read(federation, after=start) == [1]
    with pytest.raises(Conflict, match="another epoch"):
        await read(federation, after=replace(start, epoch="before"))


async def test_negative_cursor_is_refused(federation: World) -> None:
    await measure(federation, 1)

    with pytest.raises(InvalidArgument, match="not negative"):
        await read(federation, after=await behind(federation, -1))


async def test_stream_of_a_closing_director_does_not_look_like_an_end(federation: World) -> None:
    await measure(federation, 1)
    stream = federation.process.streams.metrics("experiment", RESEARCHER, follow=True)
    assert [len(page) async for page in anyway(stream, 2)] == [1, 0]

    federation.process.runtime.wakeups.close()

    with pytest.raises(Unavailable, match="shutting down"):
        await anext(stream)


async def test_stream_is_for_those_who_may_see_the_experiment(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit(users=["colleague"])

    for caller in (RESEARCHER, Caller("colleague"), Caller("anybody", operator=True)):
        stream = federation.process.streams.events("experiment", caller)
        assert [event.kind async for page in stream for event in page] == ["experiment_submitted"]
    for name, caller in [("experiment", Caller("stranger")), ("nothing", RESEARCHER)]:
        with pytest.raises(ExperimentNotFound):
            await anext(federation.process.streams.events(name, caller))
