"""Transactions on either engine: `async with db.read() as tx`, `async with db.write("name") as tx`.

A caller may be cancelled at any point. Each engine then takes back what the transaction did, and either knows the state
of the connection or closes it. A commit is never interrupted: a caller that is cancelled during a commit learns of it
once the commit is done.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, Protocol

import asyncpg
from sqlalchemy import CursorResult, Executable, Insert, Row, Select, Table, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from director.effects import Clock
from director.errors import DirectorError, Overloaded, Unavailable
from director.store.engine.cache import Cache
from director.store.engine.failures import UNSTORABLE, first_line, reraise, unstorable
from director.store.engine.topics import Topic

CLOCK = select(func.clock_timestamp())
CACHE_BYTES = 32 * 2**20
"""What a process keeps of rows that never change."""


class Transaction:
    """An open transaction.

    Besides its connection it holds three things:

    - `topics`, since listeners may be told only of what has committed;
    - its instant, since all rows of a transaction carry the same one;
    - what it was told to `remember`, which saves a query each time it is asked for again. A value that outlasts the
      transaction reaches the process's cache only when the transaction has committed: before, the value could be that
      of a row which is rolled back and whose id is used again.
    """

    def __init__(self, connection: AsyncConnection, clock: Clock | None, cache: Cache) -> None:
        """Wrap a connection that has begun; without a clock the database is asked for the time."""
        self._connection = connection
        self._clock = clock
        self._cache = cache
        self._now: datetime | None = None
        self._remembered: dict[Hashable, Remembered] = {}
        self.topics: list[Topic] = []

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
        try:
            return await self._connection.execute(statement, parameters)
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

    def wake(self, *topics: Topic) -> None:
        """Tell those who wait, once this transaction has committed."""
        self.topics.extend(topics)

    def remember(self, key: Hashable, value: Any, *, lasting_bytes: int | None = None) -> None:
        """Keep a value until the transaction ends.

        With a size in bytes later transactions recall it too; for what never changes once it is committed.
        """
        self._remembered[key] = Remembered(value, lasting_bytes)

    def recall(self, key: Hashable) -> Any:
        """Return what this transaction or an earlier one remembered, or None."""
        own = self._remembered.get(key)
        return self._cache.get(key) if own is None else own.value

    def forget(self, key: Hashable) -> None:
        """Drop what this transaction remembered and has changed since."""
        self._remembered.pop(key, None)

    def publish(self) -> None:
        """Let later transactions recall what lasts; for when this one has committed."""
        for key, (value, lasting_bytes) in self._remembered.items():
            if lasting_bytes is not None:
                self._cache.put(key, value, lasting_bytes)


class Remembered(NamedTuple):
    """A value, and its size if it outlasts its transaction."""

    value: Any
    lasting_bytes: int | None


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
        self.on_commit: Callable[[Sequence[Topic]], None] = lambda _topics: None
        self._cache = Cache(CACHE_BYTES)
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
            tx = Transaction(connection, self._engine.clock, self._cache)
            yield tx
        tx.publish()

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
                tx = Transaction(connection, self._engine.clock, self._cache)
                yield tx
                self.failpoints.before(name)
            self.failpoints.after(name)
        tx.publish()
        self.on_commit(tx.topics)

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
    except PoolTimeoutError as error:
        raise Overloaded("too much is asked at once: every connection to the database is in use") from error
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
    ) as error:
        raise Unavailable(f"the database cannot be reached: {first_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise Unavailable(f"the database refused the connection: {first_line(error)}") from error
