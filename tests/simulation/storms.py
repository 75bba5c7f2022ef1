"""A federation in bad weather: one seed decides who acts, in which order transactions begin, and what goes wrong."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from director.effects import ManualClock
from director.errors import DirectorError, Unavailable
from director.store.engine.topics import Topic
from tests.simulation.actors import Actor, Client
from tests.simulation.deaths import Died, Point, keep_quiet_about_the_dead
from tests.simulation.directors import Director
from tests.simulation.envoys import Envoy
from tests.simulation.turnstiles import Turnstile

T = TypeVar("T")
Call = Callable[..., Awaitable[Any]]
STEPS = 6000
"""More than any run needs that does not stand still."""
RETRY = timedelta(seconds=1)


class Repeated(Actor):
    """A call that the network delivers once more, later, to a director that serves then; nobody hears the answer."""

    def __init__(self, call: Call) -> None:
        """Keep the call."""
        super().__init__("a repeated call")
        self.call = call

    async def act(self, around: Any) -> float:
        """Deliver it."""
        with suppress(DirectorError):
            await around.serve(self.call)
        around.clients.remove(self)
        return 0.0


class Storm:
    """Directors that die and rise, one that does not know that it is dead, and clients whose calls get lost."""

    def __init__(self, url: str, clients: Sequence[Client], *, seed: int) -> None:
        """Prepare; the database has the schema."""
        self.url = url
        self.clients: list[Any] = list(clients)
        self.clock = ManualClock()
        self.chance = random.Random(seed)
        self.mischief = self.chance.randint(0, 12)
        """How many things are still to go wrong."""
        self.tally: Counter[str] = Counter()
        self.happened: list[str] = []
        self.turnstile = Turnstile()
        self.directors: list[Director] = []
        """Those that are up; all but the ruler do not know that another one took over."""
        self.ruler: Director | None = None
        self.started = 0
        self.turns: dict[Actor, asyncio.Task[None]] = {}
        self.starting: tuple[Director, asyncio.Task[None]] | None = None

    @property
    def now(self) -> datetime:
        """The instant."""
        return self.clock.now()

    @property
    def actors(self) -> list[Actor]:
        """Everybody; one that was taken over claims nothing, as its lease has ended."""
        jobs = [job for director in self.directors for job in director.jobs]
        return [*(job for job in jobs if job.name != "claim" or job.director is self.ruler), *self.clients]

    def hear(self, topics: Sequence[Topic]) -> None:
        """Wake whom the topics concern, or lose them."""
        if self.mischief > 0 and self.chance.random() < 0.05:
            return
        told = set(topics)
        for actor in self.actors:
            actor.woken = actor.woken or not told.isdisjoint(actor.hears())

    def _goes_wrong(self, probability: float, what: str) -> bool:
        if self.mischief <= 0 or self.chance.random() >= probability:
            return False
        self.mischief -= 1
        self.happened.append(what)
        return True

    def strike(self, point: Point) -> None:
        """Decide whether a director dies next to a commit, or is told that it timed out, executed or not."""
        if self._goes_wrong(0.02, f"death {point}"):
            raise Died(str(point))
        if self._goes_wrong(0.01, f"time-out {point}"):
            raise Unavailable(f"timed out {point}")

    async def serve(self, call: Callable[..., Awaitable[T]]) -> T:
        """Have one of the directors serve a call."""
        if not self.directors:
            raise Unavailable("nobody is up")
        director = self.chance.choice(self.directors)
        return await director.while_alive(call(director.world))

    async def ask(self, call: Callable[..., Awaitable[T]]) -> T:
        """Call over a network that loses and repeats."""
        if self._goes_wrong(0.02, "a call is lost"):
            raise Unavailable("lost on the way")
        if self._goes_wrong(0.03, "a call is repeated"):
            self.clients.append(Repeated(call))
        answer = await self.serve(call)
        if self._goes_wrong(0.03, "an answer is lost"):
            raise Unavailable("lost on the way back")
        return answer

    async def run(self) -> None:
        """Let everybody act until nothing is to go wrong any more and nobody waits for anything."""
        keep_quiet_about_the_dead()
        for _ in range(STEPS):
            await self._clear_away()
            if self._over():
                return
            await self._step()
        waiting = [client.name for client in self._lasting() if not client.done]
        raise AssertionError(f"the federation stands still; there wait {waiting}")

    def _over(self) -> bool:
        undisturbed = self.mischief <= 0 and self.ruler is not None and not self.turns
        return undisturbed and all(client.done for client in self._lasting())

    def _lasting(self) -> list[Client]:
        return [client for client in self.clients if isinstance(client, Client)]

    async def _step(self) -> None:
        """Do one thing."""
        if self._goes_wrong(0.03, "something"):
            self.happened[-1] = await self._disturb()
            return
        if self.ruler is None and self.starting is None:
            await self._start()
            return
        if self.mischief <= 0:
            for director in [each for each in self.directors if each is not self.ruler]:
                await self._remove(director)
        ready = [actor for actor in self.actors if actor not in self.turns and actor.ready(self.now)]
        waiting = self.turnstile.waiting
        if not ready and not waiting:
            idle = [actor.due for actor in self.actors if actor not in self.turns]
            self.clock.advance(max(min(idle, default=self.now) - self.now, timedelta(seconds=0.25)))
        elif waiting and (not ready or self.chance.random() < 0.6):
            await self.turnstile.let_in(self.chance.choice(waiting))
        else:
            actor = self.chance.choice(ready)
            self.turns[actor] = asyncio.create_task(self._turn(actor))
            await self.turnstile.settle()
            self.clock.advance(timedelta(milliseconds=self.chance.randrange(500)))

    async def _turn(self, actor: Actor) -> None:
        try:
            await actor.turn(self)
        except Unavailable:
            actor.due = self.now + RETRY
        if self._goes_wrong(0.01, f"{actor.name} pauses"):
            actor.due = self.now + timedelta(seconds=self.chance.randrange(400))

    async def _clear_away(self) -> None:
        """Remove the dead, welcome who has started, and forget the turns that are over."""
        for director in [director for director in self.directors if director.dead]:
            await self._remove(director)
        if self.starting is not None and self.starting[1].done():
            (director, opening), self.starting = self.starting, None
            if opening.exception() is not None or director.dead:
                await self._remove(director)
            else:
                self.directors.append(director)
                self.ruler = director
                for client in self.clients:
                    client.woken = True
        for actor in [actor for actor, turn in self.turns.items() if turn.done()]:
            self.turns.pop(actor).result()

    async def _start(self) -> None:
        self.started += 1
        director = Director(
            self.url,
            self.clock,
            seed=self.started,
            fate=self.strike,
            tally=self.tally,
            heard=self.hear,
            database=self.turnstile.open,
            rivals=True,
        )
        self.starting = director, asyncio.create_task(director.open())
        await self.turnstile.settle()

    async def _remove(self, director: Director) -> None:
        director.failpoints.die()
        await self.turnstile.turn_away(director.db)
        await director.let_go()
        if director in self.directors:
            self.directors.remove(director)
        if director is self.ruler:
            self.ruler = None

    async def _disturb(self) -> str:
        """Let something go wrong."""
        what = self.chance.choice(["death", "death", "takeover", "takeover", "jump", "back", "outage", "crash"])
        match what:
            case "death" if self.directors:
                await self._remove(self.chance.choice(self.directors))
            case "takeover" if self.ruler is not None and self.starting is None:
                self.ruler.unlock()  # as a file system without locks would
                self.ruler = None
                await self._start()
            case "jump":
                self.clock.advance(timedelta(seconds=self.chance.randrange(7200)))
            case "back":
                self.clock.advance(-timedelta(seconds=self.chance.randrange(120)))
            case "outage" if self.starting is None:
                for director in list(self.directors):
                    await self._remove(director)
                self.clock.advance(timedelta(hours=self.chance.randrange(48)))
            case "crash":
                for envoy in self.clients:
                    if isinstance(envoy, Envoy) and envoy not in self.turns and self.chance.random() < 0.5:
                        envoy.crash()
            case _:
                return f"no {what}"
        return what

    async def close(self) -> None:
        """Stop all directors."""
        for director in list(self.directors):
            await self._remove(director)
