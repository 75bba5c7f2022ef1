"""Streams are read from a cursor on, at any director, and a cursor is handed back as it came."""

import pytest

from director.client import Cursor, Federation
from director.errors import Conflict, Unavailable
from director.v1 import common_pb2, experiments_pb2, federation_pb2
from director.wire import codec
from tests.unit.client.fake_director import UID, FakeDirector, later

STREAM = f"{UID}/some future name"


def place(seq):
    return common_pb2.Cursor(stream=STREAM, epoch="e1", seq=seq)


def metrics(*numbers):
    """A batch of metrics."""
    rows = [experiments_pb2.Metric(cursor=place(seq), name="loss", value=seq / 2) for seq in numbers]
    return experiments_pb2.StreamMetricsResponse(metrics=rows)


def happened(*numbers):
    return [common_pb2.Event(cursor=place(seq), kind="round_closed", details_json='{"round": 1}') for seq in numbers]


def test_follower_goes_on_behind_the_last_row_at_another_director(director):
    director.answers["StreamMetrics"] = [metrics(1, 2), metrics(3), later(Unavailable)]
    with (
        FakeDirector(StreamMetrics=[metrics(4, 5)]) as other,
        Federation(f"{director.address},{other.address}", client_id="ada") as federation,
    ):
        found = list(federation.experiment("digits").metrics(follow=True))

    assert [(each.cursor.seq, each.value) for each in found] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (5, 2.5)]
    [first], [second] = director.requests("StreamMetrics"), other.requests("StreamMetrics")
    assert first == experiments_pb2.StreamMetricsRequest(experiment_uid=UID, follow=True)
    assert second == experiments_pb2.StreamMetricsRequest(experiment_uid=UID, follow=True, after=place(3))


def test_cursor_is_handed_back_as_it_came(director, federation):
    director.answers["StreamMetrics"] = [metrics(7)]
    handle = federation.experiment("digits")
    [metric] = handle.metrics()

    list(handle.metrics(after=metric.cursor))

    assert metric.cursor == Cursor(STREAM, "e1", 7)
    assert director.requests("StreamMetrics")[1].after == place(7)


def test_stream_from_the_beginning_has_no_cursor(director, federation):
    director.answers["StreamMetrics"] = []

    assert list(federation.experiment("digits").metrics()) == []

    assert not director.requests("StreamMetrics")[0].HasField("after")


def test_events_of_an_experiment_are_read_in_batches(director, federation):
    director.answers["StreamEvents"] = [
        experiments_pb2.StreamEventsResponse(events=happened(2, 3)),
        experiments_pb2.StreamEventsResponse(events=happened(4)),
    ]

    found = list(federation.experiment("digits").events(after=Cursor(STREAM, "e1", 1)))

    assert [each.cursor.seq for each in found] == [2, 3, 4]
    assert found[0].details == {"round": 1}
    assert director.requests("StreamEvents")[0] == experiments_pb2.StreamEventsRequest(
        experiment_uid=UID, after=place(1)
    )


def test_events_of_the_federation_are_read_from_a_cursor_on(director, federation):
    director.turns["StreamFederationEvents"] = [
        [federation_pb2.StreamFederationEventsResponse(events=happened(1)), later(Unavailable)],
        [federation_pb2.StreamFederationEventsResponse(events=happened(2))],
    ]

    found = list(federation.events(follow=True))

    assert found == list(map(codec.read_event, happened(1, 2)))
    assert [each.after.seq for each in director.requests("StreamFederationEvents")] == [0, 1]
    assert all(each.follow for each in director.requests("StreamFederationEvents"))


def test_cursor_of_another_epoch_is_refused_as_the_director_says(director, federation):
    director.answers["StreamEvents"] = Conflict("another epoch")

    with pytest.raises(Conflict, match="another epoch"):
        list(federation.experiment("digits").events(after=Cursor(STREAM, "e0", 1)))
