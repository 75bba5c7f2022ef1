"""Who is online, measured in service time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """The present service second, and the one at which the director came up last."""

    now: float
    up_since: float


@dataclass(frozen=True, slots=True)
class Liveness:
    """When the last heartbeat of an envoy came, for how long it keeps the envoy online, and whether the envoy has left.

    Units: service seconds.
    """

    seen: float
    limit: float
    left: bool = False

    def absence(self, time: ServiceTime) -> float:
        """Return for how many service seconds the envoy has been silent.

        An outage of the director does not count: an envoy that was online when the outage began counts from its end.
        """
        was_online = not self.left and 0 <= time.up_since - self.seen < self.limit
        seen = time.up_since if was_online else self.seen
        return max(0.0, time.now - seen)

    def online(self, time: ServiceTime) -> bool:
        """Whether its last heartbeat still counts and it has not left."""
        return not self.left and self.absence(time) < self.limit


def limit_seconds(period: float, lease: float) -> float:
    """Return for how long a heartbeat keeps an envoy online.

    Units: seconds.
    """
    return max(2 * period, lease)
