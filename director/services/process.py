"""One director process: all services over one database, and the tasks that keep them going."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from director.effects import Entropy, SystemEntropy
from director.errors import PASSING
from director.services.admission import Admission
from director.services.envoy_use_cases import Envoys
from director.services.execution import Execution
from director.services.experiment_use_cases import Experiments
from director.services.explaining import Explaining
from director.services.periodic_jobs import PeriodicJobs, Ticker
from director.services.presence import Presence
from director.services.reviewing import ReviewCallback
from director.services.round_use_cases import Rounds
from director.services.runtime import Caller, Runtime
from director.services.streams import Streams
from director.services.submissions import Submissions
from director.settings import Settings
from director.store import federations
from director.store.engine import schema
from director.store.engine.database import Database
from director.store.engine.notifications import Notifications

log = logging.getLogger(__name__)


class Process:
    """The services, for whoever speaks to them, and what runs in the background."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        *,
        entropy: Entropy | None = None,
        review: ReviewCallback | None = None,
    ) -> None:
        """Build everything; nothing is connected yet."""
        self.runtime = Runtime(db, settings, entropy or SystemEntropy())
        self.submissions = Submissions(self.runtime, reviewed=review is not None)
        self.experiments = Experiments(self.runtime)
        self.envoys = Envoys(self.runtime)
        self.rounds = Rounds(self.runtime)
        self.streams = Streams(self.runtime)
        self.explaining = Explaining(self.runtime)
        self.ticker = Ticker(self.runtime)
        self.presence = Presence(self.runtime)
        self.periodic_jobs = PeriodicJobs(self.runtime)
        self.admission = Admission(self.runtime, self.ticker)
        self.execution = Execution(
            self.runtime, self.ticker, director_id=lambda: self.presence.director_id, review=review
        )

    def caller(self, name: str) -> Caller:
        """Return who a name is."""
        return Caller(name, operator=name in self.runtime.settings.operators)

    async def epoch(self) -> str:
        """Return the federation's epoch."""
        async with self.runtime.db.read() as tx:
            return await federations.epoch(tx)

    async def open(self) -> None:
        """Make sure of the schema and enter the federation. SQLite's schema is made and upgraded here.

        Raises:
            SchemaOutdated: the text says what to type.
            PreconditionFailed: another director runs on the same SQLite file.
            Unavailable: the database is away.
        """
        db = self.runtime.db
        if db.replicated:
            await schema.require(db.url)
        else:
            self.presence.lock_file()
            before, after = await schema.upgraded(db.url)
            if before not in (None, after):
                log.info("the schema is %s now; it was %s", after, before)
        await self.presence.enter()

    async def run(self) -> None:
        """Drive the federation until cancelled."""
        jobs: list[Coroutine[Any, Any, None]] = [
            self.ticker.run(),
            self.presence.run(),
            self.admission.run(),
            self.execution.run(),
            self.periodic_jobs.run(),
        ]
        if self.runtime.db.replicated:
            wakeups = self.runtime.wakeups
            notifications = Notifications(self.runtime.db.url, received=wakeups.wake, missed=wakeups.wake_all)
            wakeups.relay = notifications.send
            jobs.append(notifications.run())
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)

    async def drain(self) -> None:
        """Have every wait answered, and let the experiments go."""
        self.runtime.wakeups.close()
        try:
            await self.execution.drain()
        except PASSING as error:
            log.warning("the database is away while stopping: %s", error)

    async def close(self) -> None:
        """Leave the federation, and let the database go."""
        await self.presence.leave()
        await self.runtime.db.close()
