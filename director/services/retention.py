"""Drop what the settings no longer keep, in small steps, each a transaction of its own."""

import asyncio
from datetime import datetime, timedelta

from director.domain.types import ExperimentId
from director.services.runtime import Runtime
from director.store import pruning

PAUSE = 0.01
"""Seconds between two steps, so that other writers get their turn."""


class Retention:
    """Drops models, the history of removed experiments, old uptime sessions and old directors."""

    def __init__(self, runtime: Runtime) -> None:
        """Prepare."""
        self._runtime = runtime
        self._pruned: dict[ExperimentId, tuple[int, int | None]] = {}
        """The last and best models of experiments when nothing was left to prune: only others are looked at."""

    async def sweep(self) -> None:
        """Drop all that is there to drop."""
        settings = self._runtime.settings
        if settings.keep_models_every > 1:
            await self._prune_models(settings.keep_models_every)
        if settings.history_retention is not None:
            await self._drop_histories(settings.history_retention)
        await self._forget(settings.presence_retention)

    async def _prune_models(self, every: int) -> None:
        async with self._runtime.db.read() as tx:
            progress = await pruning.progress(tx)
        self._pruned = {each: seen for each, seen in self._pruned.items() if each in progress}
        for experiment_id, seen in progress.items():
            if self._pruned.get(experiment_id) == seen:
                continue
            async with self._runtime.db.write("prune models") as tx:
                done = await pruning.prune_models(tx, experiment_id, every=every)
            if done:
                self._pruned[experiment_id] = seen
            await asyncio.sleep(PAUSE)

    async def _drop_histories(self, kept: timedelta) -> None:
        async with self._runtime.db.read() as tx:
            removed = await pruning.removed(tx, before=await tx.now() - kept)
        for experiment_id in removed:
            more = True
            while more:
                async with self._runtime.db.write("drop history") as tx:
                    more = await pruning.drop_history(tx, experiment_id)
                await asyncio.sleep(PAUSE)

    async def _forget(self, kept: timedelta) -> None:
        while (before := await self._old(kept)) is not None:
            async with self._runtime.db.write("forget") as tx:
                if not await pruning.forget(tx, before=before):
                    return
            await asyncio.sleep(PAUSE)

    async def _old(self, kept: timedelta) -> datetime | None:
        """Return the instant before which something ended that is kept no longer; None if nothing did."""
        async with self._runtime.db.read() as tx:
            before = await tx.now() - kept
            return before if await pruning.anything_old(tx, before=before) else None
