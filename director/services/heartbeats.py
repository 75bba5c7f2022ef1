"""Heartbeats, batched: those that arrive while a flush runs become one statement, each answered after its commit."""

from collections.abc import Sequence

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.services.batching import Batcher
from director.services.runtime import Runtime
from director.store import envoys
from director.store.envoys import Outcome

BATCH = 1000
"""Heartbeats stored by one statement; the others follow in the next."""


class Heartbeats:
    """Stores heartbeats, many at a time."""

    def __init__(self, runtime: Runtime) -> None:
        """Start with none."""
        self._runtime = runtime
        self._batcher = Batcher(self._store, limit=BATCH)

    async def beat(self, heartbeat: Heartbeat) -> Engagement | None:
        """Store a heartbeat; return what the envoy should be working on.

        Raises:
            EnvoyNotFound: it never registered.
            EnvoyRetired: an operator retired it.
            StaleSession: the session has ended; nothing was stored.
        """
        return await self._batcher.submit(heartbeat)

    async def _store(self, beats: Sequence[Heartbeat]) -> list[Outcome]:
        settings = self._runtime.settings
        async with self._runtime.db.write("heartbeats") as tx:
            return await envoys.beat(tx, beats, period=settings.envoy_health_check_period, lease=settings.lease)
