"""Handing out experiments: one transaction for all envoys that wait in this process, whenever one of them is woken."""

import asyncio

from director.services.runtime import Runtime
from director.services.wakeups import Wakeup
from director.store import envoys, queues
from director.store.envoys import Engagement

SKIPPED_SECONDS = 0.05
"""How soon to ask again for what somebody else held locked."""


BATCH = 1000
"""Envoys looked at in one statement; the others follow in the next."""


class Waiter:
    """One call that waits for an experiment."""

    def __init__(self, envoy: str, wakeup: Wakeup) -> None:
        """Begin to wait; the first look also offers what the envoy holds already."""
        self.envoy = envoy
        self.wakeup = wakeup
        self.anew = True
        self.hinted = False
        self.unknown = False
        self.given: Engagement | None = None


class Handouts:
    """Gives queued experiments to waiting envoys."""

    def __init__(self, runtime: Runtime) -> None:
        """Start with nobody waiting."""
        self._runtime = runtime
        self._asking: list[tuple[Waiter, asyncio.Future[None]]] = []
        self._flush: asyncio.Task[None] | None = None

    async def wait(self, envoy: str, *, seconds: float) -> Engagement | None:
        """Wait for an experiment; None if there is none in time, or this process is closing.

        Waiting holds neither a connection nor a transaction.

        Raises:
            EnvoyNotFound: it never registered.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        wakeups = self._runtime.wakeups
        poll = self._runtime.settings.poll.total_seconds()
        with wakeups.listen(("envoy", envoy)) as wakeup:
            waiter = Waiter(envoy, wakeup)
            while not wakeups.closing:
                wakeup.clear()
                await self._ask(waiter)
                if waiter.unknown:
                    raise envoys.unknown(envoy)
                remaining = end - loop.time()
                if waiter.given is not None or remaining <= 0:
                    break
                # Woken by its own hint; the slow poll underneath is what a lost one costs.
                waiter.hinted = await wakeup.wait(min(remaining, 3 * poll))
        return waiter.given

    async def _ask(self, waiter: Waiter) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking.append((waiter, done))
        if self._flush is None:
            self._flush = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        try:
            while self._asking:
                batch, self._asking = self._asking[:BATCH], self._asking[BATCH:]
                try:
                    await self._hand_out([waiter for waiter, _ in batch])
                except Exception as error:
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._flush = None

    async def _hand_out(self, waiters: list[Waiter]) -> None:
        waiting = {waiter.envoy for waiter in waiters}
        anew = {waiter.envoy for waiter in waiters if waiter.anew}
        if anew or not any(waiter.hinted for waiter in waiters):
            async with self._runtime.db.read() as tx:
                unknown = anew - await envoys.registered(tx, sorted(anew)) if anew else set()
                found = await queues.anything_for(tx, waiting, again=anew)
            for waiter in waiters:
                waiter.unknown = waiter.envoy in unknown
                waiter.anew = waiter.anew and found
            if not found:
                return
        async with self._runtime.db.write("hand out") as tx:
            given, skipped = await queues.hand_out(tx, waiting, again=anew)
        loop = asyncio.get_running_loop()
        for waiter in waiters:
            waiter.given = given.pop(waiter.envoy, None)
            if skipped and waiter.given is None:
                loop.call_later(SKIPPED_SECONDS, waiter.wakeup.set)
            else:
                waiter.anew = False
