"""Heartbeats, coalesced: those that arrive while a flush runs become one statement, each answered after its commit."""

import asyncio
from collections.abc import Mapping
from itertools import islice

from director.domain.messages import Heartbeat
from director.services.runtime import Runtime
from director.store import envoys
from director.store.envoys import Engagement

Answer = asyncio.Future[Engagement | None]


BATCH = 1000
"""Heartbeats stored by one statement; the others follow in the next."""


class Heartbeats:
    """Stores heartbeats, many at a time."""

    def __init__(self, runtime: Runtime) -> None:
        """Start with none."""
        self._runtime = runtime
        self._pending: dict[str, tuple[Heartbeat, list[Answer]]] = {}
        self._flush: asyncio.Task[None] | None = None

    async def beat(self, heartbeat: Heartbeat) -> Engagement | None:
        """Store a heartbeat; return what the envoy should be working on.

        Raises:
            EnvoyNotFound: it never registered.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        _, answers = self._pending.get(heartbeat.envoy, (heartbeat, []))
        self._pending[heartbeat.envoy] = (heartbeat, [*answers, answer])
        if self._flush is None:
            self._flush = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._pending:
                batch = dict(islice(self._pending.items(), BATCH))
                for name in batch:
                    del self._pending[name]
                await self._store(batch)
        finally:
            self._flush = None

    async def _store(self, batch: Mapping[str, tuple[Heartbeat, list[Answer]]]) -> None:
        settings = self._runtime.settings
        try:
            async with self._runtime.db.write("heartbeats") as tx:
                beats = [heartbeat for heartbeat, _ in batch.values()]
                heard = await envoys.beat(tx, beats, period=settings.envoy_health_check_period, lease=settings.lease)
        except Exception as error:
            for _, answers in batch.values():
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
            return
        for name, (_, answers) in batch.items():
            for answer in answers:
                if answer.done():
                    continue
                if name in heard.known:
                    answer.set_result(heard.engagements.get(name))
                else:
                    answer.set_exception(envoys.unknown(name))
