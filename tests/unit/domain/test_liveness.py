from hypothesis import given
from hypothesis import strategies as st

from director.domain.liveness import Liveness, ServiceTime, limit_seconds

LIMIT = 20.0
seconds = st.integers(0, 1000).map(float)
liveness = st.builds(Liveness, seconds, st.just(LIMIT), st.booleans())


@st.composite
def service_times(draw: st.DrawFn) -> ServiceTime:
    now = draw(seconds)
    return ServiceTime(now, draw(st.integers(0, int(now))))


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


def test_envoy_that_said_goodbye_is_offline_at_once_however_lately_it_was_heard_of():
    time = ServiceTime(now=100.0, up_since=0.0)

    assert not Liveness(100.0, LIMIT, left=True).online(time)
    assert Liveness(90.0, LIMIT, left=True).absence(time) == 10.0


def test_outage_counts_for_an_envoy_that_said_goodbye_before_it():
    time = ServiceTime(now=105.0, up_since=100.0)

    assert Liveness(90.0, LIMIT, left=True).absence(time) == 15.0


@given(liveness, service_times(), seconds)
def test_absence_is_never_negative_and_grows_with_the_time_served(seen: Liveness, time: ServiceTime, later: float):
    absence = seen.absence(time)

    assert absence >= 0
    assert seen.absence(ServiceTime(time.now + later, time.up_since)) >= absence
