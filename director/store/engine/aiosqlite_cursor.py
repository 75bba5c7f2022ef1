"""A cursor for aiosqlite that crosses to the connection's thread once per statement.

SQLAlchemy's own crosses four times: to make the cursor, to execute, to fetch and to close. On the embedded engine,
where a statement takes some microseconds, these crossings are what a statement costs.

It needs private attributes of aiosqlite and SQLAlchemy. `PRIVATE` lists them, a test looks for them, and
`pyproject.toml` bounds the versions of both.
"""

import asyncio
import collections
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_cursor
from sqlalchemy.util import await_only, immutabledict

from director.concurrency import uninterrupted

PRIVATE: tuple[tuple[type, tuple[str, ...]], ...] = (
    (aiosqlite.Connection, ("_connection", "_running", "_tx")),
    (AsyncAdapt_aiosqlite_connection, ("_connection", "_cursor_cls", "_handle_exception")),
    (
        AsyncAdapt_aiosqlite_cursor,
        ("_adapt_connection", "_async_soft_close", "_connection", "_rows", "_soft_closed_memoized"),
    ),
)
"""The attributes that this module reads, calls or overrides, and that their libraries do not promise to keep."""


class Outcome:
    """What a statement left behind, gathered in the connection's thread."""

    __slots__ = ("description", "lastrowid", "rowcount", "rows")

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        """Fetch everything and close the cursor."""
        self.description = cursor.description
        self.rows = cursor.fetchall() if cursor.description else []
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        cursor.close()


async def crossing(driver: Any, work: Callable[[], Outcome]) -> Outcome:
    """Have the connection's thread do something.

    The thread does not stop when the caller is cancelled, so the caller waits for it and is cancelled then.
    """
    if not driver._running or driver._connection is None:
        raise ValueError("Connection closed")  # SQLAlchemy takes this text of aiosqlite's for a lost connection
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    driver._tx.put_nowait((done, work))
    return await uninterrupted(done)


class OneCrossingCursor(AsyncAdapt_aiosqlite_cursor):
    """Runs a statement, fetches its rows and closes the driver's cursor in one go."""

    __slots__ = ("_outcome",)

    def __init__(self, adapt_connection: AsyncAdapt_aiosqlite_connection) -> None:
        """Prepare; the driver's cursor is made when there is something to execute."""
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._soft_closed_memoized = immutabledict()
        self._rows = collections.deque()
        self._outcome: Outcome | None = None

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        """Run a statement once."""
        self._run(lambda raw: raw.execute(operation, parameters or ()))

    def executemany(self, operation: Any, seq_of_parameters: Sequence[Any]) -> Any:
        """Run a statement for each set of parameters."""
        self._run(lambda raw: raw.executemany(operation, seq_of_parameters))

    def _run(self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> None:
        driver: Any = self._connection
        try:
            self._outcome = await_only(crossing(driver, lambda: Outcome(statement(driver._connection))))
        except Exception as error:
            self._adapt_connection._handle_exception(error)
        self._rows = collections.deque(self._outcome.rows if self._outcome else ())

    @property
    def description(self) -> Any:
        """The columns of the rows, if there are any."""
        return self._outcome.description if self._outcome else None

    @property
    def rowcount(self) -> int:
        """How many rows were written."""
        return self._outcome.rowcount if self._outcome else -1

    @property
    def lastrowid(self) -> int:
        """The key of the row inserted last."""
        return (self._outcome.lastrowid or 0) if self._outcome else 0

    async def _async_soft_close(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()


class OneCrossingConnection(AsyncAdapt_aiosqlite_connection):
    """A connection with such cursors."""

    __slots__ = ()

    _cursor_cls = OneCrossingCursor  # type: ignore[assignment]  # inferred too narrowly there
