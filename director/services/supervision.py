"""Supervision: every background loop is watched, and started again with back-off whatever ends it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn

from director.concurrency import uninterrupted
from director.effects import Entropy, monotonic
from director.errors import Later

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.2
"""Seconds before the first new try; each further failure in a row doubles them."""
LONGEST_PAUSE = 2.0
REPORT_SECONDS = 60.0
"""How often trouble that goes on is logged again."""
KINDS = 20
"""How many different errors of one stretch of trouble are logged; further ones are only counted."""

Succeeded = Callable[[], None]
Loop = Callable[[Succeeded], Coroutine[Any, Any, None]]
"""A background loop: it runs until it is cancelled, and calls its argument after each pass that succeeded."""


class Trouble:
    """The failures in a row of one activity: logs them sparingly, and says how long to wait before the next try.

    Trouble is logged when it begins (a defect with its traceback), then once a minute with a count, and when it ends.
    The same trouble that comes back within a minute is only counted.
    """

    def __init__(self, activity: str, entropy: Entropy, *, now: Callable[[], float] = monotonic) -> None:
        """Start without trouble."""
        self._activity = activity
        self._entropy = entropy
        self._now = now
        self._failures = 0
        self._pause = SHORTEST_PAUSE
        self._began = self._reported = float("-inf")
        self._known: set[str] = set()

    def failed(self, error: BaseException) -> float:
        """Count a failure; return in how many seconds to try again."""
        now = self._now()
        if not self._failures:
            self._began, self._pause = now, SHORTEST_PAUSE
            if now - self._reported >= REPORT_SECONDS:
                self._known.clear()
        self._failures += 1
        self._report(error, now)
        pause = min(self._pause, LONGEST_PAUSE)
        self._pause = 2 * pause
        return pause * (1 - self._entropy.fraction() / 2)

    def succeeded(self) -> None:
        """End the trouble, if there is any."""
        if not self._failures:
            return
        now = self._now()
        if self._reported >= self._began:
            log.info("%s: back to normal after %s in %.0f s", self._activity, times(self._failures), now - self._began)
        self._failures = 0

    def _report(self, error: BaseException, now: float) -> None:
        text = f"{type(error).__name__}: {error}"
        if text not in self._known and len(self._known) < KINDS:
            self._known.add(text)
            if isinstance(error, Later):
                log.warning("%s: waiting: %s", self._activity, error)
            else:
                log.error("%s: failed, trying again: %s", self._activity, text, exc_info=error)
        elif now - self._reported >= REPORT_SECONDS:
            seconds = now - self._began
            log.warning("%s: %s in %.0f s, most recently: %s", self._activity, times(self._failures), seconds, text)
        else:
            return
        self._reported = now


def times(failures: int) -> str:
    """Return a number of failures in words."""
    return "1 failure" if failures == 1 else f"{failures} failures"


def every(seconds: float, work: Callable[[], Awaitable[object]]) -> Loop:
    """Return a loop that does some work, then sleeps."""

    async def loop(succeeded: Succeeded) -> None:
        while True:
            await work()
            succeeded()
            await asyncio.sleep(seconds)

    return loop


async def supervise(name: str, loop: Loop, entropy: Entropy) -> NoReturn:
    """Run a loop until this call is cancelled; start it again whenever it raises, returns or is cancelled itself."""
    trouble = Trouble(name, entropy)
    while True:
        running = asyncio.create_task(loop(trouble.succeeded), name=name)
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()
            await uninterrupted(asyncio.wait([running]))
            end = reason(running)
        await asyncio.sleep(trouble.failed(end))


def reason(ended: "asyncio.Task[None]") -> BaseException:
    """Return why a loop ended; one that is not stopped by its supervisor must not end."""
    if ended.cancelled():
        return RuntimeError("the loop was cancelled, but not by its supervisor")
    return ended.exception() or RuntimeError("the loop returned")


async def supervise_all(loops: Mapping[str, Loop], entropy: Entropy) -> None:
    """Supervise loops side by side until cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, loop in loops.items():
            group.create_task(supervise(name, loop, entropy))
