"""The schema's version: which one a database has, whether this code runs on it, and bringing it up to date."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from director.errors import SchemaOutdated, Unavailable
from director.store.engine.database import translating
from director.store.engine.opening import sqlite_path
from director.store.engine.postgresql import connect
from director.store.engine.sqlite import check_folder, configure, pragmas

ADVISORY_LOCK = 0x6469726563746F72
"""The bytes of "director": two upgrades at once wait for each other."""
LOCK_SECONDS = 60


def script_location() -> Path:
    """Return the folder of the migrations: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's settings; the connection is handed to `migrations/env.py`."""
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Return the revision that this code is written for."""
    found = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert found is not None, "the package ships its migrations"
    return found


@asynccontextmanager
async def connection_for_migrations(url: str) -> AsyncIterator[AsyncConnection]:
    """Open a connection of its own, set up for changes of the schema."""
    path = sqlite_path(url)
    if path is None:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: connect(url, lock_timeout=f"{LOCK_SECONDS}s", statement_timeout="0"),
            poolclass=NullPool,
        )
    else:
        check_folder(path)
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=NullPool, connect_args={"timeout": 60})

        @event.listens_for(engine.sync_engine, "connect")
        def set_up(connection: DBAPIConnection, _record: object) -> None:
            # With foreign keys on, rebuilding a table deletes the rows that refer to it. Set before BEGIN or never.
            configure(connection, [*pragmas(read_only=False), "foreign_keys = OFF"])

        @event.listens_for(engine.sync_engine, "begin")
        def say_begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        async with translating(), engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def migrate(url: str, step: Callable[[Config], None]) -> None:
    """Run an Alembic command in one transaction: all of it, or nothing.

    Raises:
        Unavailable: the database is away, or another upgrade holds it for too long.
    """

    def run(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
        step(alembic_config(connection))
        if connection.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise Unavailable(f"the migration would leave rows without their parents: {tuple(broken)}")

    async with connection_for_migrations(url) as connection, connection.begin():
        await connection.run_sync(run)


async def upgrade_schema(url: str) -> None:
    """Bring the schema up to this code's version; nothing happens where it is there already."""
    await migrate(url, lambda config: command.upgrade(config, "head"))


def upgrade(url: str) -> None:
    """Bring the schema up to this code's version, from outside an event loop."""
    asyncio.run(upgrade_schema(url))


async def upgraded(url: str) -> tuple[str | None, str]:
    """Bring the schema up to this code's version; return the one that it was, and the one that it is."""
    before = await current(url)
    await upgrade_schema(url)
    return before, head()


async def current(url: str) -> str | None:
    """Return the database's revision, or None where there is no schema yet."""
    async with connection_for_migrations(url) as connection:
        return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


def runs_on(revision: str | None) -> bool:
    """Whether this code runs on a revision: on its own, and on the next one, which only adds to it."""
    return revision is not None and revision.isdigit() and int(revision) - int(head()) in (0, 1)


async def require(url: str) -> None:
    """Refuse a schema that this code does not run on.

    Raises:
        SchemaOutdated: the text says what to type.
    """
    revision = await current(url)
    if runs_on(revision):
        return
    if revision is None:
        raise SchemaOutdated(f"the database has no schema yet: {how_to_upgrade(url)}")
    if not revision.isdigit():
        raise SchemaOutdated(f"the database has schema {revision}, which is none of the director's: name another one")
    if int(revision) > int(head()):
        raise SchemaOutdated(
            f"the database's schema is {revision}, this director knows {head()}: install a newer director"
        )
    raise SchemaOutdated(f"the database has schema {revision}, this director needs {head()}: {how_to_upgrade(url)}")


def how_to_upgrade(url: str) -> str:
    """Say what to type, without the password."""
    password = urlsplit(url).password
    shown = url.replace(f":{password}@", ":***@") if password else url
    return f"run `director db upgrade --database {shown}`"
