"""Tests ask for rows by name: SQL about our tables stands in tests/tables, and where SQL itself is the subject."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from director.store.tables import metadata

TESTS = Path(__file__).parents[1]
EXEMPT = (
    "tables",
    "migrations",
    "upgrade",
    "docs/test_sql_reference.py",
    "store/lock_records.py",
    "store/test_lock_order.py",
    "store/test_reports.py",
    "unit/test_tables_are_named_once.py",
)
"""Where SQL about our tables may stand: in its one place, and in tests of schemas, of views and of lock order."""
TABLES = "|".join(sorted(metadata.tables))
STATEMENT = re.compile(
    rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|TRUNCATE|VACUUM|ANALYZE|ON) +(?:ONLY +)?(?:{TABLES})\b"
    rf"|\b(?:{TABLES}) +(?:SET|WHERE|VALUES|JOIN|FOR|RENAME)\b"
    r"|\b(?:FROM|JOIN|INTO|UPDATE) +\{filled\}"
)
COLUMN = re.compile(r"\.c\.\w+|\.c\[")
ALLOWED = {"metadata", "FEDERATION_STREAM"}
"""What any test may import beside the tables."""


def statements(source: str) -> Iterator[str]:
    """Yield what a source says to a database about our tables."""
    for text in texts(ast.parse(source)):
        yield from (found[0] for found in STATEMENT.finditer(" ".join(text.split())))
    yield from (found[0] for found in COLUMN.finditer(source))


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield every text of a source as one piece, however many lines it takes; what is filled in is {filled}."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{filled}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def imports(source: str) -> Iterator[str]:
    """Yield the tables that a source imports, and whatever else it has from beside them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "director.store.tables":
            yield from (name.name for name in node.names if name.name not in ALLOWED)
        elif isinstance(node, ast.ImportFrom) and node.module == "director.store":
            yield from (name.name for name in node.names if name.name == "tables")
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name == "director.store.tables")


def test_statements_about_our_tables_stand_in_one_place() -> None:
    named = {}
    for path in TESTS.rglob("*.py"):
        place = path.relative_to(TESTS)
        if not any(place.is_relative_to(exempt) for exempt in EXEMPT):
            source = path.read_text()
            named[str(place)] = [*statements(source), *imports(source)]

    assert len(named) > 100
    assert {place: found for place, found in named.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        '"SELECT state FROM experiments WHERE id = 1"',
        '"SELECT 1 FROM blobs b " "JOIN contributions c ON c.blob_id = b.id"',
        '"UPDATE directors SET reaped_at = NULL"',
        '"INSERT INTO " "shards (envoy) VALUES (1)"',
        '"DELETE FROM\\n  metrics"',
        'f"SELECT count(*) FROM {table}"',
        '"ALTER TABLE rounds RENAME TO lost"',
        "select(found.c.purpose)",
        'found.c["purpose"]',
        "from director.store.tables import metadata, blobs",
        "from director.store import experiments, tables",
        "import director.store.tables",
    ],
)
def test_statement_about_our_tables_is_seen(source: str) -> None:
    assert [*statements(source), *imports(source)]


@pytest.mark.parametrize(
    "source",
    [
        '"SELECT pid FROM pg_stat_activity"',
        '"SELECT envoy FROM report_rounds"',
        '"PRAGMA page_count"',
        '"the rounds of experiments"',
        "from director.store.tables import FEDERATION_STREAM, metadata",
        "from director.store import experiments",
    ],
)
def test_anything_else_is_not(source: str) -> None:
    assert [*statements(source), *imports(source)] == []
