"""`director demo` as a user runs it: it trains, and a director that is killed on the way changes nothing."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import PostgresServer

ROUNDS, ENVOYS = 4, 3


def demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "director.cli.main", "demo", "--rounds", str(ROUNDS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(output: str) -> str:
    found = re.search(r"last model: sha256 ([0-9a-f]{64})", output)
    assert found is not None, output
    return found[1]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(demo("--keep", str(tmp_path_factory.mktemp("undisturbed"))))


def test_director_killed_in_a_round_gives_the_same_model_to_the_bit(undisturbed: str, tmp_path: Path) -> None:
    output = demo("--crash", "--keep", str(tmp_path))

    assert "the director is killed in the middle of round 2" in output
    assert digest(output) == undisturbed
    with sqlite3.connect(f"file:{tmp_path / 'director.db'}?mode=ro", uri=True) as database:
        contributions = database.execute("SELECT COUNT(*) FROM contributions").fetchone()[0]
        metrics, last = database.execute("SELECT COUNT(*), MAX(seq) FROM metrics").fetchone()
        kinds = [row[0] for row in database.execute("SELECT kind FROM events WHERE stream = 1 ORDER BY seq")]
        directors = database.execute("SELECT COUNT(*) FROM directors").fetchone()[0]
    database.close()
    assert contributions == ENVOYS * ROUNDS * 2 + ENVOYS
    assert metrics == last
    assert (kinds.count("round_closed"), kinds.count("experiment_claimed"), directors) == (ROUNDS + 1, 2, 2)
    assert kinds[-1] == "experiment_finished"
    assert (tmp_path / "best.safetensors").exists()


def test_same_model_comes_out_of_postgresql(undisturbed: str, postgres: PostgresServer, tmp_path: Path) -> None:
    import asyncio

    url = asyncio.run(postgres.create_database("demo"))

    assert digest(demo("--crash", "--database", url, "--keep", str(tmp_path))) == undisturbed


def test_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    command = [sys.executable, "-m", "director.cli.main", "demo", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path} is not empty; name a new folder with --keep\n"
