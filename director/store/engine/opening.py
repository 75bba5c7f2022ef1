"""From a database URL to a database."""

from pathlib import Path
from urllib.parse import urlsplit

from director.effects import Clock, SystemClock
from director.errors import InvalidArgument
from director.store.engine.database import Database
from director.store.engine.postgresql import PostgresEngine
from director.store.engine.sqlite import SqliteEngine

EXPECTED = "expected sqlite:///file.db or postgresql://user@host/database"


def sqlite_path(url: str) -> Path | None:
    """Return the file that a URL names, or None if it names a PostgreSQL database.

    Raises:
        InvalidArgument: it names neither.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):
        return None
    if scheme != "sqlite" or not url.startswith("sqlite:///"):
        raise InvalidArgument(f"{url!r} is no database URL; {EXPECTED}")
    path = url.removeprefix("sqlite:///")
    if not path or path == ":memory:" or "?" in path:
        raise InvalidArgument(f"{url!r} names no file; {EXPECTED}")
    return Path(path)


def open_database(url: str, *, clock: Clock | None = None) -> Database:
    """Open a database; nothing is connected before the first transaction.

    A clock given is used for every instant; otherwise PostgreSQL is asked for the time, and on SQLite the machine.

    Raises:
        InvalidArgument: the URL is of no engine we know.
    """
    path = sqlite_path(url)
    if path is None:
        return Database(PostgresEngine(url, clock=clock), url=url)
    return Database(SqliteEngine(path, clock=clock or SystemClock()), url=url)
