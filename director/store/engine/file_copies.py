"""Copies of a whole SQLite database, taken while others write to it. PostgreSQL brings its own, `pg_dump`."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from director.errors import Unavailable

PAGES = 1024


def copy_file(source: Path, target: Path) -> None:
    """Copy a database as it is at this moment into a new file; writers go on meanwhile.

    The copy is made in steps, over one snapshot held from before the first: without that, each commit between two
    steps would make it start again, and under load it would never end.

    Raises:
        Unavailable: the file cannot be read, or the copy not be written.
    """
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)) as database,
            closing(sqlite3.connect(target)) as copy,
        ):
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.backup(copy, pages=PAGES)
    except sqlite3.Error as error:
        raise Unavailable(f"the database could not be copied: {error}") from error
