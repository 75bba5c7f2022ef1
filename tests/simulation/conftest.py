"""Where simulations keep their databases: in memory where there is enough of it, since each run makes a new one."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.postgres import parent


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder for files that nobody needs afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=parent()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def new_file(shelf: Path, migrated_sqlite: Path) -> Callable[[], str]:
    """Makes a SQLite database with the schema, and returns its URL."""
    numbers = count()

    def make() -> str:
        return f"sqlite:///{shutil.copy(migrated_sqlite, shelf / f'{next(numbers)}.db')}"

    return make


@pytest.fixture(scope="session")
def offset(testrun_uid: str) -> int:
    """Which of every seven points is taken in this run, the same in all workers; set DIRECTOR_OFFSET to repeat it."""
    chosen = int(os.environ.get("DIRECTOR_OFFSET", zlib.crc32(testrun_uid.encode()) % 7))
    print(f"DIRECTOR_OFFSET={chosen}")
    return chosen
