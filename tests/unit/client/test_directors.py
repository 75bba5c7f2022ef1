"""Addresses, and how long a call goes on trying."""

import pytest

from director.client.directors import Patience
from director.effects import SeededEntropy
from director.errors import InvalidArgument
from director.wire.channels import addresses_of


class NoChance(SeededEntropy):
    """Draws the same fraction each time."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self._fraction = fraction

    def fraction(self) -> float:
        return self._fraction


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were slept, and a clock that they move."""
    slept = []
    monkeypatch.setattr("director.client.directors.time.sleep", slept.append)
    monkeypatch.setattr("director.client.directors.monotonic", lambda: sum(slept))
    return slept


def test_several_addresses_are_replicas():
    assert addresses_of("one:50051, [::1]:2,10.0.0.3:65535") == ("one:50051", "[::1]:2", "10.0.0.3:65535")


@pytest.mark.parametrize(
    "text", ["", "one", "one:", ":50051", "one:port", "one:0", "one:65536", "one:1,,two:2", "one:-1"]
)
def test_address_that_is_none_is_refused_with_what_it_should_be(text):
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        addresses_of(text)


def test_pauses_grow_up_to_a_limit_while_patience_lasts(pauses):
    patience = Patience(20.0, directors=1, entropy=NoChance(1.0))

    while patience.allows():
        pass

    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_pauses_are_drawn_between_nothing_and_their_limit(pauses):
    patience = Patience(1000.0, directors=1, entropy=SeededEntropy(1))

    for _ in range(50):
        assert patience.allows()

    assert all(0 <= pause < 5.0 for pause in pauses)
    assert len(set(pauses)) == 50


def test_each_director_is_tried_once_before_there_is_a_pause_even_without_patience(pauses):
    patience = Patience(0.0, directors=3, entropy=NoChance(0.5))

    assert [patience.allows() for _ in range(3)] == [True, True, False]
    assert pauses == []


def test_progress_renews_patience(pauses):
    patience = Patience(1.0, directors=1, entropy=NoChance(1.0))
    while patience.allows():
        pass

    patience.renew()

    assert patience.allows()
    assert pauses[-1] == pauses[0]


def test_a_thousand_failures_do_not_end_long_patience(pauses):
    patience = Patience(1e6, directors=1, entropy=NoChance(0.5))

    assert all(patience.allows() for _ in range(3000))
