"""Databases, looked at from outside while directors run on them or after."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from director.store.engine import database
from director.store.engine.opening import open_database
from tests.simulation.endings import Ending, ending
from tests.store import words

T = TypeVar("T")


class Database:
    """A database by its URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        """Return what a query finds; plain values where it has one column."""
        return asyncio.run(self._opened(lambda db: words.rows(db, query, **parameters)))

    def is_half_way(self, round_number: int) -> bool:
        """Whether oslo's results of a round are stored, and rome is at work on its own."""
        done = self.rows("SELECT task FROM contributions WHERE round = :round ORDER BY task", round=round_number)
        asked = "SELECT given_at FROM assignments WHERE round = :round AND envoy = 'rome'"
        given = self.rows(asked, round=round_number)
        return done == ["train", "validate"] and given != [None]

    def ending(self) -> Ending:
        """Read what a federation left behind, the same way on both engines."""
        found = asyncio.run(self._opened(ending))
        told = {aspect: [alike(row) for row in each] for aspect, each in found.items()}
        return {aspect: each if aspect == "step" else sorted(each, key=repr) for aspect, each in told.items()}

    async def _opened(self, ask: Callable[[database.Database], Awaitable[T]]) -> T:
        db = open_database(self.url)
        try:
            return await ask(db)
        finally:
            await db.close()


def alike(row: Any) -> Any:
    """Write a row as both engines would: truth values as numbers, keys of documents in order."""
    match row:
        case tuple():
            return tuple(map(alike, row))
        case dict():
            return dict(sorted(row.items()))
        case bool():
            return int(row)
        case _:
            return row
