"""The production engine: a pool of connections, row locks, READ COMMITTED for writers and one snapshot for readers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from director.concurrency import uninterrupted
from director.effects import Clock
from director.errors import InvalidArgument

POOL = 16
POOL_SECONDS = 10
"""How long a transaction waits for a connection."""
SESSION = {
    "application_name": "director",
    "timezone": "UTC",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    # A process that was stopped in a transaction holds its row locks for this long.
    "idle_in_transaction_session_timeout": "3s",
    "tcp_user_timeout": "5s",
    "client_connection_check_interval": "5s",
    "jit": "off",
}
"""Settings of every session: nothing waits for ever."""


async def connect(url: str, **settings: str) -> Any:
    """Open one connection of the driver's own kind; the URL may name several hosts.

    Raises:
        InvalidArgument: the URL cannot be read.
    """
    try:
        return await asyncpg.connect(url, server_settings=SESSION | settings, timeout=10, command_timeout=40)
    except ValueError as error:
        raise InvalidArgument(f"the database URL cannot be read: {error}") from error


async def commit(connection: AsyncConnection) -> None:
    """Commit, and give the connection back."""
    try:
        await connection.commit()
    finally:
        await connection.close()


class PostgresEngine:
    """A pool of connections to one PostgreSQL database.

    A caller that is cancelled during a statement loses its connection: SQLAlchemy closes it, since the driver may have
    stopped in the middle of an answer, and the server rolls back. Whatever ends a transaction is never interrupted.
    """

    def __init__(self, url: str, *, clock: Clock | None) -> None:
        """Prepare; nothing is connected yet. Without a clock the database's own is used."""
        self.clock = clock
        self._pool = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: connect(url),
            pool_size=POOL,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            pool_pre_ping=False,
            isolation_level="READ COMMITTED",
        )

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open one snapshot that cannot write."""
        connection = await self._pool.connect()
        try:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            await connection.begin()  # nothing is sent before the first statement
            yield connection
        finally:
            await uninterrupted(connection.close())

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction; on leaving it has been committed."""
        connection = await self._pool.connect()
        try:
            await connection.begin()  # nothing is sent before the first statement
            yield connection
        except BaseException:
            await uninterrupted(connection.close())
            raise
        await uninterrupted(commit(connection))

    async def give_back(self) -> bool:
        """Leave it to autovacuum."""
        return False

    async def close(self) -> None:
        """Let all connections go."""
        await self._pool.dispose()
