from hypothesis import given
from hypothesis import strategies as st

from director.domain.selection import select

rosters = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)


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
