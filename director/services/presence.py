"""This director's presence: register it, renew its lease, expire the leases of dead directors, end its own.

On PostgreSQL a thread renews the lease (`lease_thread`). On SQLite a lock on the file keeps other directors out, and
the director that gets in knows that all others are dead.
"""

import asyncio
import contextlib
import logging
import platform
from typing import IO

from director.domain.history import EventKind, Occurrence
from director.domain.types import DirectorId
from director.effects import monotonic
from director.errors import Later
from director.services.lease_thread import LeaseThread
from director.services.runtime import Runtime
from director.services.supervision import Succeeded
from director.store import events, federations, leases
from director.store.engine.database import Database
from director.store.engine.opening import sqlite_path
from director.store.engine.sqlite import lock_file
from director.store.engine.topics import Topic
from director.version import __version__

log = logging.getLogger(__name__)

MARGIN = 0.1
"""The share of a lease by which this process stops acting on it before the others may replace it."""


class Presence:
    """One director's own row, and the rows of dead directors."""

    def __init__(self, runtime: Runtime) -> None:
        """Prepare."""
        self._runtime = runtime
        self._lease = runtime.settings.lease
        self._id: DirectorId | None = None
        self._lock: IO[bytes] | None = None
        self._valid_until = float("inf")
        self.lease_thread = LeaseThread(runtime, self.renew)

    @property
    def director_id(self) -> DirectorId | None:
        """This director's id, while it may act; None once its lease may have expired."""
        return self._id if monotonic() < self._valid_until else None

    def lock_file(self) -> None:
        """Keep every other director off an SQLite file, from before its schema is touched; a repeat changes nothing.

        Raises:
            PreconditionFailed: another director runs on it.
        """
        path = sqlite_path(self._runtime.db.url)
        if path is not None and self._lock is None:
            self._lock = lock_file(path)

    async def enter(self) -> None:
        """Make the rows of a new database, and register this director; the lease thread then renews its lease."""
        await self._register(alone=not self._runtime.db.replicated)

    async def _register(self, *, alone: bool) -> None:
        runtime, sent = self._runtime, monotonic()
        me = DirectorId(runtime.entropy.token())
        async with runtime.db.write("enter") as tx:
            await federations.create(tx, epoch=runtime.entropy.token(), tick=runtime.settings.tick)
            await leases.register(tx, me, host=platform.node(), version=__version__, lease=self._lease)
            dead = await leases.reap(tx, lease=self._lease, survivor=me if alone else None)
            happened = [Occurrence(EventKind.DIRECTOR_REAPED, details={"director": each}) for each in dead]
            started = Occurrence(EventKind.DIRECTOR_STARTED, details={"director": me, "version": __version__})
            await events.append_to_federation(tx, *happened, started)
            tx.wake(Topic.claim(), Topic.admission())
        await self._free()
        self._id = me
        self._valid_until = float("inf") if alone else sent + self._lease.total_seconds() * (1 - MARGIN)

    async def _free(self) -> None:
        async with self._runtime.db.write("free") as tx:
            await leases.free(tx)

    async def run(self, succeeded: Succeeded) -> None:
        """Expire the leases of others, and register again if this lease was lost, until cancelled; on PostgreSQL."""
        every = self._lease.total_seconds() / 6
        next_look = monotonic()
        while True:
            if self.director_id is None:
                self._runtime.wakeups.wake([Topic.claim()])
                await self._register(alone=False)
                log.warning("this director's lease expired; it has registered again")
            if monotonic() >= next_look:
                next_look = monotonic() + await self.expire_leases()
            succeeded()
            await asyncio.sleep(min(every, max(next_look - monotonic(), 0.01)))

    async def expire_leases(self) -> float:
        """Expire the leases of dead directors and free what they owned; return in how many seconds to look again."""
        poll = self._runtime.settings.poll.total_seconds()
        async with self._runtime.db.read() as tx:
            expiry = await leases.next_expiry(tx, but=self._id)
        if expiry is None or 0 < expiry <= 2 * self._lease.total_seconds():
            await self._free()
            return poll if expiry is None else min(poll, expiry + 0.01)
        async with self._runtime.db.write("reap") as tx:
            dead = await leases.reap(tx, lease=self._lease)
            if dead:
                happened = [Occurrence(EventKind.DIRECTOR_REAPED, details={"director": each}) for each in dead]
                await events.append_to_federation(tx, *happened)
        await self._free()
        return 0.0

    async def renew(self, db: Database) -> None:
        """Extend the lease once, over a given database; a lease that was lost stays lost.

        Raises:
            Unavailable: the database is away.
        """
        sent, me = monotonic(), self._id
        if me is None:
            return
        async with db.write("renew") as tx:
            renewed = await leases.renew(tx, me, lease=self._lease)
        if me == self._id:
            self._valid_until = sent + self._lease.total_seconds() * (1 - MARGIN) if renewed else 0.0

    async def leave(self) -> None:
        """End the lease and let the file go."""
        await self.lease_thread.stop()
        try:
            if self._id is not None:
                with contextlib.suppress(Later):
                    await self._retire(self._id)
        finally:
            self._id = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    async def _retire(self, me: DirectorId) -> None:
        async with self._runtime.db.write("leave") as tx:
            await leases.retire(tx, me)
            await events.append_to_federation(tx, Occurrence(EventKind.DIRECTOR_STOPPED, details={"director": me}))
