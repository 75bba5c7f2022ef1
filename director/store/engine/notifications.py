"""Hints between directors over LISTEN/NOTIFY, on a connection of their own, off the path of every write.

A NOTIFY inside a transaction would make all commits wait for each other. So hints are gathered and sent by one
statement; those that arrive meanwhile go with the next. Lost ones cost a poll, nothing else.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from director.store.engine.database import Hint
from director.store.engine.postgresql import connect

log = logging.getLogger(__name__)

CHANNEL = "director"
CHECK_SECONDS = 10.0
RETRY_SECONDS = 1.0
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


class Notifications:
    """Sends this process's hints to the others and receives theirs."""

    def __init__(self, url: str, *, received: Callable[[Sequence[Hint]], None], missed: Callable[[], None]) -> None:
        """Say whom to tell about hints, and about a stretch in which some may have been missed."""
        self._url = url
        self._received = received
        self._missed = missed
        self._pending: set[Hint] = set()
        self._changed = asyncio.Event()

    def send(self, hints: Sequence[Hint]) -> None:
        """Have the others told, soon."""
        self._pending.update(hints)
        self._changed.set()

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        while True:
            try:
                await self._serve(await connect(self._url))
            except FAILURES as error:
                log.warning("hints between directors are interrupted (%s); polling meanwhile", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, connection: Any) -> None:
        try:
            own = connection.get_server_pid()

            def hear(_connection: object, pid: int, _channel: str, payload: object) -> None:
                if pid != own:  # what this process sent it knows already
                    kind, key = json.loads(str(payload))
                    self._received([(kind, key)])

            await connection.add_listener(CHANNEL, hear)
            connection.add_termination_listener(lambda _connection: self._changed.set())
            self._missed()  # only now is nothing missed any more: look at everything once
            while not connection.is_closed():
                self._changed.clear()
                hints, self._pending = self._pending, set()
                if hints:
                    payloads = [json.dumps(hint) for hint in hints]
                    await connection.execute(f"SELECT pg_notify('{CHANNEL}', p) FROM unnest($1::text[]) p", payloads)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._changed.wait()
                    continue
                await connection.fetchval("SELECT 1", timeout=5)
        finally:
            connection.terminate()
