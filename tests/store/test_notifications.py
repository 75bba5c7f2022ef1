"""Hints reach the other directors, each at once, and a stretch without them is made up for (PostgreSQL)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from director.store.engine import notifications
from director.store.engine.database import Hint
from director.store.engine.notifications import Notifications
from tests.store.words import SOON, only_postgresql

pytestmark = only_postgresql

PATIENCE = 20


class Listener:
    """A director that listens, and what it heard."""

    def __init__(self, url: str) -> None:
        self.heard: asyncio.Queue[Hint] = asyncio.Queue()
        self.connected: asyncio.Queue[None] = asyncio.Queue()
        self.notifications = Notifications(url, received=self.receive, missed=lambda: self.connected.put_nowait(None))

    def receive(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            self.heard.put_nowait(hint)

    async def hears(self) -> Hint:
        return await asyncio.wait_for(self.heard.get(), PATIENCE)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    listener = Listener(url)
    task = asyncio.create_task(listener.notifications.run())
    try:
        await asyncio.wait_for(listener.connected.get(), PATIENCE)
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_hint_reaches_every_other_director_and_not_its_sender(database_url: str) -> None:
    async with listening(database_url) as sender, listening(database_url) as one, listening(database_url) as two:
        sender.notifications.send([("envoy", "ä / 'x'"), ("experiment", 3)])

        for listener in (one, two):
            assert {await listener.hears(), await listener.hears()} == {("envoy", "ä / 'x'"), ("experiment", 3)}
        await asyncio.sleep(SOON)
        assert sender.heard.empty()


async def test_hints_that_arrive_together_are_told_once(database_url: str) -> None:
    async with listening(database_url) as sender, listening(database_url) as other:
        for _ in range(50):
            sender.notifications.send([("claim", 0)])
        sender.notifications.send([("admission", 0)])

        assert {await other.hears(), await other.hears()} == {("claim", 0), ("admission", 0)}
        await asyncio.sleep(SOON)
        assert other.heard.empty()


async def test_director_that_lost_its_connection_looks_at_everything_and_hears_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RETRY_SECONDS", 0.01)
    async with listening(database_url) as sender, listening(database_url) as other:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()
        for listener in (sender, other):
            await asyncio.wait_for(listener.connected.get(), PATIENCE)

        sender.notifications.send([("claim", 0)])

        assert await other.hears() == ("claim", 0)


async def test_hint_sent_while_there_is_no_connection_goes_out_with_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(database_url) as other:
        early = Listener(database_url)
        early.notifications.send([("claim", 0)])
        task = asyncio.create_task(early.notifications.run())

        assert await other.hears() == ("claim", 0)

        task.cancel()
        await asyncio.wait([task])
