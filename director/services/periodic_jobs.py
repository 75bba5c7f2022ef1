"""Periodic jobs: clock tick, session reconciliation, deletion of expired blobs and old rows."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from director.services.federation_use_cases import Federations
from director.services.retention import Retention
from director.services.runtime import Runtime
from director.services.supervision import Succeeded, every
from director.store import clock, federations, sessions, stash
from director.store.engine.topics import Topic

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

    async def run(self, succeeded: Succeeded) -> None:
        """Tick until cancelled."""
        await every(self._runtime.settings.tick.total_seconds() / 2, self.tick)(succeeded)


class PeriodicJobs:
    """Keeps the uptime history, and deletes what is no longer needed."""

    def __init__(self, runtime: Runtime, federation: Federations) -> None:
        """Prepare."""
        self._runtime = runtime
        self.each: Mapping[str, Callable[[], Awaitable[None]]] = {
            "sessions": self.reconcile_sessions,
            "retired envoys": federation.settle_retired,
            "sweeping": self.sweep,
            "retention": Retention(runtime).sweep,
            "free space": self.give_back,
        }
        """The jobs by name. Each has a loop of its own, so that one that fails holds up no other."""

    async def reconcile_sessions(self) -> None:
        """Open and close the envoys' sessions by their heartbeats."""
        async with self._runtime.db.write("sessions") as tx:
            if not await federations.take_job(tx, federations.SESSIONS, wait=False):
                return
            if (await clock.read(tx)).stale:
                return
            if await sessions.reconcile(tx, lease=self._runtime.settings.lease):
                tx.wake(Topic.admission())

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
