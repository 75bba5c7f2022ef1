"""A director on a real port, and those who call it: driven by hand, or whole in a thread of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from director.client import Federation
from director.envoy import participation, registration
from director.wire.server import Server
from tests.wire.calls import SETTINGS, Client
from tests.wire.federated import SHARD, Federated
from tests.wire.proxy import Proxy
from tests.wire.running import Collaborator, RunningDirector
from tests.wire.traffic import Traffic
from tests.world import PLAN, World, world


@pytest.fixture
def engine_kind(request: pytest.FixtureRequest) -> str:
    """SQLite; both engines where a test is marked with `on_both_engines`."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def settings() -> dict[str, Any]:
    """What is set otherwise than by default; modules and tests have their own."""
    return {}


@pytest.fixture
async def federation(migrated_url: str, settings: dict[str, Any]) -> AsyncIterator[World]:
    """A federation that is driven by hand."""
    async with world(migrated_url, **SETTINGS | settings) as opened:
        yield opened


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Notes what crosses the wires of directors that start after it; name it before them."""
    noted = Traffic()
    monkeypatch.setattr("director.wire.server.ErrorInterceptor", lambda: noted)
    return noted


@pytest.fixture
async def server(federation: World) -> AsyncIterator[Server]:
    """Serves the federation."""
    opened = Server(federation.process)
    yield opened
    await opened.stop(0)


@pytest.fixture
async def port(server: Server) -> int:
    """Where the federation is served, without TLS."""
    return await server.start("127.0.0.1", 0, tls=None)


@pytest.fixture
async def clients(port: int) -> AsyncIterator[Callable[[str], Client]]:
    """Makes clients, by name."""
    async with AsyncExitStack() as stack:

        def make(name: str) -> Client:
            client = Client(port, name)
            stack.push_async_callback(client.close)
            return client

        yield make


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


@pytest.fixture
async def federated(tmp_path, monkeypatch, unused_tcp_port) -> AsyncIterator[Federated]:
    """A director that can be restarted, and whole envoys."""
    (tmp_path / "envoy_test_shard.py").write_text(SHARD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "AFTER_ERROR_SECONDS", 0.5)
    monkeypatch.setattr(registration, "RETIRED_SECONDS", 0.5)
    monkeypatch.setattr(participation, "MOVED_ON_SECONDS", 0.05)
    opened = Federated(tmp_path, unused_tcp_port)
    await opened.start_director()
    yield opened
    await opened.stop_envoys()
    await opened.stop_director()
