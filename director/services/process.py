"""One director process: all services over one database, and the background loops."""

import logging

from director.effects import Entropy, SystemEntropy
from director.errors import Later
from director.services.admission import Admission
from director.services.envoy_use_cases import Envoys
from director.services.execution import Execution
from director.services.experiment_use_cases import Experiments
from director.services.explaining import Explaining
from director.services.federation_use_cases import Federations
from director.services.periodic_jobs import PeriodicJobs, Ticker
from director.services.presence import Presence
from director.services.reviewing import ReviewCallback
from director.services.round_use_cases import Rounds
from director.services.runtime import Caller, Runtime
from director.services.streams import Streams
from director.services.submissions import Submissions
from director.services.supervision import Loop, every, supervise_all
from director.settings import Settings
from director.store.engine import schema
from director.store.engine.database import Database
from director.store.engine.notifications import Notifications

log = logging.getLogger(__name__)


class Process:
    """The services, and the loops that run in the background."""

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
        self.explaining = Explaining(self.runtime)
        self.experiments = Experiments(self.runtime, self.explaining)
        self.federation = Federations(self.runtime)
        self.envoys = Envoys(self.runtime)
        self.rounds = Rounds(self.runtime)
        self.streams = Streams(self.runtime)
        self.ticker = Ticker(self.runtime)
        self.presence = Presence(self.runtime)
        self.periodic_jobs = PeriodicJobs(self.runtime, self.federation)
        wakeups = self.runtime.wakeups
        self._notifications = Notifications(db.url, received=wakeups.wake, missed=wakeups.wake_all)
        self.admission = Admission(self.runtime, self.ticker)
        self.execution = Execution(
            self.runtime, self.ticker, director_id=lambda: self.presence.director_id, review=review
        )

    def caller(self, name: str) -> Caller:
        """Return who a name is."""
        return Caller(name, operator=name in self.runtime.settings.operators)

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
        if self.runtime.db.replicated:
            self.runtime.wakeups.relay = self._notifications.send
        await supervise_all(self.loops(), self.runtime.entropy)

    def loops(self) -> dict[str, Loop]:
        """Return the background loops by name."""
        poll = self.runtime.settings.poll.total_seconds()
        loops: dict[str, Loop] = {
            "service time": self.ticker.run,
            "admission": self.admission.run,
            "claiming": self.execution.run,
            **{name: every(poll, job) for name, job in self.periodic_jobs.each.items()},
        }
        if self.runtime.db.replicated:
            loops |= {
                "presence": self.presence.run,
                "lease thread": self.presence.lease_thread.run,
                "notifications": self._notifications.run,
            }
        return loops

    async def drain(self) -> None:
        """Have every wait answered, and release the experiments."""
        self.runtime.wakeups.close()
        try:
            await self.execution.drain()
        except Later as error:
            log.warning("the database is away while stopping: %s", error)
        except Exception:
            log.exception("the experiments could not be released; they are free when this director has left")

    async def close(self) -> None:
        """Leave the federation, and close the database."""
        try:
            await self.presence.leave()
        finally:
            await self.runtime.db.close()
