"""The store's own fixtures: a database, and a federation whose time stands still until it is moved."""

from collections.abc import AsyncIterator

import pytest

from director.domain.types import ExperimentId
from director.effects import ManualClock
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from tests.store.words import enter, running
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


@pytest.fixture
async def plain(migrated_url: str) -> AsyncIterator[Database]:
    """A database without a director, to write scratch rows to."""
    opened = open_database(migrated_url)
    yield opened
    await opened.close()


@pytest.fixture
async def unowned(federation: World) -> ExperimentId:
    """An experiment that runs and that nobody owns; and directors `one` and `two`, who might."""
    await enter(federation.db, "one", "two")
    return await running(federation)
