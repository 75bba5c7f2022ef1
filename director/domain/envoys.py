"""Envoys: does a shard fit, who is online, who is asked in a round."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from director.errors import ShardRejected

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """The data set that an envoy offers."""

    envoy: str
    description: str
    samples: int
    sample_shape: Shape
    target_shape: Shape


def check_fit(shard: Shard, *, sample_shape: Shape | None, target_shape: Shape | None) -> None:
    """Refuse a shard whose shapes are not the federation's; where the federation names none, any will do.

    Raises:
        ShardRejected: the text says which shape, and what it should be.
    """
    for what, wanted, given in (
        ("sample_shape", sample_shape, shard.sample_shape),
        ("target_shape", target_shape, shard.target_shape),
    ):
        if wanted is not None and wanted != given:
            raise ShardRejected(
                f"shard of envoy {shard.envoy!r}: its {what} is {list(given)}, the federation's is {list(wanted)}"
            )


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Service seconds at this moment, and at which of them the director came up last."""

    now: float
    up_since: float


@dataclass(frozen=True, slots=True)
class Liveness:
    """When an envoy was last heard of, in service seconds, and for how long that makes it online."""

    seen: float
    limit: float

    def absence(self, time: ServiceTime) -> float:
        """Return for how many service seconds it has been silent.

        An outage of the director is not the envoy's: one that was online when it began counts from its end.
        """
        seen = time.up_since if 0 <= time.up_since - self.seen < self.limit else self.seen
        return max(0.0, time.now - seen)

    def online(self, time: ServiceTime) -> bool:
        """Whether it was heard of lately."""
        return self.absence(time) < self.limit


def limit_seconds(period: float, lease: float) -> float:
    """Return for how long a heartbeat keeps an envoy online.

    Units: seconds.
    """
    return max(2 * period, lease)


def select(envoys: Sequence[str], *, required: Sequence[str], count: int, seed: int, round_number: int) -> list[str]:
    """Choose who is asked in a round: the required ones, then others by a draw that only seed and round decide.

    The choice is in name order. A draw by hash rather than by a generator stays the same in every version of Python.
    """

    def lot(envoy: str) -> bytes:
        return hashlib.sha256(f"{seed}/{round_number}/{envoy}".encode()).digest()

    chosen = [envoy for envoy in envoys if envoy in set(required)]
    others = sorted((envoy for envoy in envoys if envoy not in set(required)), key=lot)
    return sorted(chosen + others[: max(0, count - len(chosen))])
