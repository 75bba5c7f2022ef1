"""Addresses, how long a call goes on trying, and what it does when a director says "later"."""

from itertools import pairwise

import grpc
import pytest

from director.client.directors import CALL_SECONDS, Directors, Patience
from director.effects import SeededEntropy, monotonic
from director.errors import (
    AlreadyExists,
    DiskFull,
    ExperimentNotFound,
    InvalidArgument,
    Overloaded,
    TooLarge,
    Unavailable,
)
from director.v1 import federation_pb2
from director.wire.channels import addresses_of
from tests.unit.client.fake_director import FakeDirector, later

DELAY = 0.3
LATER = [Overloaded, DiskFull, Unavailable]
FEDERATION = federation_pb2.Federation(epoch="e")


class NoChance(SeededEntropy):
    """Draws the same fraction each time."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self._fraction = fraction

    def fraction(self) -> float:
        return self._fraction


class Broken(grpc.RpcError):
    """What gRPC raises when a director goes away."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "gone"

    def trailing_metadata(self):
        return ()


def ask(*fakes, patience=10.0):
    """Ask the first of some directors that answers for the federation."""
    address = ",".join(fake.address for fake in fakes)
    directors = Directors(address, tls=None, client_id="ada", patience=patience)
    try:
        return directors.call(lambda each: each.federation.GetFederation, federation_pb2.GetFederationRequest())
    finally:
        directors.close()


@pytest.fixture
def other():
    """A second director."""
    with FakeDirector(GetFederation=FEDERATION) as fake:
        yield fake


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
def test_text_that_is_not_an_address_is_refused_with_what_it_should_be(text):
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        addresses_of(text)


# Patience


def test_pause_is_the_delay_asked_for_and_a_part_of_a_limit_that_grows(pauses):
    patience = Patience(20.0, directors=1, entropy=NoChance(0.5))

    while patience.allows(later(Overloaded, 1.0)):
        pass

    assert pauses == pytest.approx([1.1, 1.2, 1.4, 1.8, 2.6, 3.5, 3.5, 3.5])


def test_pauses_of_callers_who_were_refused_together_differ(pauses):
    patience = Patience(1000.0, directors=1, entropy=SeededEntropy(1))

    for _ in range(50):
        assert patience.allows(later(Unavailable, 0.5))

    assert all(0.5 <= pause < 5.5 for pause in pauses)
    assert len(set(pauses)) == 50


def test_each_director_is_tried_once_before_there_is_a_pause_even_without_patience(pauses):
    patience = Patience(0.0, directors=3, entropy=NoChance(0.5))

    assert [patience.allows(Unavailable()) for _ in range(3)] == [True, True, False]
    assert pauses == []


def test_pause_after_all_directors_were_away_is_the_longest_that_one_asked_for(pauses):
    patience = Patience(60.0, directors=2, entropy=NoChance(0.0))

    for delay in (4.0, 1.0, 2.0, 1.0):
        assert patience.allows(later(Unavailable, delay))

    assert pauses == [4.0, 2.0]


def test_pause_that_patience_does_not_cover_is_not_begun(pauses):
    patience = Patience(3.0, directors=1, entropy=NoChance(0.0))

    assert [patience.allows(later(DiskFull, 2.0)) for _ in range(2)] == [True, False]
    assert pauses == [2.0]


def test_progress_renews_patience(pauses):
    patience = Patience(3.0, directors=1, entropy=NoChance(1.0))
    while patience.allows(Unavailable()):
        pass

    patience.renew()

    assert patience.allows(Unavailable())
    assert pauses[-1] == pauses[0]


def test_time_without_a_failure_does_not_count(pauses):
    patience = Patience(5.0, directors=1, entropy=NoChance(0.0))
    pauses.append(1000.0)

    assert patience.allows(Unavailable())


def test_a_thousand_failures_do_not_end_long_patience(pauses):
    patience = Patience(1e6, directors=1, entropy=NoChance(0.5))

    assert all(patience.allows(Unavailable()) for _ in range(3000))


# Calls


@pytest.mark.parametrize("kind", LATER)
def test_delay_that_a_director_asks_for_is_waited_for(director, kind):
    director.answers["GetFederation"] = FEDERATION
    director.turns["GetFederation"] = [later(kind, DELAY), later(kind, DELAY)]

    assert ask(director) == FEDERATION

    assert [after - before >= DELAY for before, after in pairwise(director.asked_at)] == [True, True]


@pytest.mark.parametrize("kind", [TooLarge, AlreadyExists, ExperimentNotFound])
def test_error_that_does_not_mean_later_is_raised_at_once(director, other, kind):
    director.answers["GetFederation"] = kind("no")

    with pytest.raises(kind, match="no"):
        ask(director, other)

    assert len(director.asked) == 1
    assert other.asked == []


def test_director_that_is_away_is_passed_over_without_a_pause(director, other):
    director.answers["GetFederation"] = later(Unavailable, 60.0)
    began = monotonic()

    assert ask(director, other) == FEDERATION

    assert monotonic() - began < 10
    assert len(director.asked) == 1


@pytest.mark.parametrize("kind", [Overloaded, DiskFull])
def test_director_that_asks_to_come_back_is_asked_again_itself_and_no_earlier(director, other, kind):
    director.answers["GetFederation"] = FEDERATION
    director.turns["GetFederation"] = [later(kind, DELAY)]

    ask(director, other)

    first, second = director.asked_at
    assert second - first >= DELAY
    assert other.asked == []


@pytest.mark.parametrize("kind", [Overloaded, DiskFull])
def test_director_that_has_no_room_in_time_is_told_by_its_own_error(director, kind):
    director.answers["GetFederation"] = later(kind, DELAY)

    with pytest.raises(kind, match="not now"):
        ask(director, patience=DELAY / 2)


def test_addresses_of_directors_that_are_away_are_told(director):
    director.answers["GetFederation"] = later(Unavailable, DELAY)

    with pytest.raises(Unavailable, match=rf"no answer from {director.address} within 0\.1 s: not now"):
        ask(director, patience=0.1)


def test_time_in_which_a_call_gets_no_answer_counts(pauses):
    directors = Directors("127.0.0.1:1", tls=None, client_id="ada", patience=10.0, entropy=NoChance(0.0))
    calls = []

    def unanswered(request, timeout):
        calls.append(request)
        pauses.append(timeout)
        raise Broken

    with pytest.raises(Unavailable):
        directors.call(lambda _: unanswered, "request")

    assert calls == ["request"]
    directors.close()


# Streams


class Told:
    """A stream that gives some parts; one that lasts for some seconds breaks then."""

    def __init__(self, parts, pauses=(), seconds=None):
        self._parts, self._pauses, self._seconds = parts, pauses, seconds
        self.cancelled = False

    def __iter__(self):
        yield from self._parts
        if self._seconds is not None:
            self._pauses.append(self._seconds)
            raise Broken

    def cancel(self):
        self.cancelled = True
        return True


def read(streams, *, patience=3.0, **more):
    """Read streams one after the other, until patience ends; return what came."""
    directors = Directors("127.0.0.1:1", tls=None, client_id="ada", patience=patience, entropy=NoChance(0.5))
    found = []
    try:
        for part in directors.stream(lambda _: next(streams), **more):
            found.append(part)
    except Unavailable:
        return found
    finally:
        directors.close()
    return found


def test_follower_of_a_quiet_stream_keeps_its_patience_through_any_number_of_breaks(pauses):
    quiet = [Told([], pauses, CALL_SECONDS + 1) for _ in range(20)]

    assert read(iter([*quiet, Told(["news"])])) == ["news"]


def test_stream_that_breaks_at_once_each_time_is_given_up(pauses):
    broken = (Told([], pauses, 0) for _ in range(100))

    assert read(broken) == []

    assert next(broken, None) is not None


def test_upload_that_comes_no_further_is_given_up_however_long_it_lasts(pauses):
    stuck = (Told([1], pauses, CALL_SECONDS + 1) for _ in range(100))

    assert len(read(stuck, patience=100.0, is_progress=lambda _: False)) < 10


def test_stream_that_is_not_read_to_its_end_is_cancelled():
    directors = Directors("127.0.0.1:1", tls=None, client_id="ada", patience=1.0)
    told = Told([1, 2])

    parts = directors.stream(lambda _: told)
    assert next(parts) == 1
    parts.close()

    assert told.cancelled
    directors.close()


def test_each_part_renews_patience(pauses):
    told = (Told([number], pauses, 2.0) for number in range(50))

    assert read(iter([*told, Told([50])])) == list(range(51))
