"""A cache keeps what was asked for lately, within its bytes."""

from hypothesis import given
from hypothesis import strategies as st

from director.store.engine.cache import Cache


def test_value_is_found_again_and_an_unknown_key_is_not():
    cache = Cache(10)

    cache.put("a", "value", 4)

    assert cache.get("a") == "value"
    assert cache.get("b") is None


def test_value_that_was_not_asked_for_lately_makes_room():
    cache = Cache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    cache.get("a")

    cache.put("c", 3, 4)

    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert cache.size_bytes == 8


def test_large_value_takes_the_place_of_several_small_ones():
    cache = Cache(10)
    for key in "abc":
        cache.put(key, key, 3)

    cache.put("large", "large", 7)

    assert [cache.get(key) for key in ("a", "b", "c", "large")] == [None, None, "c", "large"]


def test_value_larger_than_the_whole_cache_is_not_kept_and_pushes_nothing_out():
    cache = Cache(10)
    cache.put("a", 1, 10)

    cache.put("b", 2, 11)

    assert [cache.get("a"), cache.get("b")] == [1, None]


def test_value_that_is_put_again_counts_once():
    cache = Cache(10)
    cache.put("a", 1, 8)

    cache.put("a", 2, 9)

    assert (cache.get("a"), cache.size_bytes) == (2, 9)


def test_value_that_has_grown_too_large_is_no_longer_kept():
    cache = Cache(10)
    cache.put("a", 1, 8)

    cache.put("a", 2, 11)

    assert (cache.get("a"), cache.size_bytes) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_cache_never_holds_more_than_its_bytes_and_always_the_newest_that_fits(puts: list[tuple[int, int]]):
    cache, sizes = Cache(50), dict[int, int]()

    for key, size in puts:
        cache.put(key, (key, size), size)
        sizes[key] = size

        kept = [each for each in sizes if cache.get(each) == (each, sizes[each])]
        assert cache.size_bytes == sum(sizes[each] for each in kept) <= 50
        assert (key in kept) == (size <= 50)
