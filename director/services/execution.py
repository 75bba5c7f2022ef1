"""The execution loop: claim what nobody owns, drive it step by step, let it go. A restart is the ordinary path.

What this process owns is what the rows say: its tasks are reconciled with them at each poll, so that a claim whose
answer was lost is found, and a task whose experiment was taken away ends.
"""

import asyncio
import logging
from collections.abc import Callable

from director.domain import aggregation
from director.domain.messages import Event, EventKind
from director.domain.types import DirectorId, ExperimentId
from director.errors import PASSING, LeaseLost
from director.services.execution_steps import Steps
from director.services.periodic_jobs import Ticker
from director.services.reviewing import ReviewCallback
from director.services.runtime import Runtime
from director.store import events, leases
from director.store.leases import Fence

log = logging.getLogger(__name__)

ROOM = 64
"""Experiments that one process drives at once."""
SKIPPED_SECONDS = 0.05
COURTESY_SECONDS = 0.01
"""How long those who hand the experiment out go first: both lock its row, and who finds it locked comes back late."""
TRIES = 5
"""How often a step may fail in a row before its experiment does."""


class Execution:
    """Drives the experiments that this director owns."""

    def __init__(
        self,
        runtime: Runtime,
        ticker: Ticker,
        *,
        director_id: Callable[[], DirectorId | None],
        review: ReviewCallback | None = None,
    ) -> None:
        """Prepare; `director_id` is None while this process holds no lease."""
        self._runtime = runtime
        self._ticker = ticker
        self._director_id = director_id
        self._review = review
        self._loops: dict[Fence, asyncio.Task[None]] = {}
        self._draining = False

    async def run(self) -> None:
        """Claim and drive until cancelled."""
        poll = self._runtime.settings.poll.total_seconds()
        try:
            with self._runtime.wakeups.listen(("claim", 0)) as wakeup:
                hinted = True
                while True:
                    wakeup.clear()
                    pause = poll
                    try:
                        if await self.reconcile(hinted=hinted):
                            pause = SKIPPED_SECONDS
                    except PASSING as error:
                        log.warning("claiming waits: %s", error)
                        await asyncio.sleep(min(1.0, poll))
                        continue
                    except Exception:
                        log.exception("claiming failed; it is tried again")
                        await asyncio.sleep(min(1.0, poll))
                        continue
                    hinted = await wakeup.wait(pause)
                    if hinted:
                        await asyncio.sleep(COURTESY_SECONDS)
        finally:
            await self._stop(list(self._loops))

    async def reconcile(self, *, hinted: bool = True) -> bool:
        """Claim what is free, and make the tasks match the rows; True if there was more that somebody held locked."""
        me = self._director_id()
        if me is None:
            await self._stop(list(self._loops))
            return False
        missed = False
        if not self._draining and (room := ROOM - len(self._loops)) > 0:
            missed = await self._claim(me, room, hinted=hinted)
        async with self._runtime.db.read() as tx:
            owned = set(await leases.owned(tx, me))
        await self._stop([fence for fence in self._loops if fence not in owned])
        if not self._draining:
            for fence in owned - self._loops.keys():
                self._start(fence)
        return missed

    async def _claim(self, me: DirectorId, room: int, *, hinted: bool) -> bool:
        rules = {each.name: each.version for each in aggregation.RULES.values()}
        reviews = self._review is not None
        if not hinted:
            async with self._runtime.db.read() as tx:
                if not await leases.anything_to_claim(tx, rules=rules, reviews=reviews):
                    return False
        async with self._runtime.db.write("claim") as tx:
            claimed, missed = await leases.claim(tx, me, rules=rules, reviews=reviews, limit=room)
        for fence in claimed:
            self._start(fence)
        return missed

    def _start(self, fence: Fence) -> None:
        task = asyncio.create_task(self._drive(fence), name=f"experiment {fence.experiment_id}")
        self._loops[fence] = task
        task.add_done_callback(lambda _task: self._loops.pop(fence, None))

    async def _stop(self, fences: list[Fence]) -> None:
        tasks = [self._loops[fence] for fence in fences if fence in self._loops]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _drive(self, fence: Fence) -> None:
        steps = Steps(self._runtime, self._ticker, fence, review=self._review)
        poll = self._runtime.settings.poll.total_seconds()
        failures = 0
        with self._runtime.wakeups.listen(("experiment", fence.experiment_id)) as wakeup:
            while True:
                wakeup.clear()
                try:
                    pause = await steps.next()
                    failures = 0
                except LeaseLost as error:
                    log.info("stopped: %s", error)
                    return
                except PASSING as error:
                    log.warning("experiment %s waits: %s", fence.experiment_id, error)
                    await asyncio.sleep(min(1.0, poll))
                    continue
                except Exception as error:
                    failures += 1
                    log.exception("experiment %s: step failed (%s of %s)", fence.experiment_id, failures, TRIES)
                    if failures < TRIES or not await self._give_up(steps, error):
                        await asyncio.sleep(min(0.1 * 2**failures, poll))
                        continue
                    return
                if pause is None:
                    return
                if pause > 0:
                    await wakeup.wait(min(pause, poll))

    async def _give_up(self, steps: Steps, error: Exception) -> bool:
        try:
            await steps.give_up(f"the director could not go on: {type(error).__name__}: {error}")
        except LeaseLost:
            pass
        except PASSING:
            return False
        return True

    async def drain(self) -> None:
        """Claim nothing more and let everything go, so that another director takes it at once."""
        self._draining = True
        await self._stop(list(self._loops))
        me = self._director_id()
        if me is None:
            return
        async with self._runtime.db.read() as tx:
            owned = await leases.owned(tx, me)
        for fence in owned:
            async with self._runtime.db.write("release") as tx:
                if await leases.release(tx, fence):
                    happened = Event(EventKind.EXPERIMENT_RELEASED, details={"director": fence.director_id})
                    await events.append(tx, ExperimentId(fence.experiment_id), happened)
