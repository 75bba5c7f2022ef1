"""A database URL opens a database, or is refused in words; an SQLite file takes one director."""

from pathlib import Path

import pytest

from director.errors import InvalidArgument, PreconditionFailed, Unavailable
from director.store.engine import schema
from director.store.engine.opening import open_database, sqlite_path
from director.store.engine.sqlite import lock_file
from tests.tables.statements import one


def test_url_names_a_file_or_a_server() -> None:
    assert sqlite_path("sqlite:///director.db") == Path("director.db")
    assert sqlite_path("sqlite:////var/lib/director.db") == Path("/var/lib/director.db")
    assert sqlite_path("postgresql://user@host/db") is None
    assert sqlite_path("postgres://one:1,two:2/db?target_session_attrs=read-write") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "director.db",
        "sqlite://director.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "mysql://h",
    ],
)
def test_other_urls_are_refused_with_what_is_expected(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"expected sqlite:///file\.db or postgresql://"):
        open_database(url)


async def test_url_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        await schema.current("postgresql://host:port/db")


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)

    with pytest.raises(InvalidArgument, match="not an SQLite database"):
        await schema.current(f"sqlite:///{path}")

    assert path.read_text() == "not a database\n" * 100


async def test_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none" / "director.db"

    with pytest.raises(InvalidArgument, match="there is no folder"):
        open_database(f"sqlite:///{path}")
    with pytest.raises(InvalidArgument, match="there is no folder"):
        await schema.current(f"sqlite:///{path}")
    with pytest.raises(InvalidArgument, match="there is no folder"):
        lock_file(path)


async def test_server_that_is_not_there_is_unavailable() -> None:
    db = open_database("postgresql://nobody@127.0.0.1:1/db")

    with pytest.raises(Unavailable):
        await one(db, "SELECT 1")

    await db.close()


async def test_file_takes_one_director_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "director.db"
    first = lock_file(path)
    with pytest.raises(PreconditionFailed, match="another director is running"):
        lock_file(path)

    first.close()

    lock_file(path).close()
