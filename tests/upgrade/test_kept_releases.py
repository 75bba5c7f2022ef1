"""What earlier releases left behind is upgraded and gone on with, and they go on themselves on the schema of today."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from director.domain.types import ExperimentState
from director.services import checking
from director.store.engine import schema
from director.store.engine.database import Database
from tests.acceptance.processes import Machine
from tests.services.busy import busy
from tests.store.words import rows
from tests.upgrade.kept import RELEASES, restore_postgresql, restore_sqlite, wheel_of

FOR_EVER = {
    "experiments that ended": "SELECT * FROM experiments WHERE finished_at IS NOT NULL ORDER BY id",
    "contributions": "SELECT experiment_id, round, envoy, task, samples, digest, received_at FROM contributions",
    "models": "SELECT experiment_id, number, digest FROM models",
    "metrics": "SELECT * FROM metrics",
    "events": "SELECT * FROM events",
}


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def left(release: str, engine_kind: str, database_url: str) -> str:
    """The database that a release left, with the schema of today."""
    if engine_kind == "sqlite":
        restore_sqlite(release, Path(database_url.removeprefix("sqlite:///")))
    else:
        asyncio.run(restore_postgresql(release, database_url))
    schema.upgrade(database_url)
    return database_url


async def history(db: Database) -> dict[str, set[Any]]:
    return {what: {repr(row) for row in await rows(db, query)} for what, query in FOR_EVER.items()}


async def test_experiments_that_were_on_their_way_go_on_and_nothing_is_lost(left: str) -> None:
    async with busy(left, "abcdefghi") as federation:
        before = await history(federation.world.db)
        states = {
            name: await federation.ended(name)
            for name in ("collecting", "aggregating", "relaxed", "waiting", "finished")
        }
        after = await history(federation.world.db)
        found = (await checking.report(federation.world.db)).findings

    assert set(states.values()) == {ExperimentState.FINISHED}
    assert all(before[what] <= after[what] for what in FOR_EVER)
    assert min(len(kept) for kept in before.values()) > 0
    assert found == []


@pytest.fixture
def installed(release: str, tmp_path: Path) -> Iterator[Machine]:
    """A machine on which the release is installed, beside the libraries of today."""
    copy, folder = tmp_path / "copy", tmp_path / "folder"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(copy)]
    subprocess.run([*install, str(wheel_of(release))], check=True, capture_output=True)
    with Machine(folder, {"DIRECTOR_CLIENT_ID": "researcher"}, warm=False) as machine:
        machine.environment["PYTHONPATH"] = str(copy)
        yield machine


@pytest.mark.system
def test_release_serves_on_the_schema_of_today(installed: Machine, left: str) -> None:
    installed.serve("--database", left)

    names = {each["name"] for each in installed.ask("experiment", "list")}

    assert names >= {"collecting", "aggregating", "relaxed", "waiting", "finished"}
    assert installed.ask("db", "fsck", "--database", left)["findings"] == []
