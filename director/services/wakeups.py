"""Wakeups shorten waits.

They carry no data: a listener that is woken reads the rows, and polls if nothing wakes it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from director.store.engine.topics import Topic


class Wakeup:
    """One waiter's own signal: clear it, look at the rows, then wait."""

    def __init__(self) -> None:
        """Start unset."""
        self._event = asyncio.Event()

    def clear(self) -> None:
        """Forget what was signalled; do so before reading."""
        self._event.clear()

    def set(self) -> None:
        """Wake the waiter."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait to be woken; False if that did not happen in time."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class Wakeups:
    """Who waits for what, in this process."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._waiting: defaultdict[Topic, set[Wakeup]] = defaultdict(set)
        self.relay: Callable[[Sequence[Topic]], None] = lambda _topics: None
        """Tells the other processes; the default is to be alone."""
        self.closing = False

    @contextmanager
    def listen(self, *topics: Topic) -> Iterator[Wakeup]:
        """Be woken by any of the topics, while the block lasts."""
        wakeup = Wakeup()
        for topic in topics:
            self._waiting[topic].add(wakeup)
        try:
            yield wakeup
        finally:
            for topic in topics:
                self._waiting[topic].discard(wakeup)
                if not self._waiting[topic]:
                    del self._waiting[topic]

    def committed(self, topics: Sequence[Topic]) -> None:
        """Wake whom a transaction of this process concerns, here and in the other processes."""
        if topics:
            self.wake(topics)
            self.relay(topics)

    def wake(self, topics: Sequence[Topic]) -> None:
        """Wake whom the topics concern, in this process."""
        for topic in set(topics):
            for wakeup in self._waiting.get(topic, ()):
                wakeup.set()

    def wake_all(self) -> None:
        """Wake everyone: wakeups may have been missed."""
        for waiting in self._waiting.values():
            for wakeup in waiting:
                wakeup.set()

    def close(self) -> None:
        """Have every wait of a client answered now, so that it comes back to another process."""
        self.closing = True
        self.wake_all()
