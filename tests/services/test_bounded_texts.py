"""Reasons, what an experiment waits for, and the details of events name twenty envoys and count the others."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from director.domain.limits import MAX_LISTED
from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import InvalidArgument
from tests.services.words import OPERATOR, fail, finished, history, reason_of, state_of
from tests.store.words import live, owned
from tests.tables import event_rows, everything
from tests.world import PLAN, RESEARCHER, World

SITES = [f"site-{number:02}" for number in range(50)]
REST = len(SITES) - MAX_LISTED
NAME = re.compile(r"site-\d\d")


def named_in(text: str) -> list[str]:
    """Return the envoys that a text names, each once, in order."""
    return list(dict.fromkeys(NAME.findall(text)))


def lists_in(details: Any) -> Iterator[list[Any]]:
    """Yield the lists that the details of an event hold."""
    for value in details.values():
        if isinstance(value, list):
            yield value


async def waiting_for(federation: World) -> tuple[str, ...]:
    return (await federation.process.experiments.get("experiment", RESEARCHER)).waiting_for


async def test_every_event_of_an_experiment_names_twenty_envoys_and_counts_them_all(federation: World) -> None:
    experiment_id = await finished(federation, envoys=SITES)

    events = {event.kind: event.details for event in await history(federation, experiment_id)}

    for kind, key in [
        ("experiment_submitted", "collaborators"),
        ("experiment_started", "queued"),
        ("round_opened", "asked"),
        ("round_frozen", "counted"),
    ]:
        assert (events[kind][key], events[kind][f"{key}_count"]) == (SITES[:MAX_LISTED], len(SITES))
    for each in await event_rows.everything(federation.db):
        assert all(len(found) <= MAX_LISTED for found in lists_in(each.details)), each


async def test_experiment_that_waits_for_its_quorum_names_twenty_of_those_that_are_offline(
    timed: World, clock: ManualClock
) -> None:
    await timed.register(*SITES)
    await live(timed, clock, 200)
    await timed.submit(envoys=SITES)

    [quorum, *absent, others] = await waiting_for(timed)

    assert quorum.startswith("its quorum: 0 of at least 50 envoys are online")
    assert [named_in(each) for each in absent] == [[each] for each in SITES[:MAX_LISTED]]
    assert others == f"{REST} more envoys are not available"


async def test_experiment_that_waits_for_busy_envoys_names_twenty_of_them(federation: World) -> None:
    await owned(federation, "another", SITES)
    await federation.submit(envoys=SITES)

    [*busy, others] = await waiting_for(federation)

    assert busy == [f"envoy {each}: busy with experiment another" for each in SITES[:MAX_LISTED]]
    assert others == f"{REST} more envoys are not available"


async def test_round_that_waits_for_results_names_twenty_of_its_envoys(federation: World) -> None:
    await federation.drive(await owned(federation, envoys=SITES))

    [*results, others, end] = await waiting_for(federation)

    assert [named_in(each) for each in results] == [[each] for each in SITES[:MAX_LISTED]]
    assert others == f"{REST} more envoys have open results"
    assert end.startswith("round 1: its deadline is in")


async def test_experiment_behind_many_others_names_twenty_of_them(federation: World) -> None:
    await owned(federation, "running", ("a", "b"))
    for each in SITES:
        await federation.submit(each, envoys=("a", "b"))
    await federation.submit(envoys=("a", "b"))

    [place] = [each for each in await waiting_for(federation) if each.startswith("its place in the queue")]

    assert place.startswith("its place in the queue: 50 before it")
    assert named_in(place) == SITES[:MAX_LISTED]
    assert f"{REST} more" in place


async def test_reason_of_a_start_that_came_to_nothing_names_twenty_envoys(timed: World, clock: ManualClock) -> None:
    await timed.register(*SITES)
    await live(timed, clock, 200)
    await timed.submit(envoys=SITES, plan=PLAN + "start_deadline: 60\n")
    await live(timed, clock, 61)

    await timed.admit()

    names = ", ".join(SITES[:MAX_LISTED])
    late = f"{names} and {REST} more stayed away for more than 60 s"
    assert await reason_of(timed) == f"not started within its start deadline: {late}"


async def test_reason_of_a_start_without_retired_envoys_names_twenty_of_them(federation: World) -> None:
    await federation.register(*SITES)
    await federation.submit(envoys=SITES)
    for each in SITES:
        await federation.process.federation.retire(each, OPERATOR)

    await federation.admit()

    names = ", ".join(SITES[:MAX_LISTED])
    assert await reason_of(federation) == f"its quorum is out of reach: {names} and {REST} more failed before the start"


async def test_reason_of_a_round_at_its_deadline_names_twenty_envoys(timed: World, clock: ManualClock) -> None:
    fence = await owned(timed, envoys=SITES, plan=PLAN + "round_deadline: 60\n")
    await timed.drive(fence)

    await live(timed, clock, 61)
    await timed.drive(fence)

    reason = await reason_of(timed)
    assert named_in(reason) == SITES[:MAX_LISTED]
    assert reason.endswith(f" and {REST} more")


async def test_reason_of_a_round_that_lost_its_envoys_quotes_twenty_failures_in_brief(federation: World) -> None:
    fence = await owned(federation, envoys=SITES)
    await federation.drive(fence)
    uid = (await federation.row("experiment")).uid
    for each in SITES:
        await federation.wait(each)
        await fail(federation, each, uid, "x" * 5000 + "the last line", task="train", error_type="ValueError")

    await federation.drive(fence)

    assert await state_of(federation) is ExperimentState.FAILED
    reason = await reason_of(federation)
    assert named_in(reason) == SITES[:MAX_LISTED]
    assert reason.endswith(f"; {REST} more failed")
    assert reason.count("the last line") == MAX_LISTED
    assert len(reason) < MAX_LISTED * 1200


async def test_refusal_of_unknown_collaborators_names_twenty_of_them(federation: World) -> None:
    before = await everything.contents(federation.db)

    with pytest.raises(InvalidArgument) as refusal:
        await federation.submit(envoys=SITES)

    assert named_in(str(refusal.value)) == SITES[:MAX_LISTED]
    assert str(refusal.value).endswith(f" and {REST} more")
    assert await everything.contents(federation.db) == before
