"""A director on a real port, and those who call it."""

from pathlib import Path

import pytest

from director.client import Federation
from tests.wire.proxy import Proxy
from tests.wire.running import Collaborator, RunningDirector
from tests.world import PLAN


@pytest.fixture
def director(migrated_sqlite, tmp_path):
    """A director that can be stopped and started again."""
    path = tmp_path / "director.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    running = RunningDirector(path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def proxy(director):
    """A wire to the director that can be cut."""
    relay = Proxy(director.address)
    yield relay
    relay.close()


@pytest.fixture
def researcher(director):
    """The federation, as a researcher sees it."""
    with Federation(director.address, client_id="researcher") as opened:
        yield opened


@pytest.fixture
def envoy(director):
    """An envoy that is registered."""
    collaborator = Collaborator(director.address, "a")
    yield collaborator
    collaborator.close()


@pytest.fixture
def make_workspace(tmp_path):
    """Makes workspaces, by name and plan."""

    def make(name: str = "workspace", plan: str = PLAN) -> Path:
        folder: Path = tmp_path / name
        (folder / "plan").mkdir(parents=True)
        (folder / "plan" / "plan.yaml").write_text(plan)
        (folder / "work.py").write_text("# the code\n")
        return folder

    return make


@pytest.fixture
def workspace(make_workspace):
    """A workspace with a good plan."""
    return make_workspace()
