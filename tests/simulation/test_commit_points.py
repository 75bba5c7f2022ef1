"""Whatever commit a director dies next to, the federation ends as if nothing had happened."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import director.services
from director.errors import Unavailable
from tests.simulation.deaths import Point, die_at
from tests.simulation.endings import outcome
from tests.simulation.forks import Fork, Forks
from tests.simulation.harness import Federation
from tests.simulation.scenario import small_federation

SHARES = 8
"""Parts of a test, for workers to share."""
SEVENTH = 7
TIMERS = {"heartbeats", "tick", "renew", "reap", "free", "admission", "sessions", "sweep"}
"""Commits that follow the clock: their numbers say nothing about the work."""
ELSEWHERE = {
    "drop history", "forget", "give up", "give up upload", "leave", "new epoch", "prune models", "reap",
    "refuse submission", "release", "remove", "renew", "report failure", "review", "seal fold", "seal upload",
}  # fmt: skip
"""Commits that this federation never comes to: of PostgreSQL alone, of what goes wrong, of what is kept no longer."""
New = Callable[[], str]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES))
def test_death_next_to_any_commit_changes_nothing(share: int, new_sqlite: New, shelf: Path) -> None:
    forks = Forks(copied=lambda number: number % SHARES == share)
    expected = outcome(forks.run(new_sqlite(), small_federation()))
    assert not expected.broken

    failed = {}
    for number, fork in enumerate(forks.forks[share::SHARES]):
        if said := outcome(fork.federation(shelf / f"fork-{number}.db")).unlike(expected):
            failed[str(fork)] = said

    assert not failed


def deaths(new: New, chosen: Callable[[int], bool]) -> dict[str, list[str]]:
    """Have a process die at each of the chosen points in a run of its own; return those that changed something."""
    forks = Forks(copied=lambda _number: False)
    expected = outcome(forks.run(new(), small_federation()))
    assert not expected.broken
    failed = {}
    for number, fork in enumerate(fork for fork in forks.forks if not by_the_clock(fork)):
        if chosen(number):
            federation = Federation(new(), small_federation(), fate=die_at(fork.points[0]))
            if said := outcome(federation).unlike(expected):
                failed[str(fork)] = said
            assert federation.directors == 2, f"{fork} was never passed"
    return failed


def by_the_clock(fork: Fork) -> bool:
    """Whether a death is next to nothing but timers."""
    return all(point.operation in TIMERS for point in fork.points)


@pytest.mark.system
@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES // 2))
def test_death_next_to_every_seventh_commit_changes_nothing_on_postgresql(
    share: int, new_postgresql: New, offset: int
) -> None:
    turn = range(offset + SEVENTH * share, 10**6, SEVENTH * (SHARES // 2))

    failed = deaths(new_postgresql, lambda number: number in turn)

    assert not failed


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("share", range(SHARES))
def test_death_next_to_any_commit_changes_nothing_on_postgresql(share: int, new_postgresql: New) -> None:
    failed = deaths(new_postgresql, lambda number: number % SHARES == share)

    assert not failed


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("share", range(SHARES))
def test_process_that_really_dies_does_as_its_copy_does(share: int, new_sqlite: New) -> None:
    failed = deaths(new_sqlite, lambda number: number % SHARES == share)

    assert not failed


@pytest.mark.parametrize("remainder", range(SEVENTH))
def test_commit_that_is_executed_and_then_timed_out_changes_nothing(remainder: int, new_sqlite: New) -> None:
    expected = outcome(Federation(new_sqlite(), small_federation()))
    timed_out = []

    def lose(point: Point) -> None:
        if point.when == "after" and federation.tally.total() % SEVENTH == remainder:
            timed_out.append(point)
            raise Unavailable("timed out")

    federation = Federation(new_sqlite(), small_federation(), fate=lose)
    found = outcome(federation)

    assert not found.unlike(expected)
    assert len(timed_out) > 15


def test_every_kind_of_commit_of_the_services_is_crashed_here_or_known_to_be_crashed_elsewhere(new_sqlite: New) -> None:
    federation = Federation(new_sqlite(), small_federation())
    services = Path(director.services.__file__).parent.glob("*.py")
    named = {name for each in services for name in re.findall(r'db\.write\("([^"]+)"', each.read_text())}

    outcome(federation)

    assert named == set(federation.tally) | ELSEWHERE
