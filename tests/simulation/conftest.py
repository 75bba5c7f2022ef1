"""Where simulations keep their databases: in memory where there is enough of it, since each run makes a new one."""

import asyncio
import gc
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, parent

NUMBERS = count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the connections of directors that died be found open: the operating system takes them back, not they."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:unclosed (connection|transport|<socket):ResourceWarning")
            )


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Find them before the next test, which is to leave none."""
    yield
    gc.collect()


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder for files that nobody needs afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=parent()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def new_sqlite(shelf: Path, migrated_sqlite: Path) -> Callable[[], str]:
    """Makes a SQLite database with the schema, and returns its URL."""
    return lambda: f"sqlite:///{shutil.copy(migrated_sqlite, shelf / f'{next(NUMBERS)}.db')}"


@pytest.fixture
def new_postgresql(postgres: PostgresServer, migrated_postgres: str) -> Callable[[], str]:
    """Makes a PostgreSQL database with the schema, and returns its URL."""
    return lambda: asyncio.run(postgres.create_database(f"simulation_{next(NUMBERS)}", template=migrated_postgres))


@pytest.fixture
def new_database(engine_kind: str, request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes databases on each engine in turn."""
    made: Callable[[], str] = request.getfixturevalue(f"new_{engine_kind}")
    return made


@pytest.fixture(scope="session")
def offset(testrun_uid: str) -> int:
    """Which of every seven points this run takes, the same in all workers; set DIRECTOR_OFFSET to take it again."""
    chosen = int(os.environ.get("DIRECTOR_OFFSET", zlib.crc32(testrun_uid.encode()) % 7))
    print(f"DIRECTOR_OFFSET={chosen}")
    return chosen
