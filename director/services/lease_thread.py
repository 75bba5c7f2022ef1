"""The thread that renews the lease, with a connection of its own, so that no amount of work delays a renewal.

It renews only while the event loop is alive: a lease that outlives its loop would hold experiments that no task drives.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from director.effects import monotonic
from director.services.runtime import Runtime
from director.services.supervision import Succeeded, Trouble
from director.store.engine.database import Database
from director.store.engine.opening import open_database


class LeaseThread:
    """Calls `renew` every third of a lease, until it is stopped."""

    def __init__(self, runtime: Runtime, renew: Callable[[Database], Awaitable[None]]) -> None:
        """Prepare; `run` starts the thread."""
        self._runtime = runtime
        self._renew = renew
        self._lease_seconds = runtime.settings.lease.total_seconds()
        self._loop_seen = monotonic()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    async def run(self, succeeded: Succeeded) -> None:
        """Run the thread and tell it that the event loop is alive, until cancelled; it goes on until `stop`.

        Raises:
            RuntimeError: the thread ended.
        """
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, args=(succeeded,), name="lease", daemon=True)
            self._thread.start()
        while self._thread.is_alive():
            self._loop_seen = monotonic()
            await asyncio.sleep(self._lease_seconds / 6)
        raise RuntimeError("the thread that renews the lease ended") from self._error

    async def stop(self) -> None:
        """End the thread, if it runs."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5)

    def _work(self, succeeded: Succeeded) -> None:
        try:
            asyncio.run(self._renew_again_and_again(succeeded))
        except BaseException as error:  # whatever it is: `run` raises it where it is logged
            self._error = error

    async def _renew_again_and_again(self, succeeded: Succeeded) -> None:
        db = open_database(self._runtime.db.url, clock=self._runtime.db.clock)
        trouble = Trouble("renewing the lease", self._runtime.entropy)
        try:
            while not self._stopping.is_set():
                pause = self._lease_seconds / 3
                try:
                    if monotonic() - self._loop_seen < self._lease_seconds / 2:
                        await self._renew(db)
                        trouble.succeeded()
                        succeeded()
                except Exception as error:
                    pause = min(trouble.failed(error), pause)
                await asyncio.to_thread(self._stopping.wait, pause)
        finally:
            await db.close()
