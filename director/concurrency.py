"""What has to be finished once it has begun."""

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def uninterrupted(work: Awaitable[Result]) -> Result:
    """Finish a piece of work even if the caller is cancelled meanwhile, and only then let the cancellation through."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as interruption:
            cancelled = interruption
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that it is not reported as lost
        raise cancelled
    return task.result()


@coroutine
def uninterrupted_here(work: Coroutine[Any, Any, Result]) -> Generator[Any, None, Result]:
    """Finish a coroutine as `uninterrupted` does, but in the caller's own task: one more costs what a statement costs.

    Not for work that is timed by `asyncio.timeout`, which cancels the task that it is in: it would never be.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        while True:
            try:
                waited_for = work.send(None)
            except StopIteration as done:
                if cancelled is not None:
                    raise cancelled from None
                return done.value  # type: ignore[no-any-return]
            except (Exception, asyncio.CancelledError):
                if cancelled is not None:
                    raise cancelled from None
                raise
            cancelled = (yield from waiting(waited_for)) or cancelled
    finally:
        work.close()


def waiting(waited_for: "asyncio.Future[Any] | None") -> Generator[Any, None, asyncio.CancelledError | None]:
    """Wait for a future, or for the loop's next turn, however often the task is cancelled; return a cancellation."""
    cancelled: asyncio.CancelledError | None = None
    if waited_for is None:
        try:
            yield
        except asyncio.CancelledError as interruption:
            cancelled = interruption
        return cancelled
    waited_for._asyncio_future_blocking = False  # as a task does it; others may wait for the same
    while not waited_for.done():
        woken: asyncio.Future[None] = waited_for.get_loop().create_future()

        def wake(_done: object, woken: "asyncio.Future[None]" = woken) -> None:
            if not woken.done():
                woken.set_result(None)

        waited_for.add_done_callback(wake)
        try:
            yield from woken.__await__()
        except asyncio.CancelledError as interruption:
            cancelled = interruption
        finally:
            waited_for.remove_done_callback(wake)
    return cancelled
