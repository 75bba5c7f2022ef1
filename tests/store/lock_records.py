"""Which rows a transaction locks, in which order and how: read from its statements, and from PostgreSQL itself.

The statements tell the order, and whether a row that is held is waited for or passed by. PostgreSQL tells the strength,
also of the locks that no statement names: those of foreign keys, and of updates that change a key.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, event

from director.store.engine.database import Database, Failpoints
from tests.tables.locks import BY_KEY
from tests.tables.statements import seen_from_outside

CLAUSE = re.compile(r"FOR (NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)(?: OF (\w+))?( SKIP LOCKED)?")
CHANGE = re.compile(r"\b(UPDATE|DELETE FROM|INSERT INTO) (\w+)")
FROM = re.compile(r"\bFROM (\w+)")
HELD = "SELECT '{table}: ' || unnest(modes) FROM pgrowlocks('{table}')"
"""The locks that transactions hold on a table's rows at this moment."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Rows of a table that a statement locks."""

    table: str
    how: str
    """FOR …, UPDATE, DELETE FROM, or INSERT INTO where a row that is there already is changed."""
    skips: bool = False
    ordered: bool = True
    """Whether it is one row, or several in an order that is stated."""

    def __str__(self) -> str:
        return f"{self.table} (skip)" if self.skips else self.table


@dataclass
class Record:
    """A transaction."""

    name: str
    locks: list[Lock] = field(default_factory=list)
    held: frozenset[str] = frozenset()
    """What PostgreSQL says just before the commit: a table and a kind of lock."""

    @property
    def order(self) -> tuple[str, ...]:
        """The tables whose rows it locks, each where it comes first."""
        first: dict[str, Lock] = {}
        for lock in self.locks:
            first.setdefault(lock.table, lock)
        return tuple(str(lock) for lock in first.values())


CURRENT: ContextVar[Record | None] = ContextVar("current", default=None)


class Recorder(Failpoints):
    """Keeps a record of each transaction that writes, under its name."""

    def __init__(self, url: str, tables: Sequence[str]) -> None:
        """Watch a database."""
        self._url = url
        self._query = " UNION ".join(HELD.format(table=table) for table in tables)
        self.records: defaultdict[str, list[Record]] = defaultdict(list)

    def enter(self, name: str) -> None:
        """Begin a record."""
        CURRENT.set(Record(name))

    def before(self, name: str) -> None:
        """Keep the record."""
        record = CURRENT.get()
        assert record is not None
        assert record.name == name, "one transaction at a time"
        record.held = frozenset(seen_from_outside(self._url, self._query))
        self.records[name].append(record)


@contextmanager
def recorded(*databases: Database, tables: Sequence[str]) -> Iterator[Mapping[str, list[Record]]]:
    """Record what is locked meanwhile."""
    recorder = Recorder(databases[0].url, tables)
    for db in databases:
        db.failpoints = recorder

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        record = CURRENT.get()
        if record is not None:
            record.locks.extend(locks(statement))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield recorder.records
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        for db in databases:
            db.failpoints = Failpoints()


def locks(statement: str) -> Iterator[Lock]:
    """Yield what a statement locks; its subqueries come first, as they are run."""
    written = " ".join(statement.split())
    for clause in CLAUSE.finditer(written):
        query = own_query(written[: clause.start()])
        yield Lock(
            clause[2] or FROM.findall(query)[-1],
            f"FOR {clause[1]}",
            skips=clause[3] is not None,
            ordered="ORDER BY" in query or "WHERE" not in query or BY_KEY.search(query) is not None,
        )
    change = CHANGE.search(CLAUSE.sub("", written))
    if change is not None and (change[1] != "INSERT INTO" or "DO UPDATE" in written):
        yield Lock(change[2], change[1])


def own_query(written: str) -> str:
    """Return the innermost query that a text ends in, without its own subqueries."""
    kept: list[str] = []
    depth = 0
    for character in reversed(written):
        if character == "(":
            if depth == 0:
                break
            depth -= 1
        elif character == ")":
            depth += 1
        elif depth == 0:
            kept.append(character)
    return "".join(reversed(kept))
