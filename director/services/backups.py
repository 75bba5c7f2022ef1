"""Backups, taken while directors work, and the new epoch that a restored database begins.

What was committed after a backup is not in it: cursors, fences and leases of that time mean nothing in the copy. So it
begins a new epoch, and all previous ownership is revoked.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from director.domain.history import EventKind, Occurrence
from director.domain.limits import MAX_LISTED
from director.effects import Clock, Entropy, SystemClock, SystemEntropy
from director.errors import AlreadyExists, NotFound, PreconditionFailed
from director.services import dumps, maintenance
from director.store import events, federations, leases
from director.store.engine.database import Database
from director.store.engine.file_copies import copy_file
from director.store.engine.opening import open_database, sqlite_path
from director.store.engine.sqlite import lock_file


@dataclass(frozen=True, slots=True)
class Epoch:
    """A new epoch, and what it ended."""

    token: str
    directors: int
    experiments: int


async def new_epoch(url: str, *, entropy: Entropy | None = None) -> Epoch:
    """Begin a new epoch on a restored database: streams restart, fences rise, all ownership is revoked.

    Raises:
        PreconditionFailed: a director runs on the SQLite file, or no director ever ran on the database.
    """
    path = sqlite_path(url)
    with contextlib.ExitStack() as held:
        async with maintenance.opened(url) as db:
            if path is not None:
                held.enter_context(lock_file(path))
            begun = await begin_epoch(db, entropy or SystemEntropy())
    if begun is None:
        raise PreconditionFailed("no director has run on this database yet, so there is no epoch to replace")
    return begun


async def begin_epoch(db: Database, entropy: Entropy) -> Epoch | None:
    """Begin an epoch; None if no director has run on the database yet."""
    async with db.write("new epoch") as tx:
        token = entropy.token()
        if not await federations.set_epoch(tx, token):
            return None
        dead, freed = await leases.start_over(tx)
        counted = {"directors_count": len(dead), "experiments_count": len(freed)}
        details = {"epoch": token, "directors": dead[:MAX_LISTED], "experiments": freed[:MAX_LISTED], **counted}
        await events.append_to_federation(tx, Occurrence(EventKind.EPOCH_BEGAN, details=details))
        return Epoch(token, len(dead), len(freed))


async def backup(url: str, output: Path, *, clock: Clock | None = None, entropy: Entropy | None = None) -> Path:
    """Back a database up into a file, or into a new file of a directory; return the file, which is flushed.

    An SQLite copy has begun a new epoch, so that a director may be started on it. A PostgreSQL dump is restored by
    `pg_restore`, and begins its epoch by `director db new-epoch`.

    Raises:
        NotFound: there is no such database, or no such directory.
        AlreadyExists: the file does.
        PreconditionFailed: there is no `pg_dump` of the server's version.
    """
    path = sqlite_path(url)
    now = (clock or SystemClock()).now()
    target = await asyncio.to_thread(
        new_file, output, f"director-{now:%Y%m%dT%H%M%SZ}.{'dump' if path is None else 'db'}"
    )
    async with maintenance.opened(url) as db:
        with unfinished(target) as copy:
            if path is None:
                await dumps.dump(db, copy)
            else:
                await asyncio.to_thread(copy_file, path, copy)
                await renew(copy, entropy or SystemEntropy())
            await asyncio.to_thread(keep, copy, target)
    return target


def new_file(output: Path, name: str) -> Path:
    """Return the file to write: the one that is meant, or one of this name in the directory that is meant.

    Raises:
        NotFound: its directory is not there.
        AlreadyExists: it is there.
    """
    target = output / name if output.is_dir() else output
    if not target.parent.is_dir():
        raise NotFound(f"there is no directory {target.parent}")
    if target.exists():
        raise AlreadyExists(f"{target} exists already; a backup never replaces a file")
    return target


async def renew(copy: Path, entropy: Entropy) -> None:
    """Begin the epoch of a copied file."""
    db = open_database(f"sqlite:///{copy}")
    try:
        await begin_epoch(db, entropy)
    finally:
        await db.close()


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Yield a file beside the target to write to; remove what is left of it at the end."""
    copy = target.with_name(f"{target.name}.part")
    leftovers = [copy, *(copy.with_name(copy.name + suffix) for suffix in ("-wal", "-shm", "-journal"))]
    try:
        for file in leftovers:
            file.unlink(missing_ok=True)
        yield copy
    finally:
        for file in leftovers:
            file.unlink(missing_ok=True)


def keep(copy: Path, target: Path) -> None:
    """Flush a file and give it its name."""
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    copy.rename(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
