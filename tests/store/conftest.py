"""The store's own fixtures: a database, and a federation whose time stands still until it is moved."""

from collections.abc import AsyncIterator

import pytest

from director.effects import ManualClock
from director.store.database import Database
from tests.world import World, world


@pytest.fixture
def db(federation: World) -> Database:
    """A federation's database, on each engine in turn."""
    return federation.db


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `timed`."""
    return ManualClock()


@pytest.fixture
async def timed(migrated_url: str, clock: ManualClock) -> AsyncIterator[World]:
    """A federation whose time stands still until the clock is moved."""
    async with world(migrated_url, clock=clock) as opened:
        yield opened
