"""A director without its background tasks: each thing that they would do is a job of its own, done when it is due."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

from director.effects import Clock, SeededEntropy
from director.errors import LeaseLost, NotFound, Unavailable
from director.services.execution import Execution
from director.services.execution_steps import Steps
from director.services.process import Process
from director.settings import Settings
from director.store import leases
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.engine.topics import Topic
from director.store.leases import Fence
from tests.simulation.actors import Actor, Surroundings
from tests.simulation.deaths import Fate, Mortal
from tests.simulation.envoys import PERIOD
from tests.world import World

T = TypeVar("T")
LEASE = timedelta(seconds=60)
POLL = timedelta(seconds=30)
SOON = 0.0


@dataclass(eq=False)
class Job(Actor):
    """One of the things that a director does in the background."""

    director: "Director"
    work: Callable[[], Coroutine[Any, Any, float]]
    topic: Topic | None = None

    def hears(self) -> Iterable[Topic]:
        """Its topic, if it has one."""
        return () if self.topic is None else (self.topic,)

    async def act(self, around: Surroundings) -> float:
        """Do the work, as long as the process lives."""
        return await self.director.while_alive(self.work())


class Stepped(Execution):
    """The execution loop without its tasks: what it would begin to drive becomes a job."""

    def __init__(self, director: "Director") -> None:
        """Claim for a director."""
        process = director.process
        super().__init__(process.runtime, process.ticker, director_id=lambda: process.presence.director_id)
        self._director = director
        self.jobs: dict[Fence, Job] = {}
        self._loops: dict[Fence, Any] = self.jobs

    def _start(self, fence: Fence) -> None:
        steps = Steps(self._runtime, self._ticker, fence, review=None)
        failures = count(1)

        async def step() -> float:
            try:
                pause = await steps.next()
            except LeaseLost:
                pause = None
            except NotFound:
                # What it works on is gone. That happens to one who was taken over, and the next step tells it so.
                assert next(failures) == 1, "an owner finds what it needs"
                pause = SOON
            if pause is None:
                self.jobs.pop(fence, None)
            return min(pause or SOON, POLL.total_seconds())

        name = f"experiment {fence.experiment_id}"
        self.jobs[fence] = Job(name, self._director, step, Topic.experiment(fence.experiment_id))

    async def _stop(self, fences: list[Fence]) -> None:
        for fence in fences:
            self.jobs.pop(fence, None)


class Director:
    """One process on a database, with its own connections and its own fate."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        seed: int,
        fate: Fate,
        tally: Counter[str],
        heard: Callable[[Sequence[Topic]], None],
        database: Callable[..., Database] = open_database,
        rivals: bool = False,
    ) -> None:
        """Build a process; nothing is connected yet. With rivals it frees what the dead own, on either engine."""
        self.db = database(url, clock=clock)
        self.failpoints = self.db.failpoints = Mortal(fate, tally)
        settings = Settings(database=url, lease=LEASE, poll=POLL, chunk_bytes=4096, envoy_health_check_period=PERIOD)
        self.process = Process(self.db, settings, entropy=SeededEntropy(seed))
        self.process.runtime.wakeups.relay = heard
        self.execution = self.process.execution = Stepped(self)
        self.world = World(self.process)
        self._jobs = [*self._background(), *([Job("free", self, self._free)] if rivals else [])]

    def _background(self) -> list[Job]:
        process, poll = self.process, POLL.total_seconds()

        async def tick() -> float:
            await process.ticker.tick()
            return process.runtime.settings.tick.total_seconds()

        async def renew() -> float:
            await process.presence.renew(self.db)
            return LEASE.total_seconds() / 3

        async def admit() -> float:
            return SOON if await process.admission.admit() else poll

        async def reconcile() -> float:
            return SOON if await process.execution.reconcile(woken=claim.was_woken) else poll

        async def keep_house() -> float:
            await self.world.do_periodic_jobs()
            return poll

        claim = Job("claim", self, reconcile, Topic.claim())
        replicated = [Job("renew", self, renew), Job("expire leases", self, process.presence.expire_leases)]
        return [
            Job("tick", self, tick),
            *(replicated if self.db.replicated else []),
            Job("admission", self, admit, Topic.admission()),
            claim,
            Job("housekeeping", self, keep_house),
        ]

    async def _free(self) -> float:
        async with self.db.write("free") as tx:
            await leases.free(tx)
        return POLL.total_seconds()

    @property
    def jobs(self) -> list[Job]:
        """What it does by itself."""
        return [*self._jobs, *self.execution.jobs.values()]

    @property
    def dead(self) -> bool:
        """Whether the process is gone."""
        return self.failpoints.dead

    async def open(self) -> None:
        """Enter the federation."""
        if not self.db.replicated:
            self.process.presence.lock_file()
        await self.while_alive(self.process.presence.enter())

    async def while_alive(self, work: Awaitable[T]) -> T:
        """Do something in this process, to its end or to the process's.

        Raises:
            Unavailable: it died, and there is no answer.
        """
        task = asyncio.ensure_future(work)
        await asyncio.wait([task, self.failpoints.died], return_when=asyncio.FIRST_COMPLETED)
        if not self.dead:
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: it died in the middle of it
        raise Unavailable("no answer")

    async def let_go(self) -> None:
        """Let go what the operating system takes back from a dead process: its connections and its file lock."""
        self.failpoints.die()
        await self.db.close()
        self.unlock()

    def unlock(self) -> None:
        """Let the file lock go."""
        if self.process.presence._lock is not None:
            self.process.presence._lock.close()
