"""Every death from one run: what a dead process leaves is its rows and what the others know, so both are copied.

A run that nothing disturbs is forked at each point: the rows that are committed at that instant, and the clients, whose
call is never answered. Carried on, a fork is that run with a death at that point, and costs only what comes after it.
"""

import pickle
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from director.effects import ManualClock
from tests.simulation.actors import Client
from tests.simulation.deaths import Point
from tests.simulation.harness import Federation


@dataclass(frozen=True, slots=True)
class Fork:
    """A federation whose director died at a point."""

    points: list[Point]
    """Those between which nobody learned anything: it is the same death."""
    instant: datetime
    directors: int
    clients: bytes
    rows: bytes | None

    def __str__(self) -> str:
        return " = ".join(map(str, self.points))

    def federation(self, path: Path) -> Federation:
        """Write the rows into a file, and return the federation that goes on there."""
        assert self.rows is not None, "only SQLite's rows are copied"
        path.write_bytes(self.rows)
        clock = ManualClock(self.instant)
        return Federation(f"sqlite:///{path}", pickle.loads(self.clients), clock=clock, directors=self.directors)


@dataclass
class Forks:
    """Told of every point of a run, it makes the forks."""

    copied: Callable[[int], bool] = lambda _number: True
    """Which forks are to be carried on; the others keep no rows."""
    forks: list[Fork] = field(default_factory=list)
    federation: Federation | None = None
    _known: dict[tuple[int, bytes], Fork] = field(default_factory=dict)

    def run(self, url: str, clients: Sequence[Client]) -> Federation:
        """Return a federation to run to its end."""
        self.federation = Federation(url, clients, fate=self)
        return self.federation

    def __call__(self, point: Point) -> None:
        """Fork, unless a death at this point is one that is known."""
        federation = self.federation
        assert federation is not None, "points are passed by a federation"
        committed = federation.tally.total() - (point.when == "before")
        memory = pickle.dumps(federation.clients)
        known = self._known.get((committed, memory))
        if known is not None:
            known.points.append(point)
            return
        rows = rows_of(federation.url) if self.copied(len(self.forks)) else None
        self._known[committed, memory] = fork = Fork([point], federation.now, federation.directors, memory, rows)
        self.forks.append(fork)


def rows_of(url: str) -> bytes | None:
    """Return a SQLite database as it is on disk; what a transaction has written and not committed is not in it."""
    if not url.startswith("sqlite:"):
        return None
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return connection.serialize()
    finally:
        connection.close()
