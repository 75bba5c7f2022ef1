"""Those who act in turn, each when it is woken or when its time has come."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from director.store.engine.topics import Topic
from tests.world import World

T = TypeVar("T")
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Surroundings(Protocol):
    """What an actor sees of the federation."""

    @property
    def now(self) -> datetime:
        """The instant."""
        ...

    async def ask(self, call: Callable[[World], Awaitable[T]]) -> T:
        """Call a director.

        Raises:
            Unavailable: there was no answer; what became of the call is unknown.
        """
        ...


@dataclass(eq=False)
class Actor:
    """Somebody who does one thing at a time."""

    name: str
    woken: bool = field(default=True, init=False)
    was_woken: bool = field(default=False, init=False)
    """Whether it was woken to do what it is doing."""
    due: datetime = field(default=LONG_AGO, init=False)

    def hears(self) -> Iterable[Topic]:
        """Return what wakes it."""
        return ()

    def ready(self, now: datetime) -> bool:
        """Whether it has something to do."""
        return self.woken or self.due <= now

    async def act(self, around: Surroundings) -> float:
        """Do one thing; return in how many seconds to do the next one if nothing wakes it."""
        raise NotImplementedError

    async def turn(self, around: Surroundings) -> None:
        """Do one thing, and remember when the next one is due."""
        self.was_woken, self.woken = self.woken, False
        pause = await self.act(around)
        self.due = around.now + timedelta(seconds=pause)


@dataclass(eq=False)
class Client(Actor):
    """Somebody outside the directors: all that it knows is in its fields, and survives their deaths."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what it knows; it learns again when to look."""
        return {name: value for name, value in vars(self).items() if name not in ("woken", "was_woken", "due")}

    @property
    def done(self) -> bool:
        """Whether it has nothing left to wait for."""
        raise NotImplementedError
