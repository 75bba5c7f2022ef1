"""The thread that renews the lease survives refusals, is started again when it dies, and never extends a lost lease."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from director.errors import Unavailable
from director.services import lease_thread, supervision
from director.services.supervision import supervise
from director.store.engine import postgresql
from director.store.engine.database import Database, Failpoints
from director.store.engine.opening import open_database
from tests.services.replicas import running as at_work
from tests.store.words import only_postgresql, running
from tests.tables import changes, presence_rows
from tests.world import World, world

pytestmark = [only_postgresql, pytest.mark.usefixtures("impatient")]

PATIENCE = 30
SECOND = timedelta(seconds=1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again nearly at once."""
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", 0.01)


@pytest.fixture(autouse=True)
def talkative(caplog: pytest.LogCaptureFixture) -> None:
    """Record the end of trouble too."""
    caplog.set_level(logging.INFO)


class Refusing:
    """A server that refuses new connections until it is told to accept them."""

    def __init__(self, error: Callable[[], Exception], patch: pytest.MonkeyPatch) -> None:
        self.refused = 0
        self.until = float("inf")
        self._error = error
        self._connect = postgresql.connect
        patch.setattr(postgresql, "connect", self)

    async def __call__(self, url: str, **settings: str) -> Any:
        if self.refused < self.until:
            self.refused += 1
            raise self._error()
        return await self._connect(url, **settings)

    def accept(self) -> None:
        self.until = self.refused


async def expiry(federation: World, director_id: str | None) -> datetime:
    """Return when the lease of a director ends that was not declared dead."""
    assert director_id is not None
    expires_at, dead_at = await presence_rows.lease(federation.db, director_id)
    assert isinstance(expires_at, datetime)
    assert dead_at is None
    return expires_at


async def renewed(federation: World, *, after: datetime) -> None:
    """Wait until this director's lease lasts longer."""
    me = federation.process.presence.director_id
    async with asyncio.timeout(PATIENCE):
        while await expiry(federation, me) <= after:
            await asyncio.sleep(0.01)


def away(url: str) -> Database:
    """Return a database that cannot be reached."""

    class Away(Failpoints):
        def enter(self, name: str) -> None:
            raise Unavailable(f"no database for {name}")

    db = open_database(url)
    db.failpoints = Away()
    return db


async def settled() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(10):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def driving(experiment_id: int) -> list[str]:
    """The tasks that drive an experiment."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == f"experiment {experiment_id}"]


@asynccontextmanager
async def renewing(federation: World) -> AsyncIterator[None]:
    """Run the lease thread alone."""
    process = federation.process
    task = asyncio.create_task(supervise("lease thread", process.presence.lease_thread.run, process.runtime.entropy))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What supervision logged, without what may differ."""
    return [record.getMessage().split(" in ")[0] for record in caplog.records if record.name == supervision.__name__]


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        pytest.param(lambda: asyncpg.InvalidPasswordError("wrong password"), True, id="password"),
        pytest.param(lambda: asyncpg.InvalidCatalogNameError("no such database"), True, id="database"),
        pytest.param(lambda: ZeroDivisionError("no such luck"), False, id="defect"),
    ],
)
async def test_lease_is_renewed_again_after_refused_connections_and_that_is_logged_once(
    migrated_url: str,
    error: Callable[[], Exception],
    waits: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(migrated_url) as federation:
        me = federation.process.presence.director_id
        before = await expiry(federation, me)
        refusing = Refusing(error, monkeypatch)
        refusing.until = 5
        async with renewing(federation):
            await renewed(federation, after=before)

        assert refusing.refused == 5
        assert federation.process.presence.director_id == me
    beginning, end = troubles(caplog)
    assert beginning.startswith("renewing the lease: " + ("waiting: " if waits else "failed, trying again: "))
    assert end == "renewing the lease: back to normal after 5 failures"


async def test_director_whose_renewals_are_refused_for_a_lease_stops_and_registers_again_when_they_are_not(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(migrated_url, lease=SECOND) as federation:
        presence = federation.process.presence
        before = presence.director_id
        refusing = Refusing(lambda: asyncpg.InvalidPasswordError("refused"), monkeypatch)
        async with renewing(federation), asyncio.timeout(PATIENCE):
            while before not in await presence_rows.leases_expired(federation.db):
                await asyncio.sleep(0.01)
            assert presence.director_id is None
        refusing.accept()
        async with at_work(federation), asyncio.timeout(PATIENCE):
            while presence.director_id is None:
                await asyncio.sleep(0.01)
            now = presence.director_id
            assert now != before
            await renewed(federation, after=await expiry(federation, now))
            while before in await presence_rows.directors_alive(federation.db):
                await asyncio.sleep(0.01)

        assert presence.director_id == now


async def test_thread_that_dies_is_noticed_and_started_again(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Fatal(Failpoints):
        left = 1

        def enter(self, name: str) -> None:
            if name == "renew" and self.left:
                Fatal.left -= 1
                raise SystemExit("the thread dies")

    def opened(url: str, **more: Any) -> Database:
        db = open_database(url, **more)
        db.failpoints = Fatal()
        return db

    monkeypatch.setattr(lease_thread, "open_database", opened)
    async with world(migrated_url, lease=6 * SECOND) as federation:
        before = await expiry(federation, federation.process.presence.director_id)
        async with renewing(federation):
            await renewed(federation, after=before)

    assert Fatal.left == 0
    assert troubles(caplog) == [
        "lease thread: failed, trying again: RuntimeError: the thread that renews the lease ended",
        "lease thread: back to normal after 1 failure",
    ]


async def test_thread_of_a_loop_that_was_restarted_is_not_doubled(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        async with renewing(federation):
            await renewed(federation, after=await expiry(federation, federation.process.presence.director_id))
            first = federation.process.presence.lease_thread._thread
        async with renewing(federation):
            await settled()

            assert federation.process.presence.lease_thread._thread is first


async def test_thread_ends_when_its_director_leaves_and_renews_nothing_more(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        presence = federation.process.presence
        async with renewing(federation):
            await renewed(federation, after=await expiry(federation, presence.director_id))
        thread = presence.lease_thread._thread
        assert thread is not None

        await presence.leave()

        assert not thread.is_alive()
        await presence.renew(away(migrated_url))


async def test_director_that_lost_its_lease_drives_nothing_even_if_it_cannot_register_again(migrated_url: str) -> None:
    class Unwelcome(Failpoints):
        def enter(self, name: str) -> None:
            if name == "enter":
                raise Unavailable("not now")

    async with world(migrated_url, poll=timedelta(minutes=10)) as federation, at_work(federation):
        process = federation.process
        experiment_id = await running(federation)
        await eventually(lambda: bool(driving(experiment_id)))
        federation.db.failpoints = Unwelcome()
        await changes.declare_dead(federation.db)
        await process.presence.renew(federation.db)

        await eventually(lambda: not driving(experiment_id))

        assert process.presence.director_id is None


async def test_renewal_says_that_the_database_is_away(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        with pytest.raises(Unavailable):
            await federation.process.presence.renew(away(migrated_url))
