"""A schema as lines of text: all that tables, columns, constraints, indexes and views are made of, order left aside."""

import re
from collections.abc import Iterator

from sqlalchemy import Connection

from director.store.engine.schema import connection_for_migrations

VERSIONS = "alembic_version"

POSTGRESQL = (
    """
    SELECT format('table %s: %s', relname, array_to_string(reloptions, ', '))
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    """,
    """
    SELECT format('column %s.%s: %s%s identity=%s default=%s storage=%s', relname, attname,
                  format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN ' NOT NULL' END, attidentity,
                  pg_get_expr(adbin, adrelid), attstorage)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
    """,
    """
    SELECT format('constraint %s.%s: %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    """,
    """
    SELECT format('index %s', pg_get_indexdef(indexrelid)) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = 'public'::regnamespace
    """,
    """
    SELECT format('view %s: %s', relname, pg_get_viewdef(oid))
    FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace
    """,
)


async def dump(url: str) -> list[str]:
    """Return a database's schema, but for Alembic's own table, as sorted lines."""
    async with connection_for_migrations(url) as connection:
        lines = await connection.run_sync(lambda sync: [*lines_of(sync)])
    return sorted(line for line in lines if VERSIONS not in line)


def lines_of(connection: Connection) -> Iterator[str]:
    """Describe everything in a schema."""
    if connection.dialect.name == "postgresql":
        for query in POSTGRESQL:
            yield from connection.exec_driver_sql(query).scalars()
        return
    master = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    for kind, name, sql in connection.exec_driver_sql(master):
        if kind == "table":
            yield f"table {name}"
            yield from (f"table {name}: {part}" for part in parts(sql))
        else:
            yield f"{kind} {name}: {plain(sql)}"


def parts(create_table: str) -> Iterator[str]:
    """Cut a CREATE TABLE at the commas between its columns and constraints."""
    body = create_table[create_table.index("(") + 1 : create_table.rindex(")")]
    depth, begun = 0, 0
    for place, character in enumerate(body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield plain(body[begun:place])
            begun = place + 1
    yield plain(body[begun:])


def plain(sql: str) -> str:
    """Put a piece of SQL on one line."""
    return re.sub(r"\s+", " ", sql).strip()
