"""What every test may ask for: a database, empty or with the schema on it, on both engines."""

import asyncio
import gc
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.util import LRUCache

from director.store.engine import schema
from tests.postgres import PostgresServer, parent
from tests.world import World, world

NUMBERS = itertools.count()
COMPILED: LRUCache[Any, Any] = LRUCache(5000)


def pytest_configure() -> None:
    """Keep what tests write in memory, where there is enough: their databases wait for the disk at each commit."""
    if (memory := parent()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
    settings.register_profile("untimed", deadline=None)  # a busy machine is no finding
    settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: it stays to the end, and is looked through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Let all engines of a session share their compiled statements, which else each test would compile anew."""
    with pytest.MonkeyPatch.context() as patch:
        for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):
            patch.setattr(dialect, "__hash__", lambda self: hash(type(self)))
            patch.setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))
        event.listen(Engine, "engine_connect", share)
        yield
        event.remove(Engine, "engine_connect", share)


def share(connection: Connection) -> None:
    connection.engine._compiled_cache = COMPILED


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; without one the tests fail."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """The name of a database with the schema, to copy."""
    schema.upgrade(asyncio.run(postgres.create_database("migrated")))
    return "migrated"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "director.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_kind(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def database_url(engine_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if engine_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'director.db'}"
    else:
        yield from lent(request.getfixturevalue("postgres"), "template1")


@pytest.fixture
def migrated_url(engine_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the schema, and nothing in it."""
    if engine_kind == "sqlite":
        path = tmp_path / "director.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        yield from lent(request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres"))


def lent(server: PostgresServer, template: str) -> Iterator[str]:
    """Lend a database for the length of a test."""
    name = f"test_{next(NUMBERS)}"
    yield asyncio.run(server.create_database(name, template=template))
    server.give_back(name)


@pytest.fixture
async def federation(migrated_url: str) -> AsyncIterator[World]:
    """A federation on each engine in turn; nothing runs in the background."""
    async with world(migrated_url) as opened:
        yield opened
