"""Transactions are let in one by one: each waits until it is chosen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from director.effects import Clock
from director.store.engine.database import Database, Transaction
from director.store.engine.opening import open_database
from tests.simulation.deaths import Died

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Waiting:
    """Somebody who wants to begin a transaction."""

    database: Database
    name: str
    turn: "asyncio.Future[None]"


class Turnstile:
    """The one way into any of the databases that are opened through it."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self.waiting: list[Waiting] = []
        self._inside = 0
        self._left = asyncio.Event()

    def open(self, url: str, *, clock: Clock | None = None) -> Database:
        """Open a database behind this turnstile."""
        return Guarded(self, url, clock)

    async def enter(self, database: Database, name: str) -> None:
        """Wait to be let in."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(Waiting(database, name, turn))
        await turn
        self._inside += 1

    def leave(self) -> None:
        """Make room."""
        self._inside -= 1
        self._left.set()

    async def let_in(self, chosen: Waiting) -> None:
        """Let one in, and wait until everybody waits again."""
        self.waiting.remove(chosen)
        if not chosen.turn.done():
            chosen.turn.set_result(None)
        await self.settle()

    async def turn_away(self, database: Database) -> None:
        """Let nobody in any more who wants to a database, since its process has died."""
        for each in [each for each in self.waiting if each.database is database]:
            self.waiting.remove(each)
            if not each.turn.done():
                each.turn.set_exception(Died(each.name))
        await self.settle()

    async def usher(self, work: Awaitable[T], *, past: str = "") -> T:
        """Let everybody in until some work is done, past those that want to begin one kind of transaction."""
        task = asyncio.ensure_future(work)
        await self.settle()
        while not task.done():
            await self.let_in(next(each for each in self.waiting if each.name != past))
        return await task

    async def settle(self) -> None:
        """Wait until nothing moves: nobody is inside, and everybody else waits for something."""
        loop = asyncio.get_running_loop()
        while True:
            while loop._ready:  # type: ignore[attr-defined]  # what the loop would still run
                await asyncio.sleep(0)
            if not self._inside:
                return
            self._left.clear()
            await self._left.wait()


class Guarded(Database):
    """A database behind a turnstile."""

    def __init__(self, turnstile: Turnstile, url: str, clock: Clock | None) -> None:
        """Open it as it is always opened."""
        super().__init__(open_database(url, clock=clock)._engine, url=url)
        self._turnstile = turnstile

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Read, in turn."""
        await self._turnstile.enter(self, "read")
        try:
            async with super().read() as tx:
                yield tx
        finally:
            self._turnstile.leave()

    @asynccontextmanager
    async def write(self, name: str) -> AsyncIterator[Transaction]:
        """Write, in turn."""
        await self._turnstile.enter(self, name)
        try:
            async with super().write(name) as tx:
                yield tx
        finally:
            self._turnstile.leave()
