"""Everything in the thread of the event loop: one order of things, the same each time, and no thread to wait for."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import aiosqlite.core
from sqlalchemy.ext.asyncio import AsyncEngine

from director.services import periodic_jobs
from director.store.engine import postgresql, sqlite


class Immediately:
    """Stands for the queue to aiosqlite's thread: what is put into it is done at once."""

    def put_nowait(self, item: tuple[Any, Callable[[], Any]]) -> None:
        """Do what the thread would do."""
        done, work = item
        try:
            result = work()
        except BaseException as error:
            done.set_exception(error)
        else:
            if done is not None and not done.done():
                done.set_result(result)


class Connection(aiosqlite.core.Connection):
    """A connection whose thread is never started."""

    def __init__(self, connector: Callable[[], Any], iter_chunk_size: int) -> None:
        """Have a connection made in the thread that asks for it."""
        super().__init__(connector, iter_chunk_size)
        self._tx: Any = Immediately()

    def __await__(self) -> Any:
        """Connect."""
        return self._connect().__await__()


async def at_once(work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Stand for `asyncio.to_thread`."""
    return work(*arguments, **more)


PREDECESSORS: dict[str, Any] = {}


def succeeding(make: Callable[..., AsyncEngine]) -> Callable[..., AsyncEngine]:
    """Have an engine know the statements of the one before: to compile them takes most of a process's short life."""

    def engine(*arguments: Any, **more: Any) -> AsyncEngine:
        made = make(*arguments, **more)
        first = PREDECESSORS.setdefault(made.dialect.name, made.sync_engine)
        made.sync_engine.dialect = first.dialect
        made.sync_engine._compiled_cache = first._compiled_cache
        return made

    return engine


@contextmanager
def one_thread() -> Iterator[None]:
    """Use no other thread, and rest for no moment, while the block lasts."""
    with (
        patch.object(aiosqlite.core, "Connection", Connection),
        patch.object(asyncio, "to_thread", at_once),
        patch.object(periodic_jobs, "SWEEP_PAUSE", 0.0),
        patch.object(sqlite, "engine", succeeding(sqlite.engine)),
        patch.object(postgresql, "create_async_engine", succeeding(postgresql.create_async_engine)),
    ):
        yield
