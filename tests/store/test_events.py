"""The history of a stream is complete: numbered without a gap, in the order of the commits."""

import asyncio
from collections.abc import Sequence

import pytest

from director.domain.history import Cursor, Event, EventKind, Occurrence
from director.domain.types import ExperimentId
from director.store import events, experiments
from director.store.engine.database import Database
from director.store.events import REASON_CHARACTERS
from director.store.tables import FEDERATION_STREAM
from tests.store.words import running
from tests.tables import changes
from tests.world import World

KIND = EventKind.CONTRIBUTION_LATE


@pytest.fixture
async def streams(federation: World) -> list[ExperimentId]:
    """Four experiments without a history."""
    first = await running(federation)
    return [await changes.clone(federation.db, first, f"clone {number}") for number in range(4)]


async def append(db: Database, stream: ExperimentId, *happened: Occurrence) -> None:
    async with db.write("append") as tx:
        await experiments.lock(tx, stream)
        await events.append(tx, stream, *happened)


async def after(db: Database, stream: int, seq: int = 0, *, limit: int = 1000) -> list[Event]:
    async with db.read() as tx:
        return await events.after(tx, stream, seq, name="stream", epoch="1", limit=limit)


def numbers(found: Sequence[Event]) -> list[int]:
    return [event.cursor.seq for event in found]


async def test_event_is_read_as_it_was_written(db: Database, streams: list[ExperimentId]) -> None:
    happened = Occurrence(KIND, "a", "ünïcode ✓", {"round": 3, "tasks": ["train"], "nothing": None})
    async with db.write("append") as tx:
        await events.append(tx, streams[0], happened)
        at = await tx.now()

    assert await after(db, streams[0]) == [
        Event(Cursor("stream", "1", 1), at, "a", KIND, "ünïcode ✓", dict(happened.details))
    ]


async def test_events_of_one_transaction_keep_their_order(db: Database, streams: list[ExperimentId]) -> None:
    await append(db, streams[0], *(Occurrence(KIND, f"actor {number}") for number in range(5)))
    await append(db, streams[0], Occurrence(KIND, "actor 5"))

    found = await after(db, streams[0])

    assert numbers(found) == [1, 2, 3, 4, 5, 6]
    assert [event.actor for event in found] == [f"actor {number}" for number in range(6)]


async def test_page_ends_at_its_limit_and_the_next_begins_behind_it(db: Database, streams: list[ExperimentId]) -> None:
    await append(db, streams[0], *(Occurrence(KIND) for _ in range(5)))

    pages = [numbers(await after(db, streams[0], cursor, limit=2)) for cursor in (0, 2, 4, 5, 99)]

    assert pages == [[1, 2], [3, 4], [5], [], []]


async def test_long_reason_is_cut(db: Database, streams: list[ExperimentId]) -> None:
    await append(db, streams[0], Occurrence(KIND, reason="x" * (REASON_CHARACTERS + 1)))

    [found] = await after(db, streams[0])

    assert found.reason == "x" * REASON_CHARACTERS


async def test_streams_are_without_a_gap_under_concurrent_writers_and_readers_miss_nothing(
    db: Database, streams: list[ExperimentId]
) -> None:
    writing = True

    async def write(number: int) -> None:
        stream = streams[number % 3]
        try:
            async with db.write("append") as tx:
                await experiments.lock(tx, stream)
                await events.append(tx, stream, *(Occurrence(KIND, f"writer {number}") for _ in range(1 + number % 3)))
                if number % 5 == 0:
                    raise ValueError("on purpose")
        except ValueError:
            pass

    async def follow(stream: ExperimentId) -> list[int]:
        found: list[int] = []
        while True:
            last_look = not writing
            page = await after(db, stream, found[-1] if found else 0, limit=4)
            found += numbers(page)
            if last_look and not page:
                return found
            await asyncio.sleep(0)

    readers = [asyncio.create_task(follow(stream)) for stream in streams[:3]]
    await asyncio.gather(*(write(number) for number in range(60)))
    writing = False
    seen = await asyncio.gather(*readers)

    written = [
        sum(1 + number % 3 for number in range(60) if number % 3 == stream and number % 5) for stream in range(3)
    ]
    assert seen == [list(range(1, count + 1)) for count in written]
    assert await after(db, streams[3]) == []


async def test_federation_has_a_stream_of_its_own(federation: World) -> None:
    before = await after(federation.db, FEDERATION_STREAM)

    async def write(number: int) -> None:
        async with federation.db.write("append") as tx:
            await events.append_to_federation(tx, Occurrence(KIND, f"{number}"), Occurrence(KIND, f"{number} too"))

    await asyncio.gather(*(write(number) for number in range(8)))

    found = await after(federation.db, FEDERATION_STREAM)
    assert numbers(found) == list(range(1, len(before) + 17))
    assert {event.actor for event in found[len(before) :]} == {f"{n}{too}" for n in range(8) for too in ("", " too")}
    assert [event.kind for event in before] == [EventKind.DIRECTOR_STARTED]
