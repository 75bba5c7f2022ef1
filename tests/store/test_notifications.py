"""Topics reach the other directors, each at once, and a stretch without them is made up for (PostgreSQL)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from director.effects import SeededEntropy
from director.services.supervision import supervise
from director.store.engine.notifications import Notifications
from director.store.engine.topics import Topic
from tests.store.words import SOON, only_postgresql

pytestmark = only_postgresql

PATIENCE = 20


class Listener:
    """A director that listens, and what it heard."""

    def __init__(self, url: str) -> None:
        self.heard: asyncio.Queue[Topic] = asyncio.Queue()
        self.connected: asyncio.Queue[None] = asyncio.Queue()
        self.notifications = Notifications(url, received=self.receive, missed=lambda: self.connected.put_nowait(None))

    def receive(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            self.heard.put_nowait(topic)

    async def hears(self) -> Topic:
        return await asyncio.wait_for(self.heard.get(), PATIENCE)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    listener = Listener(url)
    task = asyncio.create_task(supervise("notifications", listener.notifications.run, SeededEntropy(1)))
    try:
        await asyncio.wait_for(listener.connected.get(), PATIENCE)
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_topic_reaches_every_other_director_and_not_its_sender(database_url: str) -> None:
    async with listening(database_url) as sender, listening(database_url) as one, listening(database_url) as two:
        sender.notifications.send([Topic.envoy("ä / 'x'"), Topic.experiment(3)])

        for listener in (one, two):
            assert {await listener.hears(), await listener.hears()} == {Topic.envoy("ä / 'x'"), Topic.experiment(3)}
        await asyncio.sleep(SOON)
        assert sender.heard.empty()


async def test_topics_that_arrive_together_are_told_once(database_url: str) -> None:
    async with listening(database_url) as sender, listening(database_url) as other:
        for _ in range(50):
            sender.notifications.send([Topic.claim()])
        sender.notifications.send([Topic.admission()])

        assert {await other.hears(), await other.hears()} == {Topic.claim(), Topic.admission()}
        await asyncio.sleep(SOON)
        assert other.heard.empty()


async def test_director_that_lost_its_connection_looks_at_everything_and_hears_again(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(database_url) as sender, listening(database_url) as other:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()
        for listener in (sender, other):
            await asyncio.wait_for(listener.connected.get(), PATIENCE)

        sender.notifications.send([Topic.claim()])

        assert await other.hears() == Topic.claim()
    assert {record.levelname for record in caplog.records} == {"WARNING"}, "a wait, not a defect"


async def test_topic_sent_while_there_is_no_connection_goes_out_with_the_next(database_url: str) -> None:
    async with listening(database_url) as other:
        early = Listener(database_url)
        early.notifications.send([Topic.claim()])
        task = asyncio.create_task(early.notifications.run(lambda: None))

        assert await other.hears() == Topic.claim()

        task.cancel()
        await asyncio.wait([task])
