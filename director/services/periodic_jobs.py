"""What has to be done now and then, by whoever gets to it: ticks of service time, sessions, sweeping."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from director.errors import PASSING
from director.services.retention import Retention
from director.services.runtime import Runtime
from director.store import clock, federations, sessions, stash

log = logging.getLogger(__name__)

SWEEP_PAUSE = 0.01


class Ticker:
    """Lets service time pass while this director is up."""

    def __init__(self, runtime: Runtime) -> None:
        """Prepare."""
        self._runtime = runtime

    async def tick(self) -> bool:
        """Store service time, if nobody did so for the length of a tick; False where it stands still: no room."""
        if await self._runtime.disk.lacks() is not None:
            return False
        every = self._runtime.settings.tick
        async with self._runtime.db.read() as tx:
            due = await clock.due(tx, every=every)
        if due:
            async with self._runtime.db.write("tick") as tx:
                await clock.tick(tx, every=every)
        return True

    async def run(self) -> None:
        """Tick until cancelled."""
        await forever("service time", self.tick, self._runtime.settings.tick.total_seconds() / 2)


class PeriodicJobs:
    """Keeps the uptime history, and sweeps what is no longer needed."""

    def __init__(self, runtime: Runtime) -> None:
        """Prepare."""
        self._runtime = runtime
        self._retention = Retention(runtime)

    async def reconcile_sessions(self) -> None:
        """Open and close the envoys' sessions by their heartbeats."""
        async with self._runtime.db.write("sessions") as tx:
            if not await federations.take_job(tx, federations.SESSIONS, wait=False):
                return
            if (await clock.read(tx)).stale:
                return
            if await sessions.reconcile(tx, lease=self._runtime.settings.lease):
                tx.wake(("admission", 0))

    async def sweep(self) -> None:
        """Delete expired blobs, one per transaction."""
        while True:
            async with self._runtime.db.write("sweep") as tx:
                if not await stash.sweep_one(tx):
                    return
            await asyncio.sleep(SWEEP_PAUSE)

    async def give_back(self) -> None:
        """Without room, return to the disk what was freed inside the database."""
        while await self._runtime.disk.lacks() is not None and await self._runtime.db.give_back():  # noqa: ASYNC110
            await asyncio.sleep(SWEEP_PAUSE)

    async def once(self) -> None:
        """Do all of it once."""
        await self.reconcile_sessions()
        await self.sweep()
        await self._retention.sweep()
        await self.give_back()

    async def run(self) -> None:
        """Keep house until cancelled."""
        await forever("housekeeping", self.once, self._runtime.settings.poll.total_seconds())


async def forever(what: str, work: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Do something again and again; an error is logged, and waited out."""
    while True:
        try:
            await work()
        except PASSING as error:
            log.warning("%s waits: %s", what, error)
        except Exception:
            log.exception("%s failed; it is tried again", what)
        await asyncio.sleep(seconds)
