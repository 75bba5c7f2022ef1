"""What the rows of events say, without the code that reads them for users."""

import json
from typing import Any, NamedTuple

from director.store.engine.database import Database
from director.store.tables import FEDERATION_STREAM
from tests.tables.statements import rows


class Happened(NamedTuple):
    """An event, as it is stored."""

    stream: int
    seq: int
    at: Any
    actor: str
    kind: str
    reason: str | None
    details: dict[str, Any]


async def everything(db: Database) -> list[Happened]:
    """Return every event of every stream, in order."""
    query = "SELECT stream, seq, at, actor, kind, reason, details FROM events ORDER BY stream, seq"
    found = [Happened(*row) for row in await rows(db, query)]
    # SQLite gives documents as they are stored.
    return [
        event._replace(details=json.loads(event.details)) if isinstance(event.details, str) else event
        for event in found
    ]


async def of(db: Database, stream: int) -> list[Happened]:
    return [event for event in await everything(db) if event.stream == stream]


async def of_experiments(db: Database) -> list[Happened]:
    return [event for event in await everything(db) if event.stream != FEDERATION_STREAM]


async def of_kind(db: Database, *kinds: str) -> list[Happened]:
    return [event for event in await everything(db) if event.kind in kinds]


async def actors(db: Database, kind: str) -> list[str]:
    """Return whose doing the events of a kind were."""
    return [event.actor for event in await of_kind(db, kind)]


async def of_the_federation(db: Database) -> list[Happened]:
    return await of(db, FEDERATION_STREAM)


async def with_names(db: Database, *kinds: str) -> list[tuple[str, Happened]]:
    """Return the events of these kinds with the names of their experiments, each experiment's in order."""
    names = dict(await rows(db, "SELECT id, name FROM experiments"))
    return [(names[event.stream], event) for event in await of_kind(db, *kinds) if event.stream in names]
