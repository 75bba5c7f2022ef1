"""Envoys as users and operators see them: the shard they offer, their devices, what they work on."""

from dataclasses import dataclass
from datetime import datetime, timedelta

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


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator of an envoy.

    Units: utilization is the share of the last moments in which it was busy, 0 to 1; None when unknown.
    """

    index: int
    name: str
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    utilization: float | None = None
    driver_version: str = ""


@dataclass(frozen=True, slots=True)
class Engagement:
    """An experiment as given to one envoy; the attempt rises each time it is handed out."""

    experiment_uid: str
    experiment_name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Session:
    """What an envoy is told when it registers: the session that begins, and how often to send heartbeats."""

    id: str
    period: timedelta


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a heartbeat: when the next one is due, and what the envoy should be working on."""

    period: timedelta
    engagement: Engagement | None


@dataclass(frozen=True, slots=True)
class Envoy:
    """An envoy: its shard, whether it is online, and the experiment that it takes part in.

    The experiment's uid and name are empty where it takes part in none, and where the caller may not see it.
    """

    shard: Shard
    online: bool
    experiment_running: bool
    last_seen_at: datetime
    heartbeat_period: timedelta
    registered_at: datetime
    experiment_uid: str = ""
    experiment_name: str = ""
    devices: tuple[Device, ...] = ()
    sdk_version: str = ""
    python_version: str = ""
    retired_at: datetime | None = None

    @property
    def name(self) -> str:
        """The envoy's name, which is its shard's too."""
        return self.shard.envoy


@dataclass(frozen=True, slots=True)
class FederationInfo:
    """What the federation expects of shards; an empty shape allows any.

    The epoch changes each time the federation's database is restored from a backup.
    """

    epoch: str
    sample_shape: Shape
    target_shape: Shape
    version: str


def check_fit(shard: Shard, *, sample_shape: Shape | None, target_shape: Shape | None) -> None:
    """Refuse a shard whose shapes are not the federation's. A shape of None allows any.

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
