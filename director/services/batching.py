"""Batching: items that arrive while one flush runs go together into the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Collects the items of many callers and flushes them together, one flush at a time.

    The flush gets items in the order of their arrival. It returns one outcome for each, in the same order: an answer,
    or an exception that the item's caller gets raised. What the flush itself raises is raised to all its callers.
    """

    def __init__(
        self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], *, limit: int
    ) -> None:
        """Flush at most `limit` items at once."""
        self._flush = flush
        self._limit = limit
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flushing: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """Have an item flushed; return its answer.

        An item whose caller is cancelled before its flush begins is left out.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._flushing is None:
            self._begin()
        return await answer

    def _begin(self) -> None:
        self._flushing = asyncio.create_task(self._flush_next())
        self._flushing.add_done_callback(self._ended)

    def _ended(self, _flushing: object) -> None:
        self._flushing = None
        if any(not answer.done() for _, answer in self._waiting):
            self._begin()

    async def _flush_next(self) -> None:
        batch = self._next_batch()
        try:
            if batch:
                for (_, answer), outcome in zip(batch, await self._outcomes(batch), strict=True):
                    settle(answer, outcome)
        finally:
            for _, answer in batch:
                answer.cancel()  # changes nothing unless the flush was cancelled: then nobody waits for ever

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._limit:
            item, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((item, answer))
        return batch

    async def _outcomes(self, batch: Sequence[tuple[Item, object]]) -> Sequence[Answer | Exception]:
        try:
            outcomes = await self._flush([item for item, _ in batch])
            if len(outcomes) != len(batch):
                raise ValueError(f"a flush of {len(batch)} items returned {len(outcomes)} outcomes")
        except Exception as error:
            return [error] * len(batch)
        return outcomes


def settle(answer: "asyncio.Future[Answer]", outcome: Answer | Exception) -> None:
    """Give a caller its outcome, unless it was cancelled meanwhile."""
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
