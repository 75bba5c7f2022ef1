"""Dump a PostgreSQL database with a `pg_dump` of its server's version, wherever that is installed."""

import asyncio
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from director.errors import PreconditionFailed, Unavailable
from director.store.engine import durability
from director.store.engine.database import Database

PACKAGED = ("usr/lib/postgresql/*/bin/pg_dump", "usr/pgsql-*/bin/pg_dump", "opt/homebrew/opt/postgresql*/bin/pg_dump")
"""Where packages put the programs of each version, beside those of the server."""
VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


async def dump(db: Database, target: Path) -> None:
    """Have `pg_dump` write a PostgreSQL database into a file, as of one moment.

    Raises:
        PreconditionFailed: no `pg_dump` of the server's version or a newer one is installed.
        Unavailable: `pg_dump` failed; the error has its text.
    """
    async with db.read() as tx:
        version = await durability.postgresql_version(tx)
    program = await pg_dump(version // 10000)
    parts = urlsplit(db.url)
    # The password goes by way of the environment: a command line can be read by everyone on the machine.
    shown = db.url.replace(f":{parts.password}@", "@", 1) if parts.password else db.url
    password = {"PGPASSWORD": unquote(parts.password)} if parts.password else {}
    process = await asyncio.create_subprocess_exec(
        program,
        "--format=custom",
        f"--file={target}",
        f"--dbname={shown}",
        env=os.environ | password,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, complaints = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise Unavailable(f"pg_dump failed: {' '.join(complaints.decode(errors='replace').split())}")


async def pg_dump(major: int) -> Path:
    """Return a `pg_dump` that reads a server of a major version: one that is not older.

    Raises:
        PreconditionFailed: none is installed; the text says what to install.
    """
    for program in await asyncio.to_thread(installed):
        if await version_of(program) >= major:
            return program
    raise PreconditionFailed(
        f"no pg_dump of PostgreSQL {major} or newer is installed: install the package postgresql-client-{major}, "
        "or put the directory of the server's programs on the PATH"
    )


def installed() -> list[Path]:
    """Return every `pg_dump` of this machine: first the one on the PATH, then those beside servers."""
    on_path = shutil.which("pg_dump")
    packaged = [program for pattern in PACKAGED for program in sorted(Path("/").glob(pattern))]
    return [*([Path(on_path)] if on_path else []), *packaged]


async def version_of(program: Path) -> int:
    """Return a PostgreSQL program's major version; 0 if it does not say."""
    try:
        process = await asyncio.create_subprocess_exec(
            program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return 0
    answer, _ = await process.communicate()
    match = VERSION.search(answer.decode(errors="replace"))
    return int(match[1]) if match else 0
