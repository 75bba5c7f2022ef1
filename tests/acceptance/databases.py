"""Databases, looked at from outside while directors run on them or after."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from director.store.engine import database
from director.store.engine.opening import open_database
from tests.simulation.endings import Ending, ending
from tests.tables import result_rows, round_rows

T = TypeVar("T")


class Database:
    """A database by its URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, reader: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Return what a reader of rows finds."""
        return asyncio.run(self._opened(lambda db: reader(db, *arguments)))

    def is_half_way(self, round_number: int) -> bool:
        """Whether oslo's results of a round are stored, and rome is at work on its own."""
        done = [each.task for each in self.ask(result_rows.contributions) if each.round == round_number]
        return done == ["train", "validate"] and self.ask(round_rows.was_given_tasks, round_number, "rome")

    def ending(self) -> Ending:
        """Read what a federation left behind, the same way on both engines."""
        found = self.ask(ending)
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
