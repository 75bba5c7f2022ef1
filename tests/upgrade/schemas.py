"""What a database holds at any revision of its schema: tables and columns are asked of the database itself."""

from typing import Any

from alembic import command
from sqlalchemy import Connection, MetaData, select, text

from director.store.engine import schema

VERSIONS = "alembic_version"
Row = dict[str, Any]
Rows = dict[str, list[Row]]


async def whole(url: str) -> Rows:
    """Return every row of every table."""
    async with schema.connection_for_migrations(url) as connection:
        return await connection.run_sync(read)


def read(connection: Connection) -> Rows:
    metadata = MetaData()
    metadata.reflect(connection)
    found: Rows = {}
    for table in metadata.sorted_tables:
        if table.name != VERSIONS:
            rows = connection.execute(select(table).order_by(*table.primary_key))
            found[table.name] = [dict(row._mapping) for row in rows]
    return found


async def upgrade(url: str, revision: str) -> None:
    await schema.migrate(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    await schema.migrate(url, lambda config: command.downgrade(config, revision))


async def crowd(url: str, number: int) -> None:
    """Add so many experiments like the first one (schema 0001)."""
    columns = (await whole(url))["experiments"][0].keys() - {"id"}
    own = {"name": "'n' || i", "submission_id": "'n' || i", "archive_blob_id": "NULL"}
    values = ", ".join(own.get(column, f"e.{column}") for column in sorted(columns))
    statement = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) "
        f"INSERT INTO experiments ({', '.join(sorted(columns))}) "
        f"SELECT {values} FROM n, experiments e WHERE e.id = (SELECT min(id) FROM experiments)"
    )
    async with schema.connection_for_migrations(url) as connection, connection.begin():
        await connection.execute(text(statement))
