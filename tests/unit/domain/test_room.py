"""Whether a database has room for more, and how that is said."""

import pytest

from director.domain.room import MEBIBYTE, Room

FREE_SPACE = "nothing more is taken in until space is freed"


@pytest.mark.parametrize(("free", "reserve", "size"), [(8, 8, 0), (8, 4, 4), (0, 0, 0)])
def test_what_leaves_the_reserve_alone_has_room(free: int, reserve: int, size: int) -> None:
    assert Room(free * MEBIBYTE, reserve * MEBIBYTE).lacks(size * MEBIBYTE) is None


@pytest.mark.parametrize(
    ("free", "reserve", "said"),
    [
        (7, 8, f"the database has 7.0 MiB left, less than its reserve of 8.0 MiB; {FREE_SPACE}"),
        (0, 8, f"the database has no room left; {FREE_SPACE}"),
        (-3, 0, f"the database has no room left; {FREE_SPACE}"),
    ],
)
def test_database_whose_reserve_is_in_use_takes_nothing_in(free: int, reserve: int, said: str) -> None:
    assert Room(free * MEBIBYTE, reserve * MEBIBYTE).lacks() == said


def test_what_would_use_the_reserve_does_not_fit() -> None:
    room = Room(12 * MEBIBYTE, 8 * MEBIBYTE)

    said = room.lacks(5 * MEBIBYTE)

    assert said == "5.0 MiB do not fit into the database: it has room for 4.0 MiB besides its reserve"
