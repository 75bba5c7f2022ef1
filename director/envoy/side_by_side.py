"""Run things side by side and end them in order, also when they are cancelled."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

from director.concurrency import uninterrupted

Result = TypeVar("Result")


async def until_first(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines side by side until one ends; stop the others, and raise what the first one raised.

    Each is cancelled at most once. When this returns, all have ended.
    """
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await uninterrupted(asyncio.gather(*tasks, return_exceptions=True))


async def in_daemon_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function that may never return, such as a question to a person; the process can end before it does."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def tell(settle: Callable[[Any], None], outcome: Any) -> None:
        if not answer.done():
            settle(outcome)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = answer.set_result, function(*arguments)
        except Exception as error:
            outcome = answer.set_exception, error
        with suppress(RuntimeError):  # the loop is closed: no task waits for the answer
            loop.call_soon_threadsafe(tell, *outcome)

    Thread(target=run, daemon=True).start()
    return await answer
