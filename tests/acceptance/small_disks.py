"""Databases with little room: each on a small disk of its own, which a test may fill."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import asyncpg

from director.store.engine import schema
from tests.postgres import PostgresServer

MEBIBYTE = 1 << 20


class SmallDisk:
    """A file system in memory, for as long as the block lasts; mounting it takes root."""

    def __init__(self, *, mebibytes: int) -> None:
        self._mebibytes = mebibytes

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
        self._ballast = self.folder / "ballast"
        try:
            size = f"size={self._mebibytes}m,mode=1777"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.folder)], check=True)
        except BaseException:
            self.folder.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self.folder.rmdir()

    def fill(self, *, leaving: int = 0) -> None:
        """Put ballast on it until only so many bytes are left."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (free := self._free_bytes() - leaving) > 0:
                file.write(bytes(min(free, MEBIBYTE)))

    def clear(self) -> None:
        """Throw the ballast away."""
        self._ballast.unlink()

    def _free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize


class SmallDatabase(Protocol):
    """A database on a small disk."""

    disk: SmallDisk
    url: str
    limits: Mapping[str, str]
    """Settings under which it is found to be full before its disk is."""
    lack: str
    """How what it has is described then."""

    def crowd(self) -> None:
        """Leave it less than it is to have."""
        ...

    def relieve(self) -> None:
        """Free what crowds it."""
        ...

    def press(self) -> None:
        """While its disk is full, have it need more."""
        ...

    def recover(self) -> None:
        """Bring it back, now that its disk has room."""
        ...


class SmallSqlite:
    """SQLite, which sees the disk that it is on."""

    limits: Mapping[str, str] = {"DIRECTOR_DISK_RESERVE_BYTES": str(16 * MEBIBYTE)}
    lack = "MiB left, less than its reserve of 16.0 MiB; nothing more is taken in until space is freed"

    def __init__(self, disk: SmallDisk) -> None:
        self.disk, self.url = disk, f"sqlite:///{disk.folder / 'director.db'}"
        schema.upgrade(self.url)

    def crowd(self) -> None:
        """Take into the reserve."""
        self.disk.fill(leaving=12 * MEBIBYTE)

    def relieve(self) -> None:
        """Free the disk."""
        self.disk.clear()

    def press(self) -> None:
        """Ask for nothing: each write does."""

    def recover(self) -> None:
        """Do nothing: SQLite never fell."""


SETTINGS = ("max_wal_size=48MB", "min_wal_size=32MB", "wal_recycle=off", "restart_after_crash=off")
"""A log of writes that keeps nothing in store, and needs room for each of its segments; a server that stays down."""


class SmallPostgres:
    """PostgreSQL, which falls when its log of writes finds no room; its size is compared with a limit."""

    limits: Mapping[str, str] = {"DIRECTOR_DATABASE_SIZE_LIMIT_BYTES": str(48 * MEBIBYTE)}
    lack = "no room left; nothing more is taken in until space is freed"

    def __init__(self, disk: SmallDisk, server: PostgresServer) -> None:
        self.disk, self._server = disk, server
        self._server.start(*(part for setting in SETTINGS for part in ("-c", setting)))
        self.url = asyncio.run(server.create_database("federation"))
        schema.upgrade(self.url)

    def crowd(self) -> None:
        """Make a table of somebody else's."""
        self._execute("CREATE UNLOGGED TABLE ballast AS SELECT repeat('.', 1000) FROM generate_series(1, 60000)")

    def relieve(self) -> None:
        """Drop it."""
        self._execute("DROP TABLE ballast")

    def press(self) -> None:
        """Go on to the next segment of the log, for which there is no room, and wait for the fall."""
        with contextlib.suppress(asyncpg.PostgresError, OSError):
            self._execute("SELECT pg_switch_wal()")
        self._server.wait()
        assert "PANIC" in self._server.log

    def recover(self) -> None:
        """Start it again."""
        self._server.restart()

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection: Any = await asyncpg.connect(self.url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(execute())
