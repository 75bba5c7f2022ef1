"""Transactions on either engine: `async with db.read() as tx`, `async with db.write("name") as tx`.

A statement and a commit are never interrupted: a caller that is cancelled meanwhile learns of it once they are done.
So a connection is always in a known state, and what was committed is only ever unknown to a caller that went away.
"""

from collections import ChainMap, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any, Protocol, TypeVar

import asyncpg
from sqlalchemy import CursorResult, Executable, Insert, Row, Select, Table, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from director.concurrency import uninterrupted, uninterrupted_here
from director.effects import Clock
from director.errors import DirectorError, Unavailable
from director.store.engine.failures import UNSTORABLE, first_line, reraise, unstorable

Hint = tuple[str, int | str]
"""What changed, for those who wait: ("experiment", id), ("envoy", name), ("admission", 0) or ("claim", 0)."""


T = TypeVar("T")
CLOCK = select(func.clock_timestamp())
MEMORY = 1024
"""Facts kept in memory, at most."""


class Transaction:
    """An open transaction. Its `now` is read once; its hints are given out once it has committed."""

    def __init__(self, connection: AsyncConnection, clock: Clock | None, memory: "Memory") -> None:
        """Wrap a connection that has begun; without a clock the database is asked for the time."""
        self._connection = connection
        self._clock = clock
        self.learned: dict[Any, Any] = {}
        self.memory: MutableMapping[Any, Any] = ChainMap(self.learned, memory)
        """What never changes once it is committed, and was read before; others know it once this has committed."""
        self._now: datetime | None = None
        self.hints: list[Hint] = []
        self.facts: dict[str, Any] = {}
        """What was read in this transaction and does not change within it."""

    @property
    def postgresql(self) -> bool:
        """Whether the engine is PostgreSQL."""
        return self._connection.dialect.name == "postgresql"

    async def execute(
        self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run one statement.

        Raises:
            Unavailable: the database is away, or a lock was not to be had in time.
            DiskFull: there is no room on its disk.
            InvalidArgument: a parameter is one that no column can hold.
        """
        # With several sets of parameters asyncpg times its waits by cancelling the task that it is in.
        several = parameters is not None and not isinstance(parameters, Mapping) and len(parameters) > 1
        finish = uninterrupted if several else uninterrupted_here
        try:
            return await finish(self._connection.execute(statement, parameters))
        except DBAPIError as error:
            reraise(error)
        except UNSTORABLE as error:
            raise unstorable(error) from error

    def insert(self, table: Table) -> sqlite.Insert | PostgresInsert:
        """Begin an INSERT that knows ON CONFLICT, which both engines spell alike and SQLAlchemy does not."""
        return dialect_insert(table, self.postgresql)

    async def add(self, table: Table, *rows: Mapping[str, Any]) -> None:
        """Insert rows that have the same columns."""
        if rows:
            await self.execute(plain_insert(table), list(rows))

    async def add_if_absent(self, table: Table, row: Mapping[str, Any], *returning: str) -> Row[Any] | None:
        """Insert a row and return these columns of it, or None where a unique key is taken."""
        inserted = await self.execute(insert_if_absent(table, self.postgresql, returning), row)
        return inserted.one_or_none()

    async def dated(self, query: Select[Any], parameters: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Run a query whose rows, if there are any, bring the transaction's instant along where nobody knows it yet."""
        if self._now is not None or self._clock is not None:
            return (await self.execute(query, parameters)).all()
        rows = (await self.execute(with_instant(query), parameters)).all()
        if rows:
            self._now = rows[0].instant
        return rows

    async def now(self) -> datetime:
        """Return the transaction's instant: one clock for all replicas, the database's, or the process's on SQLite."""
        if self._now is None:
            if self._clock is not None:
                self._now = self._clock.now()
            else:
                self._now = (await self.execute(CLOCK)).scalar_one()
        return self._now

    def wake(self, *hints: Hint) -> None:
        """Tell those who wait, once this transaction has committed."""
        self.hints.extend(hints)


@cache
def dialect_insert(table: Table, for_postgresql: bool) -> sqlite.Insert | PostgresInsert:
    """Return an engine's own INSERT; made once, since making a statement costs more than running it."""
    return postgresql.insert(table) if for_postgresql else sqlite.insert(table)


@cache
def plain_insert(table: Table) -> Insert:
    """Return an INSERT whose columns are those of its parameters."""
    return insert(table)


@cache
def insert_if_absent(table: Table, for_postgresql: bool, returning: tuple[str, ...]) -> Executable:
    """Return an INSERT that leaves a row alone that is there already, and says whether it was."""
    return (
        dialect_insert(table, for_postgresql).on_conflict_do_nothing().returning(*(table.c[name] for name in returning))
    )


@cache
def with_instant(query: Select[Any]) -> Select[Any]:
    """Return a query that also asks for the time; for constants, since it is kept."""
    return query.add_columns(func.clock_timestamp().label("instant"))


class Engine(Protocol):
    """What differs between SQLite and PostgreSQL about connections."""

    @property
    def clock(self) -> Clock | None:
        """The clock for every instant; None asks the database."""
        ...

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open one snapshot that cannot write."""
        ...

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction that has committed when the block is left without an error."""
        ...

    async def give_back(self) -> bool:
        """Return some of the room that was freed inside the database to its disk; whether there is more."""
        ...

    async def close(self) -> None:
        """Let all connections go."""
        ...


class Memory(OrderedDict[Any, Any]):
    """A bounded store of facts that never change; those not asked for lately go first."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > MEMORY:
            self.popitem(last=False)


class Failpoints:
    """Where a transaction meets the world: nothing happens here, but a test may lose it there, or die.

    A transaction is entered, and where it writes it is committed between `before` and `after`.
    """

    def enter(self, name: str) -> None:
        """Come before a transaction begins; a reading one is called "read"."""

    def before(self, name: str) -> None:
        """Come when all is written and nothing is committed."""

    def after(self, name: str) -> None:
        """Come when it is committed and nobody knows."""


class Database:
    """One database, however many connections it takes."""

    def __init__(self, engine: Engine, *, url: str) -> None:
        """Use an engine; `open_database` builds both."""
        self._engine = engine
        self.url = url
        self.on_commit: Callable[[Sequence[Hint]], None] = lambda _hints: None
        self._memory = Memory()
        self.failpoints = Failpoints()

    @property
    def clock(self) -> Clock | None:
        """The clock for every instant; None asks the database."""
        return self._engine.clock

    @property
    def replicated(self) -> bool:
        """Whether other directors may share the database."""
        return not self.url.startswith("sqlite:")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Read one snapshot.

        Raises:
            Unavailable: the database is away.
        """
        self.failpoints.enter("read")
        async with translating(), self._engine.reading() as connection:
            tx = Transaction(connection, self._engine.clock, self._memory)
            yield tx
        self._memory.update(tx.learned)

    @asynccontextmanager
    async def write(self, name: str) -> AsyncIterator[Transaction]:
        """Write; all of the block is committed, and flushed, when it is left, or nothing is.

        The name is the operation's, for logs and for tests that crash it.

        Raises:
            Unavailable: the database is away; whether it committed is unknown.
        """
        self.failpoints.enter(name)
        async with translating():
            async with self._engine.writing() as connection:
                tx = Transaction(connection, self._engine.clock, self._memory)
                yield tx
                self.failpoints.before(name)
            self.failpoints.after(name)
        self._memory.update(tx.learned)
        self.on_commit(tx.hints)

    async def give_back(self) -> bool:
        """Return some of the room that was freed inside the database to its disk; whether there is more.

        Raises:
            Unavailable: the database is away, or its disk so full that not even this can be written down.
        """
        async with translating():
            return await self._engine.give_back()

    async def close(self) -> None:
        """Let all connections go."""
        await self._engine.close()


@asynccontextmanager
async def translating() -> AsyncIterator[None]:
    """Turn drivers' errors into ours."""
    try:
        yield
    except DirectorError:
        raise
    except DBAPIError as error:
        reraise(error)
    except (
        OSError,
        TimeoutError,
        PoolTimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
    ) as error:
        raise Unavailable(f"the database cannot be reached: {first_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise Unavailable(f"the database refused the connection: {first_line(error)}") from error
