"""The federation's own stream of events: for operators, whole across pages, and followed for ever."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from director.domain.history import FEDERATION, Cursor, Event, EventKind, Occurrence, events_of
from director.errors import Conflict, Forbidden, InvalidArgument, Unavailable
from director.services.streams import PAGE
from director.store import events
from tests.services.words import OPERATOR, history
from tests.store.words import PATIENCE, waits
from tests.tables import everything
from tests.world import RESEARCHER, World, world

ITS_OWN = 0
"""The stream of the federation's own events, as the store numbers it."""


async def happen(federation: World, number: int) -> None:
    """Have so many things happen to the federation itself."""
    happened = [Occurrence(EventKind.ENVOY_ONLINE, f"envoy-{each}") for each in range(number)]
    async with federation.db.write("happen") as tx:
        await events.append_to_federation(tx, *happened)


def stream(federation: World, *, after: Cursor | None = None, follow: bool = False) -> AsyncIterator[Sequence[Event]]:
    return federation.process.streams.federation_events(OPERATOR, after=after, follow=follow)


async def read(federation: World, *, after: Cursor | None = None) -> list[Event]:
    return [event async for page in stream(federation, after=after) for event in page]


@pytest.mark.parametrize("more", [0, 1, PAGE - 1, PAGE, 2 * PAGE + 1])
async def test_stream_is_whole_and_in_order_however_many_pages_it_takes(federation: World, more: int) -> None:
    if more:
        await happen(federation, more)
    stored = [(event.cursor.seq, event.kind, event.actor) for event in await history(federation, ITS_OWN)][:1000]

    found = await read(federation)

    assert [event.cursor.seq for event in found] == [*range(1, len(found) + 1)]
    assert [(event.cursor.seq, event.kind, event.actor) for event in found][: len(stored)] == stored
    assert [event.actor for event in found][len(found) - more :] == [f"envoy-{each}" for each in range(more)]


async def test_reader_that_comes_back_goes_on_behind_its_cursor(federation: World) -> None:
    await happen(federation, 5)
    found = await read(federation)

    assert await read(federation, after=found[2].cursor) == found[3:]
    assert await read(federation, after=found[-1].cursor) == []


async def test_only_operators_read_it(federation: World) -> None:
    with pytest.raises(Forbidden, match="only operators"):
        await anext(federation.process.streams.federation_events(RESEARCHER))


async def test_follower_is_woken_by_what_is_new(migrated_url: str) -> None:
    async with world(migrated_url, poll=timedelta(minutes=10)) as federation:
        following = stream(federation, follow=True)
        await anext(following)
        assert await anext(following) == ()
        coming = asyncio.ensure_future(anext(following))
        assert await waits(coming)

        await federation.register("a")

        async with asyncio.timeout(PATIENCE):
            page = await coming
        assert [(event.kind, event.actor) for event in page] == [("shard_registered", "a"), ("envoy_online", "a")]


async def test_follower_is_never_told_of_an_end(migrated_url: str) -> None:
    async with world(migrated_url, poll=timedelta(milliseconds=10)) as federation:
        following = stream(federation, follow=True)
        await anext(following)

        assert [await anext(following) for _ in range(5)] == [()] * 5


async def test_follower_of_a_director_that_closes_is_told_to_go_on_elsewhere(federation: World) -> None:
    following = stream(federation, follow=True)
    [*_, last] = await anext(following)
    await anext(following)

    federation.process.runtime.wakeups.close()

    with pytest.raises(Unavailable, match="shutting down"):
        await anext(following)
    assert await read(federation, after=last.cursor) == []


async def test_cursor_that_is_not_of_this_stream_is_refused(federation: World) -> None:
    await federation.register("a", "b")
    submitted = await federation.submit()
    epoch = await everything.epoch(federation.db)

    with pytest.raises(InvalidArgument, match="the cursor is of the stream"):
        await read(federation, after=Cursor(events_of(submitted.uid), epoch, 1))
    with pytest.raises(InvalidArgument, match="not negative"):
        await read(federation, after=Cursor(FEDERATION, epoch, -1))
    with pytest.raises(Conflict, match="another epoch"):
        await read(federation, after=Cursor(FEDERATION, "0", 1))


@pytest.mark.parametrize("which", ["metrics", "events"])
async def test_its_cursor_is_refused_by_the_streams_of_experiments(federation: World, which: str) -> None:
    await federation.register("a", "b")
    submitted = await federation.submit()
    [first, *_] = await read(federation)

    with pytest.raises(InvalidArgument, match="the cursor is of the stream"):
        await anext(getattr(federation.process.streams, which)(submitted.uid, RESEARCHER, after=first.cursor))
