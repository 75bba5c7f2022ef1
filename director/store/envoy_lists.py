"""Lists of envoys, as everybody sees them: page by page, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, literal, select

from director.domain.envoy import Device, Envoy, Shard
from director.domain.liveness import ServiceTime
from director.store import clock
from director.store.engine.database import Transaction
from director.store.envoys import ENGAGED, liveness_of
from director.store.tables import collaborators, heartbeats, shards

ALL = select(shards, *(column for column in heartbeats.c if column.name != "envoy")).join(
    heartbeats, heartbeats.c.envoy == shards.c.envoy
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which envoys are meant: of these names (all if empty), online or not (None: both), retired ones too or not."""

    names: Sequence[str] = ()
    online: bool | None = None
    show_retired: bool = False


async def page(tx: Transaction, wanted: Filter, *, after: str, limit: int, lease: timedelta) -> list[Envoy]:
    """Return the next envoys, by name in the engine's own order; what they serve is left out."""
    time = await clock.now(tx)
    found = ALL.where(shards.c.envoy > after).order_by(shards.c.envoy).limit(limit)
    if wanted.names:
        found = found.where(shards.c.envoy.in_(wanted.names))
    if not wanted.show_retired:
        found = found.where(shards.c.retired_at.is_(None))
    if wanted.online is not None:
        is_online = online(time, lease=lease)
        found = found.where(is_online if wanted.online else ~is_online)
    return [envoy(row, time, lease=lease) for row in (await tx.execute(found)).all()]


def online(time: ServiceTime, *, lease: timedelta) -> ColumnElement[bool]:
    """Say in SQL what `Liveness.online` says."""
    h = heartbeats.c
    span = 2 * h.period_seconds
    limit = case((span > lease.total_seconds(), span), else_=literal(lease.total_seconds()))
    gap = literal(time.up_since) - h.seen_service
    seen = case((and_(gap >= 0, gap < limit), literal(time.up_since)), else_=h.seen_service)
    return and_(h.left_at.is_(None), literal(time.now) - seen < limit)


def envoy(row: Any, time: ServiceTime, *, lease: timedelta) -> Envoy:
    """Read a row of `ALL`."""
    shard = Shard(row.envoy, row.description, row.samples, tuple(row.sample_shape), tuple(row.target_shape))
    return Envoy(
        shard=shard,
        online=row.retired_at is None and liveness_of(row, lease=lease).online(time),
        experiment_running=row.experiment_running,
        last_seen_at=row.seen_at,
        heartbeat_period=timedelta(seconds=row.period_seconds),
        registered_at=row.registered_at,
        devices=tuple(map(device, row.devices)),
        sdk_version=row.sdk_version or "",
        python_version=row.python_version or "",
        retired_at=row.retired_at,
    )


def device(stored: Mapping[str, Any]) -> Device:
    """Read a stored device; keys that this code does not know are passed over."""
    return Device(
        index=stored.get("index", 0),
        name=stored.get("name", ""),
        memory_total_bytes=stored.get("memory_total_bytes", 0),
        memory_used_bytes=stored.get("memory_used_bytes", 0),
        utilization=stored.get("utilization"),
        driver_version=stored.get("driver_version", ""),
    )


async def serving(tx: Transaction, names: Sequence[str]) -> dict[str, int]:
    """Return which experiments these envoys are engaged in."""
    engaged = select(collaborators.c.envoy, collaborators.c.experiment_id).where(
        collaborators.c.envoy.in_(names), ENGAGED
    )
    return {row.envoy: row.experiment_id for row in await tx.execute(engaged)}
