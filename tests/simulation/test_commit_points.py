"""Whatever commit a director dies next to, the federation ends as if nothing had happened."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PostgresServer
from tests.simulation.deaths import die_at
from tests.simulation.endings import Ending, broken_promises, differences, ending
from tests.simulation.forks import Forks
from tests.simulation.harness import Federation
from tests.simulation.one_thread import one_thread
from tests.simulation.scenario import small_federation

SHARES = 8
"""Parts that may be run by different workers."""
SEVENTH = 7
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
