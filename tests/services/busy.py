"""A federation that works by itself: the director's own tasks over a database, and envoys that answer at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.domain.types import ExperimentState, Tensors
from director.domain.work import Quit, Work
from director.errors import Later, LeaseLost, NotFound, RoundClosed, StaleAttempt
from director.services.process import Process
from director.settings import Settings
from director.store.engine.opening import open_database
from tests.world import MODEL, RESEARCHER, World

RETRY = 0.05


@dataclass
class Busy:
    """A running federation, whose envoys train a model of some layout."""

    world: World
    model: Tensors

    async def serve(self, envoy: str) -> None:
        """Take part in one experiment after the other."""
        while True:
            try:
                await self.world.process.envoys.heartbeat(Heartbeat(envoy, experiment_running=False))
                given = await self.world.process.envoys.wait_experiment(envoy, seconds=0.5)
                if given is not None:
                    await self.take_part(given, envoy)
            except (NotFound, StaleAttempt, LeaseLost, Later):
                await asyncio.sleep(RETRY)

    async def take_part(self, given: Engagement, envoy: str) -> None:
        """Do every task of an experiment."""
        while True:
            answer = await self.world.process.rounds.poll_tasks(given.experiment_uid, envoy, given.attempt, seconds=0.5)
            if isinstance(answer, Quit):
                return
            if isinstance(answer, Work):
                await self.do(answer, given, envoy)

    async def do(self, work: Work, given: Engagement, envoy: str) -> None:
        """Do the tasks of a round, each until it is acknowledged."""
        for task in work.tasks:
            update = None
            if task.kind == "train":
                value = work.round_number + ord(envoy) / 7
                update = {name: np.full_like(array, value) for name, array in self.model.items()}
            while True:
                try:
                    await self.world.contribute(
                        given,
                        envoy,
                        task.name,
                        round_number=work.round_number,
                        samples=ord(envoy),
                        metrics={"accuracy": (work.round_number * ord(envoy)) % 13 / 13},
                        update=update,
                    )
                except Later:
                    await asyncio.sleep(RETRY)
                except RoundClosed:
                    return
                else:
                    break

    async def state(self, name: str) -> ExperimentState:
        """The state of an experiment."""
        return (await self.world.process.experiments.get(name, RESEARCHER)).state

    async def ended(self, name: str, *, seconds: float = 60) -> ExperimentState:
        """Wait until an experiment has ended."""
        async with asyncio.timeout(seconds):
            while not (found := await self.state(name)).terminal:
                await asyncio.sleep(RETRY)
        return found

    async def reached(self, name: str, round_number: int, *, seconds: float = 60) -> None:
        """Wait until an experiment is in a round, or past it."""
        async with asyncio.timeout(seconds):
            while (await self.world.process.experiments.get(name, RESEARCHER)).round < round_number:
                await asyncio.sleep(RETRY / 5)


@asynccontextmanager
async def busy(url: str, envoys: Sequence[str], *, model: Tensors = MODEL, **settings: Any) -> AsyncIterator[Busy]:
    """Run a federation on a database."""
    chosen = {"poll": timedelta(milliseconds=200), "chunk_bytes": 65536} | settings
    process = Process(open_database(url), Settings(database=url, **chosen))
    await process.open()
    federation = Busy(World(process), model)
    await federation.world.register(*envoys)
    running = [asyncio.create_task(process.run()), *(asyncio.create_task(federation.serve(name)) for name in envoys)]
    try:
        yield federation
        for task in running:
            assert not task.done(), task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await process.close()
