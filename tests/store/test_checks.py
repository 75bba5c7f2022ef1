"""`director db check` finds what a promise would break on."""

import pytest

from director.store.engine import durability, schema
from director.store.engine.database import Database
from tests.store.words import only_postgresql, only_sqlite
from tests.tables import changes
from tests.tables.statements import change


async def findings(db: Database) -> dict[str, bool]:
    async with db.read() as tx:
        found = await durability.engine_findings(tx)
    return {each.text: each.ok for each in found}


@only_sqlite
async def test_whole_file_is_found_whole(db: Database) -> None:
    assert await findings(db) == {
        "the file's structure: ok": True,
        "rows without their parent row: 0": True,
        "journal mode: wal": True,
    }


@only_sqlite
async def test_row_without_its_parent_is_found(db: Database) -> None:
    async with db.write("test") as tx:
        connection = tx._connection
        await connection.exec_driver_sql("ROLLBACK")
        await connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        await connection.exec_driver_sql("BEGIN")
        await changes.add_orphan(tx)

    assert (await findings(db))["rows without their parent row: 1"] is False


@only_postgresql
async def test_server_that_does_not_flush_is_found(db: Database) -> None:
    found = await findings(db)

    assert found["fsync: off"] is False
    assert found["full_page_writes: off"] is False
    assert found["synchronous_commit: on"] is True
    assert any(text.startswith("no synchronous standby") and ok for text, ok in found.items())
    assert any(text.startswith("PostgreSQL ") and ok for text, ok in found.items())


async def test_schema_is_found_as_it_is(db: Database) -> None:
    assert await durability.schema_finding(db.url) == durability.Observation(True, f"the schema is {schema.head()}")


async def test_missing_schema_is_found(database_url: str) -> None:
    found = await durability.schema_finding(database_url)

    assert not found.ok
    assert "no schema yet" in found.text


@pytest.mark.parametrize("revision", ["0000", "9999", "3f2a9c"])
async def test_schema_of_another_version_is_found(db: Database, revision: str) -> None:
    await change(db, "UPDATE alembic_version SET version_num = :revision", revision=revision)

    found = await durability.schema_finding(db.url)

    assert not found.ok
    assert revision in found.text
