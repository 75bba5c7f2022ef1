"""This director among the others: it enters, keeps its lease, buries those that let theirs expire, and leaves.

On PostgreSQL the lease is renewed from a thread with a connection of its own, so that no amount of work delays it,
but only while the event loop is alive: a lease that outlives its loop would hold experiments that nobody drives. On
SQLite a lock on the file keeps others out, and whoever gets in knows that all others are dead.
"""

import asyncio
import contextlib
import logging
import platform
import threading
from typing import IO

from director.domain.messages import Event, EventKind
from director.domain.types import DirectorId
from director.effects import monotonic
from director.errors import PASSING
from director.services.runtime import Runtime
from director.store import events, federations, leases
from director.store.engine.database import Database
from director.store.engine.opening import open_database, sqlite_path
from director.store.engine.sqlite import lock_file
from director.version import __version__

log = logging.getLogger(__name__)

MARGIN = 0.1
"""The share of a lease by which this process stops believing in it before the others do."""


class Presence:
    """One director's own row, and the rows of the dead."""

    def __init__(self, runtime: Runtime) -> None:
        """Prepare."""
        self._runtime = runtime
        self._lease = runtime.settings.lease
        self._id: DirectorId | None = None
        self._lock: IO[bytes] | None = None
        self._beat = monotonic()
        self._valid_until = float("inf")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def director_id(self) -> DirectorId | None:
        """This director's id, while it may act; None once its lease may have expired."""
        return self._id if monotonic() < self._valid_until else None

    def lock_file(self) -> None:
        """Keep every other director off an SQLite file, from before its schema is touched; again is the same.

        Raises:
            PreconditionFailed: another director runs on it.
        """
        path = sqlite_path(self._runtime.db.url)
        if path is not None and self._lock is None:
            self._lock = lock_file(path)

    async def enter(self) -> None:
        """Make the rows of a new database, and enter this director; its lease is kept while `run` runs."""
        await self._register(alone=not self._runtime.db.replicated)

    async def _register(self, *, alone: bool) -> None:
        runtime, sent = self._runtime, monotonic()
        me = DirectorId(runtime.entropy.token())
        async with runtime.db.write("enter") as tx:
            await federations.create(tx, epoch=runtime.entropy.token(), tick=runtime.settings.tick)
            await leases.register(tx, me, host=platform.node(), version=__version__, lease=self._lease)
            dead = await leases.reap(tx, lease=self._lease, survivor=me if alone else None)
            happened = [Event(EventKind.DIRECTOR_REAPED, details={"director": each}) for each in dead]
            started = Event(EventKind.DIRECTOR_STARTED, details={"director": me, "version": __version__})
            await events.append_to_federation(tx, *happened, started)
            tx.wake(("claim", 0), ("admission", 0))
        await self._free()
        self._id = me
        self._valid_until = float("inf") if alone else sent + self._lease.total_seconds() * (1 - MARGIN)

    async def _free(self) -> None:
        async with self._runtime.db.write("free") as tx:
            await leases.free(tx)

    async def run(self) -> None:
        """Beat, bury the dead, and enter anew if this lease was lost; until cancelled."""
        every = self._lease.total_seconds() / 6
        if self._runtime.db.replicated:
            self._thread = threading.Thread(target=lambda: asyncio.run(self._keep()), name="lease", daemon=True)
            self._thread.start()
        next_look = monotonic()
        while True:
            self._beat = monotonic()
            try:
                if self._thread is not None and self.director_id is None:
                    self._runtime.wakeups.wake([("claim", 0)])
                    log.warning("this director's lease expired; it enters anew")
                    await self._register(alone=False)
                if self._beat >= next_look:
                    next_look = self._beat + await self.expire_leases()
            except PASSING as error:
                log.warning("the lease waits: %s", error)
                next_look = monotonic() + every
            await asyncio.sleep(min(every, max(next_look - monotonic(), 0.01)))

    async def expire_leases(self) -> float:
        """Declare dead whose leases expired and free what they owned; return in how many seconds to look again."""
        poll = self._runtime.settings.poll.total_seconds()
        if not self._runtime.db.replicated:
            return poll
        async with self._runtime.db.read() as tx:
            expiry = await leases.next_expiry(tx, but=self._id)
        if expiry is None or 0 < expiry <= 2 * self._lease.total_seconds():
            await self._free()
            return poll if expiry is None else min(poll, expiry + 0.01)
        async with self._runtime.db.write("reap") as tx:
            dead = await leases.reap(tx, lease=self._lease)
            if dead:
                happened = [Event(EventKind.DIRECTOR_REAPED, details={"director": each}) for each in dead]
                await events.append_to_federation(tx, *happened)
        await self._free()
        return 0.0

    async def _keep(self) -> None:
        """Renew the lease, in the thread."""
        db = open_database(self._runtime.db.url, clock=self._runtime.db.clock)
        seconds = self._lease.total_seconds()
        try:
            while not self._stopping.is_set():
                if self._id is not None and monotonic() - self._beat < seconds / 2:
                    await self.renew(db)
                await asyncio.to_thread(self._stopping.wait, seconds / 3)
        finally:
            await db.close()

    async def renew(self, db: Database) -> None:
        """Extend the lease once, over a database opened for that alone; one that was lost stays lost."""
        sent, me = monotonic(), self._id
        assert me is not None, "renewed once entered"
        try:
            async with db.write("renew") as tx:
                renewed = await leases.renew(tx, me, lease=self._lease)
        except PASSING as error:
            log.warning("the lease could not be renewed: %s", error)
            return
        if me == self._id:
            self._valid_until = sent + self._lease.total_seconds() * (1 - MARGIN) if renewed else 0.0

    async def leave(self) -> None:
        """End the lease and let the file go."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5)
        if self._id is not None:
            with contextlib.suppress(*PASSING):
                async with self._runtime.db.write("leave") as tx:
                    await leases.retire(tx, self._id)
                    await events.append_to_federation(
                        tx, Event(EventKind.DIRECTOR_STOPPED, details={"director": self._id})
                    )
            self._id = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
