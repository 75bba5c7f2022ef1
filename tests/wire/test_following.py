"""Metrics and events as streams: complete and in order, from any cursor on, to the end of the experiment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from director.errors import Conflict, ExperimentNotFound, InvalidArgument, Unavailable
from director.services.backups import begin_epoch
from director.services.runtime import Caller
from director.v1 import experiments_pb2
from tests.store.words import owned
from tests.wire.calls import AT_ONCE, gather, on_both_engines, refused
from tests.world import World

Open = Callable[..., AsyncIterator[Any]]


class Running:
    """An experiment that is driven round by round."""

    def __init__(self, federation: World, fence: Any, given: Any) -> None:
        self.federation, self.fence, self.given = federation, fence, given
        self.uid = given["a"].experiment_uid

    async def round(self) -> None:
        """Do a round."""
        await self.federation.finish_round(self.given)
        await self.federation.drive(self.fence)

    async def finish(self) -> None:
        """Do both rounds and the final validation."""
        for _ in range(3):
            await self.round()


@pytest.fixture
async def experiment(federation) -> Running:
    fence = await owned(federation)
    await federation.drive(fence)
    return Running(federation, fence, {envoy: await federation.wait(envoy) for envoy in ("a", "b")})


async def rows(call: Any, rows_of: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """Yield the rows of a stream one by one; no batch is empty."""
    async for batch in call:
        assert len(rows_of(batch)) > 0
        for row in rows_of(batch):
            yield row


@pytest.fixture
def metrics(clients, experiment) -> Open:
    """Streams the experiment's metrics."""
    stub = clients("researcher").experiments

    def stream(**more: Any) -> AsyncIterator[Any]:
        request = experiments_pb2.StreamMetricsRequest(**{"experiment_uid": experiment.uid} | more)
        return rows(stub.StreamMetrics(request), lambda batch: batch.metrics)

    return stream


@pytest.fixture
def events(clients, experiment) -> Open:
    """Streams the experiment's events."""
    stub = clients("researcher").experiments

    def stream(**more: Any) -> AsyncIterator[Any]:
        request = experiments_pb2.StreamEventsRequest(**{"experiment_uid": experiment.uid} | more)
        return rows(stub.StreamEvents(request), lambda batch: batch.events)

    return stream


@pytest.fixture(params=["metrics", "events"])
def stream(request) -> Open:
    """Streams the one or the other."""
    found: Open = request.getfixturevalue(request.param)
    return found


@on_both_engines
async def test_stream_that_is_followed_tells_everything_and_ends_with_the_experiment(experiment, metrics, events):
    followed = [asyncio.ensure_future(gather(each(follow=True))) for each in (metrics, events)]
    await asyncio.sleep(0.1)

    await experiment.finish()
    measured, happened = await asyncio.wait_for(asyncio.gather(*followed), AT_ONCE)

    for told in (measured, happened):
        assert [each.cursor.seq for each in told] == list(range(1, len(told) + 1))
        assert {each.cursor.epoch for each in told} == {(await experiment.federation.process.federation.info()).epoch}
    assert happened[0].kind == "experiment_submitted"
    assert happened[-1].kind == "experiment_finished"
    assert {metric.origin for metric in measured} == {"a", "b", "aggregator"}
    assert measured == await gather(metrics())
    assert happened == await gather(events())


@on_both_engines
async def test_what_is_new_is_told_at_once(experiment, metrics):
    following = metrics(follow=True)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.1)

    await experiment.federation.finish_round(experiment.given)

    assert (await asyncio.wait_for(first, AT_ONCE)).cursor.seq == 1
    await following.aclose()


async def test_stream_that_is_not_followed_ends_with_what_is_there(experiment, stream):
    await experiment.round()

    told = await gather(stream())
    await experiment.round()

    assert told
    assert told == (await gather(stream()))[: len(told)]


async def test_reader_that_comes_back_goes_on_behind_its_cursor(experiment, stream):
    await experiment.round()
    before = await gather(stream())
    await experiment.round()

    after = await gather(stream(after=before[-1].cursor))

    assert before + after == await gather(stream())
    assert after[0].cursor.seq == before[-1].cursor.seq + 1


async def test_cursor_in_the_future_finds_nothing_yet(experiment, stream):
    await experiment.round()
    cursor = (await gather(stream()))[-1].cursor
    cursor.seq = 1 << 62

    assert await gather(stream(after=cursor)) == []


async def test_long_stream_is_read_page_by_page(experiment, stream, monkeypatch):
    await experiment.finish()
    whole = await gather(stream())
    monkeypatch.setattr("director.services.streams.PAGE", 3)

    assert await gather(stream(follow=True)) == whole


@on_both_engines
async def test_cursor_from_before_a_restore_is_refused(experiment, stream):
    await experiment.round()
    before = (await gather(stream()))[-1]
    await begin_epoch(experiment.federation.db, experiment.federation.process.runtime.entropy)

    with refused(Conflict, "start without one"):
        await gather(stream(after=before.cursor))

    after = await gather(stream())
    assert after[0].cursor.seq == 1
    assert after[0].cursor.epoch != before.cursor.epoch


async def test_follower_of_a_director_that_stops_is_told_to_go_on_elsewhere(experiment, stream):
    following = asyncio.ensure_future(gather(stream(follow=True)))
    await asyncio.sleep(0.1)

    await experiment.federation.process.drain()

    with refused(Unavailable, "at another one"):
        await asyncio.wait_for(following, AT_ONCE)


async def test_follower_of_a_removed_experiment_comes_to_its_end(experiment, events):
    following = asyncio.ensure_future(gather(events(follow=True)))
    await asyncio.sleep(0.1)

    await experiment.federation.process.experiments.remove(experiment.uid, Caller("researcher"))

    told = await asyncio.wait_for(following, AT_ONCE)
    assert "experiment_cancelled" in [event.kind for event in told]


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"seq": -1}, InvalidArgument, "negative"),
        ({"stream": ""}, InvalidArgument, "of the stream ''"),
        ({"stream": "federation"}, InvalidArgument, "of the stream 'federation'"),
        ({"epoch": ""}, Conflict, "of another epoch"),
        ({"epoch": "0" * 32}, Conflict, "of another epoch"),
    ],
    ids=str,
)
async def test_cursor_that_was_changed_is_refused(experiment, stream, change, kind, match):
    await experiment.round()
    cursor = (await gather(stream()))[0].cursor
    for field, value in change.items():
        setattr(cursor, field, value)

    with refused(kind, match):
        await gather(stream(after=cursor))


async def test_cursor_of_metrics_is_not_one_of_events(experiment, metrics, events):
    await experiment.round()
    of_metrics, of_events = (await gather(metrics()))[0].cursor, (await gather(events()))[0].cursor

    for open_stream, cursor in ((metrics, of_events), (events, of_metrics)):
        with refused(InvalidArgument, "of the stream"):
            await gather(open_stream(after=cursor))


async def test_unknown_experiment_is_refused(stream):
    with refused(ExperimentNotFound):
        await gather(stream(experiment_uid="0" * 32))


async def test_batch_ends_at_a_mebibyte_and_loses_nothing(experiment, events, clients, monkeypatch):
    await experiment.finish()
    whole = await gather(events())
    monkeypatch.setattr("director.wire.pages.PAGE_BYTES", 700)

    request = experiments_pb2.StreamEventsRequest(experiment_uid=experiment.uid)
    batches = await gather(clients("researcher").experiments.StreamEvents(request))

    assert [event for batch in batches for event in batch.events] == whole
    assert len(batches) > 3
    for batch, following in pairwise(batches):
        assert batch.ByteSize() < 900
        assert batch.ByteSize() + following.events[0].ByteSize() > 700
