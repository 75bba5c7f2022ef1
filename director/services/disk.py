"""Room on the database's disk: below a reserve uploads are refused, folds wait, and service time stands still.

A full disk costs time, as an outage does, and no decision: no envoy becomes absent and no deadline passes. Cancel,
remove and sweep go on, since they free space. With space again, everything goes on.
"""

import asyncio

from director.domain.room import Room
from director.effects import monotonic
from director.errors import DiskFull
from director.settings import Settings
from director.store.engine import space
from director.store.engine.database import Database
from director.store.engine.opening import sqlite_path

CACHED_SECONDS = 1.0
WRITTEN_TWICE = 2
"""Bytes on the disk for each byte stored: one in the write-ahead log for a while, one in its place."""


class Disk:
    """The room that the database has: measured once a second, less what was stored since."""

    def __init__(self, db: Database, settings: Settings) -> None:
        """Prepare; nothing is measured yet."""
        self.settings = settings
        self._db = db
        self._path = sqlite_path(db.url)
        self._room: Room | None = None
        self._next_look = float("-inf")

    async def lacks(self) -> str | None:
        """Say why nothing more is taken in; None if there is room."""
        await self.look()
        return None if self._room is None else self._room.lacks()

    async def look(self) -> None:
        """Measure the room, unless that was done within the last second."""
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + CACHED_SECONDS
            self._room = await self._measure()

    async def _measure(self) -> Room | None:
        settings = self.settings
        if self._path is not None:
            return Room(space.free_bytes(self._path), settings.disk_reserve_bytes)
        if settings.database_size_limit_bytes is None:
            return None
        async with self._db.read() as tx:
            return Room(settings.database_size_limit_bytes - await space.used_bytes(tx), 0)

    async def require(self) -> None:
        """Refuse an upload if there is no room.

        Raises:
            DiskFull: repeat the call when there is.
        """
        await self.look()
        self.fit(0)

    def fit(self, size: int) -> None:
        """Refuse so many bytes more if they had no room at the last look; for inside a transaction.

        Raises:
            DiskFull: repeat the call when they have.
        """
        if self._room is not None and (lack := self._room.lacks(size)) is not None:
            raise DiskFull(lack)

    def spend(self, size: int) -> None:
        """Subtract bytes that were stored since the last measurement."""
        if self._room is not None:
            self._room = Room(self._room.free - WRITTEN_TWICE * size, self._room.reserve)

    async def wait(self) -> None:
        """Wait until there is room."""
        while await self.lacks() is not None:  # noqa: ASYNC110 - nothing tells when a disk has room
            await asyncio.sleep(CACHED_SECONDS)
