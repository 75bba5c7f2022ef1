"""Handing out experiments: one transaction for all envoys that wait in this process, whenever one of them is woken."""

import asyncio
from collections.abc import Mapping, Sequence

from director.domain.envoy import Engagement
from director.errors import DirectorError
from director.services.batching import Batcher
from director.services.runtime import Runtime
from director.services.wakeups import Wakeup
from director.store import envoys, queues
from director.store.engine.topics import Topic
from director.store.envoys import Speaker

SKIPPED_SECONDS = 0.05
"""Delay before asking again for an experiment that another transaction held locked."""


BATCH = 1000
"""Envoys looked at in one statement; the others follow in the next."""


class Waiter:
    """One call that waits for an experiment."""

    def __init__(self, envoy: str, session_id: str | None, wakeup: Wakeup) -> None:
        """Begin to wait; the first look also offers what the envoy holds already."""
        self.speaker: Speaker = envoy, session_id
        self.envoy = envoy
        self.wakeup = wakeup
        self.is_new = True
        self.woken = False


class Handouts:
    """Gives queued experiments to waiting envoys."""

    def __init__(self, runtime: Runtime) -> None:
        """Start with no waiter."""
        self._runtime = runtime
        self._batcher = Batcher(self._hand_out, limit=BATCH)

    async def wait(self, envoy: str, *, session_id: str | None, seconds: float) -> Engagement | None:
        """Wait for an experiment; None if there is none in time, or this process is closing.

        Waiting holds neither a connection nor a transaction.

        Raises:
            EnvoyNotFound: it never registered.
            EnvoyRetired: an operator retired it.
            StaleSession: the session has ended.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        wakeups = self._runtime.wakeups
        poll = self._runtime.settings.poll.total_seconds()
        with wakeups.listen(Topic.envoy(envoy)) as wakeup:
            waiter = Waiter(envoy, session_id, wakeup)
            while not wakeups.closing:
                wakeup.clear()
                given = await self._batcher.submit(waiter)
                remaining = end - loop.time()
                if given is not None or remaining <= 0:
                    return given
                # Woken by its own topic; the slow poll underneath is what a lost one costs.
                waiter.woken = await wakeup.wait(min(remaining, 3 * poll))
        return None

    async def _hand_out(self, waiters: Sequence[Waiter]) -> list[Engagement | DirectorError | None]:
        speakers = {waiter.speaker for waiter in waiters}
        new = {waiter.envoy for waiter in waiters if waiter.is_new}
        refused: Mapping[Speaker, DirectorError] = {}
        if new or not any(waiter.woken for waiter in waiters):
            async with self._runtime.db.read() as tx:
                refused = await envoys.refusals(tx, speakers)
                found = await queues.anything_for(tx, {envoy for envoy, _ in speakers}, again=new)
            if not found:
                return [self._outcome(waiter, {}, refused, skipped=False) for waiter in waiters]
        async with self._runtime.db.write("hand out") as tx:
            refused = await envoys.refusals(tx, speakers)
            served = {envoy for envoy, _ in speakers - refused.keys()}
            given, skipped = await queues.hand_out(tx, served, again=new & served)
        return [self._outcome(waiter, given, refused, skipped=skipped) for waiter in waiters]

    def _outcome(
        self, waiter: Waiter, given: dict[str, Engagement], refused: Mapping[Speaker, DirectorError], *, skipped: bool
    ) -> Engagement | DirectorError | None:
        if waiter.speaker in refused:
            return refused[waiter.speaker]
        engagement = given.pop(waiter.envoy, None)
        if skipped and engagement is None:
            asyncio.get_running_loop().call_later(SKIPPED_SECONDS, waiter.wakeup.set)
        else:
            waiter.is_new = False
        return engagement
