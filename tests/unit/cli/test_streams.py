"""Metrics and events on the command line: tables, lines and JSON, from a cursor on."""

import json
from datetime import UTC, datetime

import pytest

from director.domain.history import Cursor
from director.v1 import common_pb2, experiments_pb2, federation_pb2
from tests.unit.client.fake_director import UID

CURSOR = Cursor(f"{UID}/metrics", "e0", 3)
AT = datetime(2030, 1, 1, tzinfo=UTC)


def place(seq, stream=CURSOR.stream):
    return common_pb2.Cursor(stream=stream, epoch=CURSOR.epoch, seq=seq)


def metric(seq, value=0.5):
    return experiments_pb2.Metric(
        cursor=place(seq), origin="rome", task="train", name="loss", value=value, round=2, record_time=AT
    )


def event(seq, **more):
    given = {"actor": "director", "kind": "round_closed", "details_json": '{"round": 1}'} | more
    return common_pb2.Event(cursor=place(seq), event_time=AT, **given)


@pytest.fixture
def streams(director):
    """The director has two metrics, and two events in each stream."""
    events = [event(1), event(2, reason="enough", details_json="")]
    director.answers |= {
        "StreamMetrics": [
            experiments_pb2.StreamMetricsResponse(metrics=[metric(4)]),
            experiments_pb2.StreamMetricsResponse(metrics=[metric(5, float("nan"))]),
        ],
        "StreamEvents": [experiments_pb2.StreamEventsResponse(events=events)],
        "StreamFederationEvents": [federation_pb2.StreamFederationEventsResponse(events=events)],
    }
    return director


STREAMS = {
    "StreamMetrics": ("experiment", "metrics", "digits"),
    "StreamEvents": ("experiment", "events", "digits"),
    "StreamFederationEvents": ("envoys", "events"),
}


@pytest.mark.parametrize(("method", "command"), STREAMS.items())
def test_cursor_that_was_printed_is_handed_back_as_it_came(streams, say, method, command):
    first = json.loads(say(*command, "--json"))[0]

    say(*command, "--after", first["cursor"])

    before, after = streams.requests(method)
    assert not before.HasField("after")
    assert after.after == place(first["seq"])


@pytest.mark.parametrize(("method", "command"), STREAMS.items())
def test_stream_that_is_followed_is_an_object_per_line(streams, say, method, command):
    lines = say(*command, "--follow", "--json").splitlines()

    assert [json.loads(line) for line in lines] == json.loads(say(*command, "--json"))
    assert [each.follow for each in streams.requests(method)] == [True, False]


def test_metric_in_json_has_its_cursor_and_its_number(streams, say):
    first, second = json.loads(say("experiment", "metrics", "digits", "--json"))

    assert first == {
        "seq": 4,
        "cursor": f"{UID}/metrics:e0:4",
        "origin": "rome",
        "task": "train",
        "name": "loss",
        "value": 0.5,
        "round": 2,
        "recorded_at": "2030-01-01T00:00:00+00:00",
    }
    assert second["value"] is None


def test_event_in_json_has_its_cursor_and_its_details(streams, say):
    first, _ = json.loads(say("experiment", "events", "digits", "--json"))

    assert first == {
        "seq": 1,
        "cursor": f"{UID}/metrics:e0:1",
        "happened_at": "2030-01-01T00:00:00+00:00",
        "actor": "director",
        "kind": "round_closed",
        "reason": "",
        "details": {"round": 1},
    }


def test_metrics_are_a_table_or_a_line_each(streams, say):
    assert [line.split() for line in say("experiment", "metrics", "digits").splitlines()] == [
        ["Seq", "Round", "Origin", "Task", "Metric", "Value"],
        ["4", "2", "rome", "train", "loss", "0.5"],
        ["5", "2", "rome", "train", "loss", "nan"],
    ]
    assert say("experiment", "metrics", "digits", "--follow").splitlines() == [
        "4  round 2  rome  train  loss 0.5",
        "5  round 2  rome  train  loss nan",
    ]


@pytest.mark.parametrize("command", [STREAMS["StreamEvents"], STREAMS["StreamFederationEvents"]])
def test_events_are_a_table_or_a_line_each(streams, say, command):
    assert [line.split("  ")[0] for line in say(*command).splitlines()] == ["Seq", "  1"[:0], "  2"[:0]]
    assert say(*command, "--follow").splitlines() == [
        '1  2030-01-01 00:00:00  director  round_closed  {"round": 1}',
        "2  2030-01-01 00:00:00  director  round_closed  enough",
    ]


def test_stream_without_rows_is_a_sentence(director, say):
    director.answers |= {"StreamMetrics": [], "StreamEvents": []}

    assert say("experiment", "metrics", "digits") == "no metrics yet\n"
    assert say("experiment", "events", "digits") == "no events yet\n"
    assert json.loads(say("experiment", "events", "digits", "--json")) == []
