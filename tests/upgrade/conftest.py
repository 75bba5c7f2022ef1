"""The databases that earlier releases left, as they were and with the schema of today."""

import asyncio
from pathlib import Path

import pytest

from director.store.engine import schema
from tests.upgrade.kept import RELEASES, restore_postgresql, restore_sqlite


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each release in turn."""
    return str(request.param)


@pytest.fixture
def left(release: str, engine_kind: str, database_url: str) -> str:
    """The database that a release left, as it left it."""
    if engine_kind == "sqlite":
        restore_sqlite(release, Path(database_url.removeprefix("sqlite:///")))
    else:
        asyncio.run(restore_postgresql(release, database_url))
    return database_url


@pytest.fixture
def upgraded(left: str) -> str:
    """The same, with the schema of today."""
    schema.upgrade(left)
    return left
