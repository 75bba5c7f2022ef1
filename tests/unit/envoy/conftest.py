"""A scripted director on a real port, an envoy's client of it, and a worker; pauses are short."""

from datetime import timedelta
from pathlib import Path

import pytest

from director import errors
from director.envoy import connections, participation, registration
from director.envoy.shard_descriptor import ShardSpec
from director.envoy.worker_process import Worker
from tests.unit.envoy.scripted_director import ScriptedDirector, calling, serving
from tests.unit.envoy.worker_material import SHARD


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    for kind in (errors.Later, errors.DiskFull):
        monkeypatch.setattr(kind, "retry_after", timedelta(0))
    monkeypatch.setattr(connections, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(registration, "AFTER_ERROR_SECONDS", 0.1)
    monkeypatch.setattr(registration, "RETIRED_SECONDS", 0.1)
    monkeypatch.setattr(participation, "MOVED_ON_SECONDS", 0.01)


@pytest.fixture
def director() -> ScriptedDirector:
    return ScriptedDirector()


@pytest.fixture
async def client(director):
    async with serving(director) as port, calling(port) as made:
        yield made


@pytest.fixture
def shard_folder(tmp_path, monkeypatch) -> Path:
    """Make a directory with a shard's module in it, on the search path."""
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "worker_test_shard.py").write_text(SHARD)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def workspace(tmp_path) -> Path:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return workspace


@pytest.fixture
def worker(shard_folder, workspace) -> Worker:
    return Worker(workspace, ShardSpec("worker_test_shard:Numbers", {"first": 41}))
