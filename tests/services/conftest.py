"""A federation whose time stands still until it is moved."""

from collections.abc import AsyncIterator

import pytest

from director.effects import ManualClock
from tests.world import World, world


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `timed`."""
    return ManualClock()


@pytest.fixture
async def timed(migrated_url: str, clock: ManualClock) -> AsyncIterator[World]:
    """A federation on each engine in turn; its time stands still until the clock is moved."""
    async with world(migrated_url, clock=clock) as opened:
        yield opened
