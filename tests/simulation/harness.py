"""A whole federation in one thread: a director, envoys and researchers in turn, while time stands still until moved."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from director.effects import ManualClock
from director.errors import Unavailable
from director.store.engine.topics import Topic
from tests.simulation.actors import Actor, Client
from tests.simulation.deaths import Fate, keep_quiet_about_the_dead, live_on
from tests.simulation.directors import LEASE, Director

T = TypeVar("T")
BEAT = timedelta(seconds=0.25)
RETRY = timedelta(seconds=1)
PASSES = 3000
"""More than any run needs that does not stand still."""


class Federation:
    """A director, and another one when it dies, and those who call it."""

    def __init__(
        self,
        url: str,
        clients: Sequence[Client],
        *,
        fate: Fate = live_on,
        clock: ManualClock | None = None,
        directors: int = 0,
    ) -> None:
        """Prepare; the database has the schema."""
        self.url = url
        self.clients = list(clients)
        self.clock = clock or ManualClock()
        self.fate = fate
        self.tally: Counter[str] = Counter()
        self.directors = directors
        self.director: Director

    @property
    def now(self) -> datetime:
        """The instant."""
        return self.clock.now()

    @property
    def actors(self) -> list[Actor]:
        """Everybody, in the order of their turns."""
        return [*self.director.jobs, *self.clients]

    async def ask(self, call: Callable[..., Awaitable[T]]) -> T:
        """Call the director."""
        return await self.director.while_alive(call(self.director.world))

    def hear(self, topics: Sequence[Topic]) -> None:
        """Wake whom the topics concern."""
        told = set(topics)
        for actor in self.actors:
            actor.woken = actor.woken or not told.isdisjoint(actor.hears())

    def new_director(self) -> Director:
        """Make a process, to be opened."""
        self.directors += 1
        return Director(self.url, self.clock, seed=self.directors, fate=self.fate, tally=self.tally, heard=self.hear)

    async def start(self) -> None:
        """Start a director; if it dies at once, another one."""
        while True:
            self.director = self.new_director()
            try:
                await self.director.open()
            except Unavailable:
                await self._remove()
            else:
                break
        for client in self.clients:
            client.woken = True  # its connection broke: it asks again

    async def _remove(self) -> None:
        await self.director.let_go()
        if self.director.db.replicated:
            self.clock.advance(LEASE + BEAT)  # until its lease has expired; nobody is up meanwhile

    async def turn(self, actor: Actor) -> None:
        """Let somebody act; a director that dies of it is replaced."""
        try:
            await actor.turn(self)
        except Unavailable:
            actor.due = self.now + RETRY
        if self.director.dead:
            await self._remove()
            await self.start()

    async def run(self) -> None:
        """Let everybody act until nobody waits for anything."""
        keep_quiet_about_the_dead()
        await self.start()
        for _ in range(PASSES):
            acted, director = False, self.director
            for actor in self.actors:
                if actor.ready(self.now) and self.director is director:
                    acted = True
                    await self.turn(actor)
            if all(client.done for client in self.clients):
                return
            self.clock.advance(BEAT if acted else max(min(actor.due for actor in self.actors) - self.now, BEAT))
        waiting = ", ".join(f"{client.name}: {client}" for client in self.clients if not client.done)
        raise AssertionError(f"the federation stands still; there wait {waiting}")

    async def close(self) -> None:
        """Stop the director, in the way that takes least."""
        await self.director.let_go()
