"""Admission: which pending experiments start; one director at a time decides, under the lock of the job's row."""

from collections import Counter
from datetime import datetime

from director.domain import scheduling
from director.domain.history import EventKind, Occurrence, named
from director.domain.scheduling import Limits
from director.domain.types import ExperimentId, ExperimentState
from director.services import endings
from director.services.periodic_jobs import Ticker
from director.services.runtime import Runtime
from director.services.supervision import Succeeded
from director.store import clock, events, experiment_states, federations, pending, queues
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic

SKIPPED_SECONDS = 0.05
"""Delay before deciding again about an experiment that another transaction held locked."""


class Admission:
    """Starts pending experiments, whenever something changed and at each poll."""

    def __init__(self, runtime: Runtime, ticker: Ticker) -> None:
        """Prepare."""
        self._runtime = runtime
        self._ticker = ticker

    async def run(self, succeeded: Succeeded) -> None:
        """Admit until cancelled; one task per process, so at most one waits for the job's row."""
        poll = self._runtime.settings.poll.total_seconds()
        with self._runtime.wakeups.listen(Topic.admission()) as wakeup:
            while True:
                wakeup.clear()
                skipped = await self.admit()
                succeeded()
                await wakeup.wait(SKIPPED_SECONDS if skipped else poll)

    async def admit(self) -> bool:
        """Decide once; True if some experiment was locked by somebody else: decide again soon."""
        async with self._runtime.db.write("admission") as tx:
            await federations.take_job(tx, federations.ADMISSION, wait=True)
            if not (await clock.read(tx)).stale:
                return await self._decide(tx)
        # After an outage nothing is decided before it is accounted for.
        return await self._ticker.tick()

    async def _decide(self, tx: Transaction) -> bool:
        settings = self._runtime.settings
        limits = Limits(settings.max_running_experiments, settings.max_running_per_user)
        queue = await pending.read(tx, lease=settings.lease)
        if not queue.pending:
            return False
        decided = scheduling.admit(queue.pending, engaged=queue.engaged, running=Counter(queue.running), limits=limits)
        for experiment_id in decided.start:
            if experiment_id in queue.locked:
                await start(tx, ExperimentId(experiment_id), eligible_at=queue.locked[experiment_id])
        for experiment_id, reason in decided.fail.items():
            if experiment_id in queue.locked:
                await endings.end(tx, ExperimentId(experiment_id), ExperimentState.FAILED, reason=reason)
        return any(each not in queue.locked for each in (*decided.start, *decided.fail))


async def start(tx: Transaction, experiment_id: ExperimentId, *, eligible_at: datetime) -> None:
    """Start an experiment and queue it for its envoys."""
    if await experiment_states.start(tx, experiment_id, eligible_at=eligible_at):
        envoys = await queues.enqueue(tx, experiment_id)
        await events.append(
            tx, experiment_id, Occurrence(EventKind.EXPERIMENT_STARTED, details=named("queued", envoys))
        )
