"""The migrations build what `tables.py` says, and move a database as a whole or not at all."""

import ast
import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from director.errors import SchemaOutdated, Unavailable
from director.store.engine import schema
from director.store.tables import metadata
from director.store.views import VIEWS
from tests.migrations.dump import dump

REVISIONS = sorted((schema.script_location() / "versions").glob("*.py"))
AddRevision = Callable[[str], None]


async def downgrade(url: str, revision: str) -> None:
    await schema.migrate(url, lambda config: command.downgrade(config, revision))


async def upgrade(url: str, revision: str) -> None:
    await schema.migrate(url, lambda config: command.upgrade(config, revision))


async def execute(url: str, *statements: str) -> None:
    async with schema.connection_for_migrations(url) as connection, connection.begin():
        for statement in statements:
            await connection.execute(text(statement))


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(schema.alembic_config())


@pytest.fixture
def next_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AddRevision:
    """A copy of the migrations, to which a revision can be added."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.script_location(), folder)
    monkeypatch.setattr(schema, "script_location", lambda: folder)
    before = schema.head()

    def add(body: str) -> None:
        header = f'"""Next."""\nfrom alembic import op\nrevision = "9000"\ndown_revision = "{before}"\n'
        (folder / "versions" / "9000_next.py").write_text(f"{header}def upgrade():\n    {body}\n")

    return add


async def test_migrated_schema_is_the_one_of_the_tables(database_url: str) -> None:
    await schema.upgrade_schema(database_url)
    migrated = await dump(database_url)
    await downgrade(database_url, "base")

    async with schema.connection_for_migrations(database_url) as connection, connection.begin():
        await connection.run_sync(metadata.create_all)

    created = await dump(database_url)
    assert "\n".join(migrated) == "\n".join(created)
    assert len(created) > 100
    assert all(any(f"view {name}: " in line for line in created) for name in VIEWS)


async def test_each_revision_goes_up_and_down_and_up_again(database_url: str) -> None:
    for script in reversed([*scripts().walk_revisions()]):
        below = await dump(database_url)
        await upgrade(database_url, script.revision)
        above = await dump(database_url)

        await downgrade(database_url, script.down_revision or "base")  # type: ignore[arg-type]
        assert await dump(database_url) == below
        await upgrade(database_url, script.revision)

        assert await dump(database_url) == above != below


def test_there_is_one_head_and_its_number_counts_the_revisions() -> None:
    heads = scripts().get_heads()

    assert heads == [schema.head()] == [f"{len(REVISIONS):04}"]


async def test_autogenerate_finds_nothing_to_do(migrated_url: str) -> None:
    def compare(connection: Connection) -> list[object]:
        options = {"compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with schema.connection_for_migrations(migrated_url) as connection:
        found = await connection.run_sync(compare)

    assert found == []


@pytest.mark.parametrize("path", REVISIONS, ids=lambda path: path.stem)
def test_revision_imports_nothing_of_the_director(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]

    names = [node.module or "" for node in found if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in names} <= {"sqlalchemy", "alembic", *sys.stdlib_module_names}


async def test_failing_migration_of_an_empty_database_leaves_nothing(
    database_url: str, next_revision: AddRevision
) -> None:
    next_revision("op.execute('CREATE TABLE half (id INTEGER)'); raise RuntimeError('on purpose')")

    with pytest.raises(RuntimeError, match="on purpose"):
        await schema.upgrade_schema(database_url)

    assert await dump(database_url) == []
    assert await schema.current(database_url) is None


async def test_failing_migration_of_a_database_in_use_leaves_it_as_it_was(
    migrated_url: str, next_revision: AddRevision
) -> None:
    await execute(migrated_url, "INSERT INTO periodic_jobs VALUES ('kept')")
    before, revision = await dump(migrated_url), await schema.current(migrated_url)
    next_revision(
        "op.execute('DELETE FROM periodic_jobs'); op.execute('DROP TABLE periodic_jobs'); op.execute('nonsense')"
    )

    with pytest.raises(Exception, match="nonsense"):
        await schema.upgrade_schema(migrated_url)

    assert (await dump(migrated_url), await schema.current(migrated_url)) == (before, revision)
    async with schema.connection_for_migrations(migrated_url) as connection:
        assert (await connection.execute(text("SELECT name FROM periodic_jobs"))).scalars().all() == ["kept"]


@pytest.mark.parametrize("engine_kind", ["sqlite"], indirect=True)
async def test_migration_that_leaves_rows_without_their_parents_is_refused(
    migrated_url: str, next_revision: AddRevision
) -> None:
    await execute(
        migrated_url,
        "INSERT INTO shards VALUES ('a', '', 1, '[]', '[]', '2030-01-01', '2030-01-01', NULL, NULL, NULL)",
        "INSERT INTO heartbeats VALUES ('a', '2030-01-01', 0, 60, 0, '[]', NULL, NULL)",
    )
    next_revision("op.execute('DELETE FROM shards')")

    with pytest.raises(Unavailable, match="without their parents"):
        await schema.upgrade_schema(migrated_url)

    async with schema.connection_for_migrations(migrated_url) as connection:
        assert (await connection.execute(text("SELECT envoy FROM shards"))).scalars().all() == ["a"]


async def test_two_processes_may_upgrade_at_once(database_url: str) -> None:
    code = f"from director.store.engine import schema; schema.upgrade({database_url!r})"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(2)]

    statuses = [await process.wait() for process in processes]

    assert statuses == [0, 0]
    assert await schema.current(database_url) == schema.head()


async def test_upgrading_again_changes_nothing(migrated_url: str) -> None:
    before = await dump(migrated_url)

    assert await schema.upgraded(migrated_url) == (schema.head(), schema.head())

    assert await dump(migrated_url) == before


async def test_database_without_a_schema_is_refused_with_what_to_type(database_url: str) -> None:
    with pytest.raises(SchemaOutdated) as refused:
        await schema.require(database_url)

    assert f"no schema yet: run `director db upgrade --database {database_url}`" in str(refused.value)


@pytest.mark.parametrize(
    ("ahead", "message"), [(-1, r"this director needs .*: run `director db upgrade"), (2, "install a newer director")]
)
async def test_schema_out_of_range_is_refused_with_what_to_do(migrated_url: str, ahead: int, message: str) -> None:
    await execute(migrated_url, f"UPDATE alembic_version SET version_num = '{int(schema.head()) + ahead:04}'")

    with pytest.raises(SchemaOutdated, match=message):
        await schema.require(migrated_url)


@pytest.mark.parametrize("ahead", [0, 1])
async def test_director_runs_on_its_own_schema_and_on_the_next(migrated_url: str, ahead: int) -> None:
    await execute(migrated_url, f"UPDATE alembic_version SET version_num = '{int(schema.head()) + ahead:04}'")

    await schema.require(migrated_url)


async def test_database_of_another_program_is_refused(migrated_url: str) -> None:
    await execute(migrated_url, "UPDATE alembic_version SET version_num = '3f2a9c'")

    with pytest.raises(SchemaOutdated, match="3f2a9c"):
        await schema.require(migrated_url)


def test_refusal_does_not_show_a_password() -> None:
    told = schema.how_to_upgrade("postgresql://user:secret@host/federation")

    assert told == "run `director db upgrade --database postgresql://user:***@host/federation`"
