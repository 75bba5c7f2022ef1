"""Several directors on one database, within a test: each has connections, a lease and tasks of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.postgres import PostgresServer
from tests.world import World, world


@asynccontextmanager
async def replicas(url: str, number: int, **more: Any) -> AsyncIterator[list[World]]:
    """Open directors that do nothing by themselves."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(world(url, seed=seed, **more)) for seed in range(1, number + 1)]


@asynccontextmanager
async def running(*directors: World) -> AsyncIterator[None]:
    """Let directors work by themselves; none of them may stop."""
    tasks = [asyncio.create_task(each.process.run()) for each in directors]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Deadlocks:
    """The deadlocks that a PostgreSQL server has resolved since."""

    def __init__(self, server: PostgresServer) -> None:
        """Count from now on."""
        self._log = server.home / "log"
        self._start = self._log.stat().st_size

    def __str__(self) -> str:
        """Return what the log says of them."""
        with self._log.open(errors="replace") as log:
            log.seek(self._start)
            return "".join(line for line in log if "deadlock detected" in line)
