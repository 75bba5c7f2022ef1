"""The embedded engine: one process, one connection that writes, group commit.

SQLite takes one writer at a time and pays for each flush. So writers that queue behind each other share one
transaction: each runs inside a savepoint of its own, and none is answered before the common COMMIT, which waits for
the disk (`synchronous=FULL`).
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from director.concurrency import uninterrupted
from director.effects import Clock
from director.errors import DiskFull, InvalidArgument, PreconditionFailed, Unavailable
from director.store.engine.aiosqlite_cursor import OneCrossingConnection
from director.store.engine.failures import translated

OLDEST = (3, 37)
READERS = 4
POOL_SECONDS = 30
"""How long a reader waits for a connection."""
PAGE_BYTES = 16384
GIVEN_BACK_PAGES = 512
"""Pages cut off a file at a time: 8 MiB, a moment in which nobody else writes."""


class SqliteEngine:
    """Connections to one SQLite file."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Prepare; the file is created by the first connection."""
        if sqlite3.sqlite_version_info < OLDEST:
            raise PreconditionFailed(f"SQLite {sqlite3.sqlite_version} is too old; {OLDEST[0]}.{OLDEST[1]} is needed")
        self.clock = clock
        self._writers = engine(path, begin_with="BEGIN IMMEDIATE", size=1)
        self._readers = engine(path, begin_with="BEGIN", size=READERS, read_only=True)
        self._writer: AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._group: Group | None = None
        self._commits: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open one snapshot that cannot write."""
        connection = await self._readers.connect()
        try:
            await connection.begin()
            yield connection
        finally:
            await uninterrupted(connection.close())

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Take part in a group's transaction; on leaving it has been committed."""
        async with self._turn:
            group = self._group
            if group is None:
                group = await self._begin()
            else:
                await group.run("SAVEPOINT member")
            try:
                yield group.connection
            except BaseException as error:
                await uninterrupted(self._undo(group, error))
                raise
            if group.members:
                await group.run("RELEASE member")
            group.members += 1
        await group.committed()

    async def _begin(self) -> "Group":
        """Begin a transaction, and have it committed behind all writers that wait now: these make up the group."""
        if self._writer is None or self._writer.invalidated:
            self._writer = await self._writers.connect()
        try:
            await uninterrupted(self._writer.begin())
        except asyncio.CancelledError:
            await uninterrupted(self._writer.rollback())  # it has begun; the next writer begins again
            raise
        self._group = group = Group(self._writer)
        task = asyncio.ensure_future(self._commit(group))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return group

    async def _undo(self, group: "Group", error: BaseException) -> None:
        """Take back what one member did: to its savepoint, or all of it where nobody else has done anything."""
        if group.members:
            await group.run("ROLLBACK TO member")
            await group.run("RELEASE member")
        if not group.members or not group.alive:
            # Alone, or SQLite itself rolled the transaction back (full disk, I/O error).
            self._group = None
            await group.abandon(error)

    async def _commit(self, group: "Group") -> None:
        async with self._turn:
            if self._group is group:
                self._group = None
                await group.commit()

    async def give_back(self) -> bool:
        """Return some free pages to the file system, outside any transaction; whether there are more."""
        async with self._turn:
            if self._group is not None:
                return True  # a transaction is open: later
            if self._writer is None or self._writer.invalidated:
                self._writer = await self._writers.connect()
            driver: Any = (await self._writer.get_raw_connection()).driver_connection
            try:
                return await uninterrupted(shrink(driver))
            except sqlite3.Error as error:
                raise Unavailable(f"the file could not be made smaller: {error}") from error

    async def close(self) -> None:
        """Let all connections go, after what is being committed."""
        if self._commits:
            await asyncio.wait(self._commits)
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        await self._writers.dispose()
        await self._readers.dispose()


class Group:
    """One transaction that several writers share.

    The first needs no savepoint: if it fails, nothing is lost with it.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        """Take over a connection that has begun."""
        self.connection = connection
        self.members = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, statement: str) -> None:
        """Run a statement that steers the transaction."""
        if self.alive:
            await self.connection.exec_driver_sql(statement)

    @property
    def alive(self) -> bool:
        """Whether SQLite still has the transaction open."""
        raw: Any = self.connection.sync_connection
        if raw is None or raw.invalidated:
            return False
        return bool(raw.connection.dbapi_connection.driver_connection.in_transaction)

    async def commit(self) -> None:
        """Commit, and tell the members."""
        try:
            await self.connection.commit()
        except Exception as error:
            await self.abandon(error)
        else:
            self._done.set_result(None)

    async def abandon(self, error: BaseException) -> None:
        """Roll back, and tell the members that nothing was written."""
        self._done.set_exception(translated(error) if isinstance(error, DBAPIError) else Unavailable(str(error)))
        self._done.exception()  # seen, where there is no member to see it
        with contextlib.suppress(DBAPIError):
            await self.connection.rollback()
        if self.alive:
            # A commit that failed leaves SQLite's transaction open, which SQLAlchemy takes for closed.
            await self.connection.invalidate()

    async def committed(self) -> None:
        """Wait until the disk has it.

        Raises:
            DiskFull, Unavailable: it does not; nothing of the group was written.
        """
        try:
            await uninterrupted(self._done)
        except DiskFull as error:
            raise DiskFull(str(error)) from error
        except Exception as error:
            raise Unavailable(f"the commit failed: {error}") from error


async def shrink(driver: Any) -> bool:
    """Cut free pages off the file's end; whether there are more.

    The file gets smaller when the log of writes is copied into it, so that is done too, as far as readers let it.
    """
    # As a script: by itself the driver stops this pragma after its first page.
    await driver.executescript(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES}); PRAGMA wal_checkpoint(PASSIVE);")
    async with driver.execute("PRAGMA freelist_count") as cursor:
        return bool((await cursor.fetchone())[0])


def engine(path: Path, *, begin_with: str, size: int, read_only: bool = False) -> AsyncEngine:
    """Build an engine whose transactions begin as we say and whose commits wait for the disk."""
    check_folder(path)
    built = create_async_engine(
        f"sqlite+aiosqlite:///{path}",
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        connect_args={"timeout": 30},
    )

    @event.listens_for(built.sync_engine, "do_connect")
    def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> OneCrossingConnection:
        made = dialect.loaded_dbapi.connect(*arguments, **options)
        return OneCrossingConnection(made.dbapi, made.driver_connection)

    @event.listens_for(built.sync_engine, "connect")
    def set_up(connection: DBAPIConnection, _record: object) -> None:
        configure(connection, pragmas(read_only=read_only))

    @event.listens_for(built.sync_engine, "handle_error")
    def keep(context: ExceptionContext) -> None:
        # The statement was finished before its caller learned of the cancellation, so the connection can be used on.
        if isinstance(context.original_exception, asyncio.CancelledError):
            context.is_disconnect = False

    @event.listens_for(built.sync_engine, "begin")
    def say_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin_with)

    return built


def check_folder(path: Path) -> None:
    """Refuse a file in a folder that is not there; SQLite's own words would not name it.

    Raises:
        InvalidArgument: there is no such folder.
    """
    if not path.absolute().parent.is_dir():
        raise InvalidArgument(f"there is no folder {path.parent} for the database {path.name}")


def configure(connection: DBAPIConnection, settings: Sequence[str]) -> None:
    """Set up a new connection. One that cannot be set up, since the file is no database, is closed."""
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    try:
        for pragma in settings:
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    cursor.close()


def pragmas(*, read_only: bool) -> list[str]:
    """Return the settings of a connection, in order: page size and vacuum count only before the first table."""
    common = ["busy_timeout = 30000", "foreign_keys = ON"]
    if read_only:
        return [*common, "query_only = ON", "wal_autocheckpoint = 0"]
    before = [f"page_size = {PAGE_BYTES}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"]
    return [*before, *common, "synchronous = FULL"]


def lock_file(path: Path) -> IO[bytes]:
    """Hold the file for this process until the handle is closed, or the process ends in whatever way.

    Raises:
        PreconditionFailed: another director holds it, or the file system knows no locks.
        InvalidArgument: its folder is not there.
    """
    check_folder(path)
    handle = Path(f"{path}.lock").open("ab")  # noqa: SIM115 - it stays open for as long as the lock is held
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise PreconditionFailed(
            f"another director is running on {path}; a SQLite database takes one (PostgreSQL takes any number)"
        ) from None
    except OSError as error:
        handle.close()
        raise PreconditionFailed(f"{path} cannot be locked ({error}); put it on a local disk") from error
    os.set_inheritable(handle.fileno(), False)
    return handle
