import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain.envoys import Liveness, ServiceTime, Shard, check_fit, limit_seconds, select
from director.errors import ShardRejected

LIMIT = 20.0
rosters = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)
seconds = st.integers(0, 1000).map(float)
liveness = st.builds(Liveness, seconds, st.just(LIMIT))


@st.composite
def service_times(draw: st.DrawFn) -> ServiceTime:
    now = draw(seconds)
    return ServiceTime(now, draw(st.integers(0, int(now))))


# Shards


def a_shard(sample_shape: tuple[int, ...], target_shape: tuple[int, ...] = (1,)) -> Shard:
    return Shard("site", "scans", 10, sample_shape, target_shape)


def test_shard_with_the_federations_shapes_fits():
    check_fit(a_shard((28, 28)), sample_shape=(28, 28), target_shape=(1,))


def test_any_shape_fits_where_the_federation_names_none():
    check_fit(a_shard((28, 28), ()), sample_shape=None, target_shape=None)


def test_empty_shape_is_a_shape():
    check_fit(a_shard((), ()), sample_shape=(), target_shape=())
    with pytest.raises(ShardRejected, match=r"its sample_shape is \[\], the federation's is \[4\]"):
        check_fit(a_shard(()), sample_shape=(4,), target_shape=None)
    with pytest.raises(ShardRejected, match=r"its target_shape is \[1\], the federation's is \[\]"):
        check_fit(a_shard(()), sample_shape=None, target_shape=())


def test_refusal_names_the_envoy():
    with pytest.raises(ShardRejected, match="envoy 'site'"):
        check_fit(a_shard((28,)), sample_shape=(28, 28), target_shape=None)


# Who is online


def test_heartbeat_keeps_an_envoy_online_for_two_periods_or_a_lease():
    assert limit_seconds(60, 10) == 120
    assert limit_seconds(2, 10) == 10


def test_envoy_is_online_until_its_limit():
    time = ServiceTime(now=100.0, up_since=0.0)

    assert Liveness(80.5, LIMIT).online(time)
    assert not Liveness(80.0, LIMIT).online(time)
    assert Liveness(80.0, LIMIT).absence(time) == 20.0


def test_outage_is_not_counted_against_an_envoy_that_was_online_when_it_began():
    time = ServiceTime(now=105.0, up_since=100.0)

    assert Liveness(90.0, LIMIT).absence(time) == 5.0


def test_outage_brings_nobody_back_who_was_gone_before():
    time = ServiceTime(now=105.0, up_since=100.0)

    assert Liveness(80.0, LIMIT).absence(time) == 25.0
    assert not Liveness(80.0, LIMIT).online(time)


@given(liveness, service_times(), seconds)
def test_absence_is_never_negative_and_grows_with_the_time_served(seen: Liveness, time: ServiceTime, later: float):
    absence = seen.absence(time)

    assert absence >= 0
    assert seen.absence(ServiceTime(time.now + later, time.up_since)) >= absence


# Who is asked


def test_draw_stays_the_same_in_every_version():
    envoys = ["a", "b", "c", "d", "e", "f"]

    drawn = [select(envoys, required=[], count=3, seed=42, round_number=number) for number in (1, 2, 3)]

    assert drawn == [["c", "d", "e"], ["b", "c", "f"], ["a", "c", "e"]]


@given(rosters, st.integers(0, 9), st.integers(0, 2**63 - 1), st.integers(1, 100_000), st.randoms())
def test_choice_depends_on_who_is_there_and_not_on_their_order(envoys, count, seed, number, random):
    shuffled = random.sample(envoys, len(envoys))

    chosen = select(envoys, required=envoys[:1], count=count, seed=seed, round_number=number)

    assert chosen == select(shuffled, required=envoys[:1], count=count, seed=seed, round_number=number)


@given(rosters, st.data(), st.integers(0, 9), st.integers(0, 2**63 - 1))
def test_required_ones_are_asked_and_no_more_others_than_are_wanted(envoys, data, count, seed):
    required = data.draw(st.lists(st.sampled_from(envoys), unique=True))

    chosen = select(envoys, required=required, count=count, seed=seed, round_number=1)

    assert chosen == sorted(set(chosen))
    assert set(required) <= set(chosen) <= set(envoys)
    assert len(chosen) == max(len(required), min(count, len(envoys)))


def test_required_one_that_is_not_there_is_not_asked():
    assert select(["a", "b"], required=["z"], count=2, seed=1, round_number=1) == ["a", "b"]


def test_everybody_gets_their_turn():
    envoys = [f"site-{number}" for number in range(10)]

    asked = [
        envoy for number in range(60) for envoy in select(envoys, required=[], count=3, seed=7, round_number=number)
    ]

    assert all(asked.count(envoy) >= 5 for envoy in envoys)
