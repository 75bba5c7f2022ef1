"""What is kept of each release: its wheel, and a small federation with something of everything in it, on both engines.

`python -m tests.upgrade.kept` keeps the release that this checkout is.
"""

import asyncio
import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg

from director.store.engine import schema
from director.version import __version__
from tests.postgres import PostgresServer
from tests.services.populated import populate

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
RELEASES = sorted(path.name for path in HERE.iterdir() if path.is_dir() and not path.name.startswith("_"))
SQLITE, POSTGRESQL = "director.db.gz", "director.sql.gz"


def restore_sqlite(release: str, path: Path) -> None:
    """Write the database that a release left."""
    with gzip.open(HERE / release / SQLITE) as kept, path.open("wb") as file:
        shutil.copyfileobj(kept, file)


async def restore_postgresql(release: str, url: str) -> None:
    """Fill an empty database with what a release left."""
    script = gzip.decompress((HERE / release / POSTGRESQL).read_bytes()).decode()
    statements = [line for line in script.splitlines() if not line.startswith("\\")]  # those are for psql
    connection = await asyncpg.connect(url)
    await connection.execute("\n".join(statements))
    await connection.close()


def keep(folder: Path) -> None:
    """Build the wheel, and populate a database of each engine."""
    folder.mkdir()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "director.db")
        schema.upgrade(f"sqlite:///{path}")
        asyncio.run(populate(f"sqlite:///{path}"))
        (folder / SQLITE).write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    server = PostgresServer()
    try:
        server.start()
        url = asyncio.run(server.create_database("kept"))
        schema.upgrade(url)
        asyncio.run(populate(url))
        dump = [str(server.programs / "pg_dump"), "--inserts", "--no-owner", "--dbname", url]
        (folder / POSTGRESQL).write_bytes(gzip.compress(subprocess.check_output(dump), mtime=0))
    finally:
        server.remove()


if __name__ == "__main__":
    keep(HERE / __version__)
