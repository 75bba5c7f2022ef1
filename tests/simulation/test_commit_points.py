"""Whatever commit a director dies next to, the federation ends as if nothing had happened."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.simulation.deaths import Point, die_at
from tests.simulation.endings import Ending, broken_promises, differences, ending
from tests.simulation.forks import Forks
from tests.simulation.harness import Federation
from tests.simulation.one_thread import one_thread
from tests.simulation.scenario import small_federation

SHARES = 6
"""Parts that may be run by different workers."""
SEVENTH = 7
NUMBERS = itertools.count()
TIMERS = ("heartbeats", "tick", "renew", "reap", "sessions", "sweep")
"""Commits whose number follows the clock rather than the work."""


async def run(federation: Federation) -> tuple[Ending, list[str]]:
    """Run a federation to its end; return what it leaves, and what it promised and did not keep."""
    await federation.run()
    found = await ending(federation.director.db), await broken_promises(federation.director.db, federation.clients)
    await federation.close()
    return found


def complaints(found: tuple[Ending, list[str]], expected: Ending) -> list[str]:
    """Say what became of a run that should have ended as expected."""
    return differences(found[0], expected) + found[1]


@pytest.mark.parametrize("share", range(SHARES))
def test_death_next_to_any_commit_changes_nothing(share: int, new_file: Callable[[], str], shelf: Path) -> None:
    forks = Forks(copied=lambda number: number % SHARES == share)
    with one_thread():
        expected, broken = asyncio.run(run(forks.run(new_file(), small_federation())))
    assert not broken
    failed = {}

    for number, fork in enumerate(forks.forks[share::SHARES]):
        with one_thread():
            found = asyncio.run(run(fork.federation(shelf / f"fork-{number}.db")))
        if said := complaints(found, expected):
            failed[str(fork)] = said

    assert not failed


def fatal_on(postgres: PostgresServer, template: str) -> tuple[Ending, list[list[Point]]]:
    """Run undisturbed on PostgreSQL; return the ending, and the points that are one death each."""
    forks = Forks()
    with one_thread():
        expected, broken = asyncio.run(run(forks.run(copy_of(postgres, template), small_federation())))
    assert not broken
    return expected, [fork.points for fork in forks.forks]


def copy_of(postgres: PostgresServer, template: str) -> str:
    """Return the URL of a new database with the schema."""
    return asyncio.run(postgres.create_database(f"simulation_{next(NUMBERS)}", template=template))


def deaths_on(postgres: PostgresServer, template: str, wanted: Callable[[int], bool]) -> dict[str, list[str]]:
    """Die at the wanted points on PostgreSQL, each time in a run of its own; return what went wrong."""
    expected, points = fatal_on(postgres, template)
    failed = {}
    for number, same in enumerate(points):
        if wanted(number):
            with one_thread():
                federation = Federation(copy_of(postgres, template), small_federation(), fate=die_at(same[0]))
                found = asyncio.run(run(federation))
            assert federation.directors == 2, f"{same[0]} was never passed"
            if said := complaints(found, expected):
                failed[str(same[0])] = said
    return failed


@pytest.mark.parametrize("share", range(SHARES))
def test_death_next_to_every_seventh_commit_changes_nothing_on_postgresql(
    share: int, postgres: PostgresServer, migrated_postgres: str, offset: int
) -> None:
    failed = deaths_on(
        postgres, migrated_postgres, lambda number: number % SEVENTH == offset and number // SEVENTH % SHARES == share
    )

    assert not failed


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_death_next_to_any_commit_changes_nothing_on_postgresql(
    postgres: PostgresServer, migrated_postgres: str
) -> None:
    assert not deaths_on(postgres, migrated_postgres, lambda _number: True)
