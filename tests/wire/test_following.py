"""Metrics and events as streams: complete and in order, from any cursor on, to the end of the experiment."""

import asyncio
from collections.abc import AsyncIterator, Callable
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


@pytest.fixture
def metrics(clients) -> Open:
    """Streams the experiment's metrics."""
    return lambda **more: clients("researcher").experiments.StreamMetrics(
        experiments_pb2.StreamMetricsRequest(**{"name": "experiment"} | more)
    )


@pytest.fixture
def events(clients) -> Open:
    """Streams the experiment's events."""
    return lambda **more: clients("researcher").experiments.StreamEvents(
        experiments_pb2.StreamEventsRequest(**{"name": "experiment"} | more)
    )


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
        assert [each.seq for each in told] == list(range(1, len(told) + 1))
        assert {each.epoch for each in told} == {await experiment.federation.process.epoch()}
    assert happened[0].kind == "experiment_submitted"
    assert happened[-1].kind == "experiment_finished"
    assert {metric.origin for metric in measured} == {"a", "b", "aggregator"}
    assert measured == await gather(metrics())
    assert happened == await gather(events())


@on_both_engines
async def test_what_is_new_is_told_at_once(experiment, metrics):
    following = metrics(follow=True, after_seq=0)
    first = asyncio.ensure_future(anext(aiter(following)))
    await asyncio.sleep(0.1)

    await experiment.federation.finish_round(experiment.given)

    assert (await asyncio.wait_for(first, AT_ONCE)).seq == 1
    following.cancel()


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

    after = await gather(stream(after_seq=before[-1].seq, epoch=before[-1].epoch))

    assert before + after == await gather(stream())
    assert after[0].seq == before[-1].seq + 1


async def test_cursor_in_the_future_finds_nothing_yet(experiment, stream):
    assert await gather(stream(after_seq=1 << 62)) == []


async def test_long_stream_is_read_page_by_page(experiment, stream, monkeypatch):
    await experiment.finish()
    whole = await gather(stream())
    monkeypatch.setattr("director.services.streams.PAGE", 3)

    assert await gather(stream(follow=True)) == whole


@on_both_engines
async def test_cursor_of_before_a_restore_is_refused(experiment, stream):
    await experiment.round()
    before = (await gather(stream()))[-1]
    await begin_epoch(experiment.federation.db, experiment.federation.process.runtime.entropy)

    with refused(Conflict, "start from 0"):
        await gather(stream(after_seq=before.seq, epoch=before.epoch))

    after = await gather(stream())
    assert after[0].seq == 1
    assert after[0].epoch != before.epoch


async def test_follower_of_a_director_that_stops_is_told_to_go_on_elsewhere(experiment, stream):
    following = asyncio.ensure_future(gather(stream(follow=True)))
    await asyncio.sleep(0.1)

    await experiment.federation.process.drain()

    with refused(Unavailable, "at another one"):
        await asyncio.wait_for(following, AT_ONCE)


async def test_follower_of_a_removed_experiment_comes_to_its_end(experiment, events):
    following = asyncio.ensure_future(gather(events(follow=True)))
    await asyncio.sleep(0.1)

    await experiment.federation.process.experiments.remove("experiment", Caller("researcher"))

    told = await asyncio.wait_for(following, AT_ONCE)
    assert "experiment_cancelled" in [event.kind for event in told]


async def test_bad_cursor_and_unknown_experiment_are_refused(experiment, stream):
    with refused(InvalidArgument, "negative"):
        await gather(stream(after_seq=-1))
    with refused(ExperimentNotFound):
        await gather(stream(name="another"))
