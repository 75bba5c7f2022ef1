"""Envoys are listed page by page, by name; a filter says in SQL what the domain says of each envoy."""

import asyncio
import itertools
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from director.domain.liveness import Liveness, ServiceTime, limit_seconds
from director.effects import ManualClock
from director.store import envoy_lists
from director.store.engine.opening import open_database
from director.store.envoy_lists import Filter
from tests.store.presence import LIMIT, leave, listed, register, retire
from tests.store.words import live, running
from tests.tables import changes, presence_rows
from tests.world import World

NUMBERS = itertools.count()
NAMES = ("b", "ä", "A", "a", "Ω", "a a", "z" * 255, "10", "9", "B")


@pytest.fixture
async def present(timed: World, clock: ManualClock) -> World:
    """Envoys that are online (a), silent (b), gone (c) and retired (d)."""
    await register(timed.db, "b")
    await live(timed, clock, LIMIT + 1)
    for name in ("a", "c", "d"):
        await register(timed.db, name)
    await leave(timed.db, "c", "1")
    await retire(timed.db, "d")
    return timed


async def test_pages_hold_every_envoy_once_in_one_order(timed: World) -> None:
    for name in NAMES:
        await register(timed.db, name)
    whole = [each.name for each in await listed(timed.db)]

    for limit in (1, 3, 10):
        found: list[str] = []
        while page := await listed(timed.db, after=found[-1] if found else "", limit=limit):
            found += [each.name for each in page]
            assert len(page) <= limit
        assert found == whole

    assert sorted(whole) == sorted(NAMES)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["a", "b", "c"]),
        (Filter(show_retired=True), ["a", "b", "c", "d"]),
        (Filter(online=True), ["a"]),
        (Filter(online=False), ["b", "c"]),
        (Filter(online=True, show_retired=True), ["a"]),
        (Filter(online=False, show_retired=True), ["b", "c", "d"]),
        (Filter(names=("d", "b", "stranger")), ["b"]),
        (Filter(names=("d", "b"), show_retired=True), ["b", "d"]),
        (Filter(names=("a", "b"), online=False), ["b"]),
    ],
    ids=str,
)
async def test_filters_are_met_by_all_that_is_listed(present: World, wanted: Filter, expected: list[str]) -> None:
    found = await listed(present.db, wanted)

    assert [each.name for each in found] == expected
    assert {each.name for each in found if each.online} <= {"a"}
    assert {each.name for each in found if each.retired_at is not None} <= {"d"}


async def test_filter_goes_on_behind_a_name(present: World) -> None:
    wanted = Filter(show_retired=True)

    assert [each.name for each in await listed(present.db, wanted, after="a", limit=2)] == ["b", "c"]
    assert [each.name for each in await listed(present.db, wanted, after="c", limit=2)] == ["d"]


async def test_what_envoys_are_engaged_in_is_found_for_those_asked_about(federation: World) -> None:
    experiment_id = await running(federation)
    await federation.register("c")
    await federation.submit("waits", envoys=("b", "c"))
    await federation.wait("a")

    async with federation.db.read() as tx:
        assert await envoy_lists.serving(tx, ["a", "b", "c"]) == {"a": experiment_id, "b": experiment_id}
        assert await envoy_lists.serving(tx, ["c", "a"]) == {"a": experiment_id}


seconds = st.integers(0, 60).map(float) | st.floats(0, 1e6)
periods = st.integers(1, 30).map(float) | st.floats(0.1, 60)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    beats=st.lists(st.tuples(seconds, periods, st.booleans()), min_size=1, max_size=12),
    ends=st.tuples(seconds, seconds),
    lease=st.timedeltas(timedelta(seconds=1), timedelta(seconds=60)),
)
@example(beats=[(0.0, 5.0, False)], ends=(10.0, 12.0), lease=timedelta(seconds=10))
@example(beats=[(0.0, 5.0, False)], ends=(0.0, 10.0), lease=timedelta(seconds=10))
def test_sql_and_the_domain_agree_on_who_is_online(
    migrated_url: str, beats: list[tuple[float, float, bool]], ends: tuple[float, float], lease: timedelta
) -> None:
    time = ServiceTime(now=max(ends), up_since=min(ends))
    sent = {f"e{next(NUMBERS)}": beat for beat in beats}
    there = {
        name: Liveness(seen, limit_seconds(period, lease.total_seconds()), left)
        for name, (seen, period, left) in sent.items()
    }

    async def found() -> set[str]:
        db = open_database(migrated_url)
        try:
            for name, (seen, period, left) in sent.items():
                await changes.add_heartbeat(db, name, seen=seen, period=period, left=left)
            online = envoy_lists.online(time, lease=lease)
            return set(await presence_rows.envoys_with_heartbeats(db, online)) & sent.keys()
        finally:
            await db.close()

    assert asyncio.run(found()) == {name for name, liveness in there.items() if liveness.online(time)}
