"""Where simulations keep their databases: in memory where there is enough of it, since each run makes a new one."""

import shutil
import tempfile
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
