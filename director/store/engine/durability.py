"""What `director db check` looks at.

Is the schema the one this code needs, and does a commit survive what it should?
"""

from dataclasses import dataclass

from sqlalchemy import text

from director.store.engine import schema
from director.store.engine.database import Transaction

OLDEST_POSTGRESQL = 140000


@dataclass(frozen=True, slots=True)
class Observation:
    """Something that was looked at."""

    ok: bool
    text: str


async def schema_finding(url: str) -> Observation:
    """Compare the database's schema with the code's."""
    revision, head = await schema.current(url), schema.head()
    if revision is None:
        return Observation(False, "there is no schema yet: run `director db upgrade`")
    if not schema.runs_on(revision):
        return Observation(False, f"the schema is {revision}, this director needs {head}: run `director db upgrade`")
    return Observation(True, f"the schema is {revision}")


async def engine_findings(tx: Transaction) -> list[Observation]:
    """Look at what the promise of a commit rests on."""
    return await postgresql_findings(tx) if tx.postgresql else await sqlite_findings(tx)


async def sqlite_findings(tx: Transaction) -> list[Observation]:
    """Check the file's structure, and that no row lacks its parent."""
    structure = (await tx.execute(text("PRAGMA quick_check"))).scalar_one()
    orphans = (await tx.execute(text("PRAGMA foreign_key_check"))).all()
    mode = (await tx.execute(text("PRAGMA journal_mode"))).scalar_one()
    return [
        Observation(structure == "ok", f"the file's structure: {structure}"),
        Observation(not orphans, f"rows without their parent row: {len(orphans)}"),
        Observation(mode == "wal", f"journal mode: {mode}"),
    ]


async def postgresql_version(tx: Transaction) -> int:
    """Return the server's version as one number, as 180001."""
    return int((await tx.execute(text("SHOW server_version_num"))).scalar_one())


async def postgresql_findings(tx: Transaction) -> list[Observation]:
    """Check the version, that commits are flushed, and whether they survive the loss of the database's machine."""
    found = {}
    for name in ("server_version_num", "server_version", "fsync", "full_page_writes", "synchronous_commit"):
        found[name] = (await tx.execute(text(f"SHOW {name}"))).scalar_one()
    standbys = (await tx.execute(text("SHOW synchronous_standby_names"))).scalar_one()
    if standbys:
        promise = f"commits wait for a synchronous standby ({standbys}): they survive the loss of this machine"
    else:
        promise = "no synchronous standby: commits survive a crash of this machine, not its loss"
    return [
        Observation(int(found["server_version_num"]) >= OLDEST_POSTGRESQL, f"PostgreSQL {found['server_version']}"),
        Observation(found["fsync"] == "on", f"fsync: {found['fsync']}"),
        Observation(found["full_page_writes"] == "on", f"full_page_writes: {found['full_page_writes']}"),
        Observation(found["synchronous_commit"] != "off", f"synchronous_commit: {found['synchronous_commit']}"),
        Observation(True, promise),
    ]
