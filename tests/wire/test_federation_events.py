"""The federation's own events: for operators, from any cursor on, and for as long as one listens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from director.client import Federation
from director.errors import Conflict, Forbidden, InvalidArgument, Unauthenticated, Unavailable
from director.services.backups import begin_epoch
from director.v1 import common_pb2, federation_pb2
from tests.wire.calls import AT_ONCE, gather, on_both_engines, refused

Stream = Callable[..., AsyncIterator[common_pb2.Event]]


@pytest.fixture
def events(clients: Any) -> Stream:
    """Streams the federation's events, by default to an operator."""

    async def stream(*, caller: str = "operator", **more: Any) -> AsyncIterator[common_pb2.Event]:
        request = federation_pb2.StreamFederationEventsRequest(**more)
        async for batch in clients(caller).federation.StreamFederationEvents(request):
            assert batch.events
            for event in batch.events:
                yield event

    return stream


@on_both_engines
async def test_operator_reads_what_happened_to_the_federation_in_order(federation, events):
    await federation.register("a", "b")

    found = await gather(events())

    assert [(event.kind, event.actor) for event in found][-4:] == [
        ("shard_registered", "a"), ("envoy_online", "a"), ("shard_registered", "b"), ("envoy_online", "b")
    ]  # fmt: skip
    assert "director_started" in [event.kind for event in found]
    assert [event.cursor.seq for event in found] == list(range(1, len(found) + 1))
    assert {event.cursor.stream for event in found} == {"federation"}
    assert {event.cursor.epoch for event in found} == {(await federation.process.federation.info()).epoch}


async def test_experiments_are_no_part_of_it(federation, events):
    await federation.register("a", "b")
    before = await gather(events())
    await federation.submit()

    assert await gather(events()) == before


async def test_reader_goes_on_behind_its_cursor(federation, events):
    await federation.register("a")
    before = await gather(events())
    await federation.register("b")

    after = await gather(events(after=before[-1].cursor))

    assert before + after == await gather(events())
    assert [event.actor for event in after] == ["b", "b"]


@on_both_engines
async def test_reader_that_follows_is_told_at_once_and_without_an_end(federation, events):
    [last] = (await gather(events()))[-1:]
    following = events(follow=True, after=last.cursor)

    for name in ("a", "b"):
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0.1)
        assert not first.done()
        await federation.register(name)
        assert (await asyncio.wait_for(first, AT_ONCE)).actor == name
        assert (await asyncio.wait_for(anext(following), AT_ONCE)).kind == "envoy_online"
    await following.aclose()


async def test_follower_of_a_director_that_stops_is_told_to_go_on_elsewhere(federation, events):
    following = asyncio.ensure_future(gather(events(follow=True)))
    await asyncio.sleep(0.1)

    await federation.process.drain()

    with refused(Unavailable, "at another one"):
        await asyncio.wait_for(following, AT_ONCE)


@pytest.mark.parametrize("caller", ["researcher", "a"])
async def test_only_operators_read_it(federation, events, caller):
    await federation.register("a")

    with refused(Forbidden, "only operators"):
        await gather(events(caller=caller))


async def test_caller_without_a_name_is_refused(events):
    with refused(Unauthenticated):
        await gather(events(caller=""))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"seq": -1}, InvalidArgument, "negative"),
        ({"stream": f"{'0' * 32}/events"}, InvalidArgument, "of the stream"),
        ({"stream": ""}, InvalidArgument, "of the stream"),
        ({"epoch": "0" * 32}, Conflict, "of another epoch"),
    ],
    ids=str,
)
async def test_cursor_that_was_changed_is_refused(events, change, kind, match):
    cursor = (await gather(events()))[0].cursor
    for field, value in change.items():
        setattr(cursor, field, value)

    with refused(kind, match):
        await gather(events(after=cursor))


@on_both_engines
async def test_cursor_from_before_a_restore_is_refused(federation, events):
    cursor = (await gather(events()))[0].cursor
    await begin_epoch(federation.db, federation.process.runtime.entropy)

    with refused(Conflict, "start without one"):
        await gather(events(after=cursor))

    assert "epoch_began" in [event.kind for event in await gather(events())]


async def test_client_reads_the_same(federation, port, events):
    await federation.register("a")
    expected = await gather(events())

    def read() -> list[tuple[int, str]]:
        with Federation(f"127.0.0.1:{port}", client_id="operator") as far:
            first, *_ = far.events()
            return [(each.cursor.seq, each.kind) for each in [first, *far.events(after=first.cursor)]]

    assert await asyncio.to_thread(read) == [(event.cursor.seq, event.kind) for event in expected]
