"""What drivers raise, as our own errors: what passes by itself, what an operator repairs, what is a defect."""

from typing import NoReturn

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from director.errors import DiskFull, InvalidArgument, Unavailable

PASSING_STATES = ("08", "28", "3D000", "40001", "40P01", "53", "55P03", "57", "25P03", "25006")
"""SQLSTATEs of PostgreSQL, or classes of them, that pass by themselves or when an operator acts.

Connection, refused login, no such database, serialisation, deadlock, resources, lock, shutdown.
"""

PASSING_NAMES = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL", "SQLITE_NOMEM")
"""Errors of SQLite that pass by themselves; the others say that a statement is wrong."""

UNSTORABLE_STATES = ("22003", "22021", "22P05")
"""SQLSTATEs of PostgreSQL for a number or a text that no column can hold; such a value comes from a caller."""

UNSTORABLE = OverflowError, UnicodeEncodeError
"""What SQLite's driver raises for such a value, and what PostgreSQL's names as the cause of its own error."""


def translated(error: DBAPIError) -> Exception:
    """Return ours for a driver's error, or the error itself where it is a defect."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    name = str(getattr(error.orig, "sqlite_errorname", None) or "")
    text = first_line(error.orig or error)
    if state == "53100" or name == "SQLITE_FULL":
        return DiskFull(f"the database's disk is full: {text}")
    if name == "SQLITE_NOTADB":
        return InvalidArgument("the file is not an SQLite database")
    if state in UNSTORABLE_STATES or is_caused_by(error, UNSTORABLE):
        return unstorable(error.orig or error)
    passing = state.startswith(PASSING_STATES) or name.startswith(PASSING_NAMES)
    nameless = not state and not name and isinstance(error, InterfaceError | OperationalError)
    if error.connection_invalidated or passing or nameless:
        return Unavailable(f"the database is away for the moment: {text}")
    return error


def is_caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or one that led to it, is of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


def unstorable(error: BaseException) -> InvalidArgument:
    """Return the error for a value that no column can hold: a NUL character, half a character, a huge number."""
    return InvalidArgument(f"a value of the request cannot be stored: {first_line(error)}")


def reraise(error: DBAPIError) -> NoReturn:
    """Raise ours for a driver's error, or the error itself where it is a defect."""
    ours = translated(error)
    if ours is error:
        raise error
    raise ours from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
