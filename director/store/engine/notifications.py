"""Topics between directors over LISTEN/NOTIFY, on a connection of their own, off the path of every write.

A NOTIFY inside a transaction would make all commits wait for each other. So topics are gathered and sent by one
statement; those that arrive meanwhile go with the next. A lost topic costs a poll, nothing else.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from director.errors import Unavailable
from director.store.engine.failures import first_line
from director.store.engine.postgresql import connect
from director.store.engine.topics import Topic

CHANNEL = "director"
CHECK_SECONDS = 10.0
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


class Notifications:
    """Sends this process's topics to the others and receives theirs."""

    def __init__(self, url: str, *, received: Callable[[Sequence[Topic]], None], missed: Callable[[], None]) -> None:
        """Say whom to tell about topics, and about a stretch in which some may have been missed."""
        self._url = url
        self._received = received
        self._missed = missed
        self._pending: set[Topic] = set()
        self._changed = asyncio.Event()

    def send(self, topics: Sequence[Topic]) -> None:
        """Have the others told, soon."""
        self._pending.update(topics)
        self._changed.set()

    async def run(self, succeeded: Callable[[], None]) -> None:
        """Send and receive over one connection, until cancelled; call `succeeded` after each exchange.

        Raises:
            Unavailable: the connection is refused or lost; meanwhile the directors poll.
        """
        try:
            await self._serve(await connect(self._url), succeeded)
        except FAILURES as error:
            raise Unavailable(f"no hints between directors, who poll meanwhile: {first_line(error)}") from error

    async def _serve(self, connection: Any, succeeded: Callable[[], None]) -> None:
        try:
            own = connection.get_server_pid()

            def hear(_connection: object, pid: int, _channel: str, payload: object) -> None:
                if pid != own:  # what this process sent it knows already
                    self._received([Topic.decode(str(payload))])

            await connection.add_listener(CHANNEL, hear)
            connection.add_termination_listener(lambda _connection: self._changed.set())
            self._missed()  # only now is nothing missed any more: look at everything once
            while not connection.is_closed():
                self._changed.clear()
                topics, self._pending = self._pending, set()
                if topics:
                    payloads = [topic.encode() for topic in topics]
                    await connection.execute(f"SELECT pg_notify('{CHANNEL}', p) FROM unnest($1::text[]) p", payloads)
                succeeded()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._changed.wait()
                    continue
                await connection.fetchval("SELECT 1", timeout=5)
            raise ConnectionError("the server closed the connection")
        finally:
            connection.terminate()
