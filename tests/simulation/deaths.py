"""Where a process dies: before or after a commit that has a name, and a number among those of its name."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from director.store.engine.database import Failpoints


class Died(BaseException):
    """The process ends at this instruction: nothing of it is done any more, and nobody is told."""


def keep_quiet_about_the_dead() -> None:
    """Have the running loop not report what died with its process before anybody looked at it."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Died):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


@dataclass(frozen=True, slots=True)
class Point:
    """A moment next to a commit."""

    when: str
    operation: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.when} {self.operation} {self.occurrence}"


Fate = Callable[[Point], None]
"""Told of each point that a process passes; what it raises happens there."""


def live_on(_point: Point) -> None:
    """Let nothing happen."""


def die_at(*fatal: Point) -> Fate:
    """Let the process die at these points."""

    def fate(point: Point) -> None:
        if point in fatal:
            raise Died(str(point))

    return fate


class Mortal(Failpoints):
    """A process's failpoints: numbers the commits, and once the process has died it lets nothing pass."""

    def __init__(self, fate: Fate, tally: Counter[str]) -> None:
        """Number on from a tally, which outlives the process."""
        self._fate = fate
        self._tally = tally
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def dead(self) -> bool:
        """Whether the process is gone."""
        return self.died.done()

    def die(self) -> None:
        """End the process."""
        if not self.dead:
            self.died.set_result(None)

    def enter(self, name: str) -> None:
        """The dead begin nothing."""
        if self.dead:
            raise Died(name)

    def before(self, name: str) -> None:
        """All is written, nothing is committed."""
        self._tally[name] += 1
        self._pass("before", name)

    def after(self, name: str) -> None:
        """It is committed, and nobody knows."""
        self._pass("after", name)

    def _pass(self, when: str, name: str) -> None:
        if self.dead:
            raise Died(name)
        try:
            self._fate(Point(when, name, self._tally[name]))
        except Died:
            self.die()
            raise
