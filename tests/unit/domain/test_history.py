import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain.history import ENDINGS, FEDERATION, Cursor, events_of, listed, metrics_of, named
from director.domain.types import ExperimentState
from director.errors import InvalidArgument
from tests.strategies import uids

streams = st.just(FEDERATION) | uids.map(metrics_of) | uids.map(events_of)
cursors = st.builds(Cursor, stream=streams, epoch=uids, seq=st.integers(0, 10**18 - 1))


@given(cursors)
def test_cursor_is_read_as_it_was_written(cursor: Cursor):
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "written",
    [
        "",
        "7",
        "events:7",
        "events:0a:",
        "events:0a:-1",
        "events:0a:1.5",
        "events:0a:٣",
        "events:0a:7 ",
        "events:0a:7\n",
        "events:0a:" + "9" * 19,
        "events::7",
        "events:0A:7",
        "events:xy:7",
        ":0a:7",
        "a:b:0a:7",
        "two words:0a:7",
        "e" * 81 + ":0a:7",
    ],
)
def test_anything_else_is_no_cursor(written: str):
    with pytest.raises(InvalidArgument, match="is not a cursor; copy one from what was printed, STREAM:EPOCH:SEQ"):
        Cursor.parse(written)


@given(uids, uids)
def test_each_stream_has_a_name_of_its_own(one: str, two: str):
    names = {FEDERATION, metrics_of(one), events_of(one), metrics_of(two), events_of(two)}

    assert len(names) == (3 if one == two else 5)


def test_each_end_of_an_experiment_is_an_event():
    assert ENDINGS.keys() == {state for state in ExperimentState if state.terminal}


def test_sentence_lists_twenty_names_in_order_and_counts_the_rest():
    names = [f"envoy-{number:02}" for number in range(23)]

    assert listed([]) == "nobody"
    assert listed(["b", "a"]) == "a, b"
    assert listed(reversed(names[:20])) == ", ".join(names[:20])
    assert listed(reversed(names)) == f"{', '.join(names[:20])} and 3 more"


def test_event_names_twenty_envoys_in_order_and_how_many_they_are():
    names = [f"envoy-{number:02}" for number in range(23)]

    assert named("queued", ["b", "a"]) == {"queued": ["a", "b"], "queued_count": 2}
    assert named("queued", reversed(names)) == {"queued": names[:20], "queued_count": 23}
