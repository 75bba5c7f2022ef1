"""Envoys: the shards they hold, and when they were heard of last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, literal_column, select, update

from director.domain.envoys import Liveness, ServiceTime, Shard, limit_seconds
from director.domain.messages import Event, EventKind, Heartbeat
from director.domain.types import CollaboratorState
from director.errors import EnvoyNotFound
from director.store import clock, events, sessions
from director.store.engine.database import Transaction
from director.store.tables import collaborators, experiments, heartbeats, shards

# As the partial index says it; with bound parameters in place of the literals it would not be used.
ENGAGED = collaborators.c.state.in_([literal_column(f"'{state}'") for state in CollaboratorState if state.engaged])
REGISTERED = select(shards.c.envoy).where(
    shards.c.envoy.in_(bindparam("names", expanding=True)), shards.c.retired_at.is_(None)
)
THEIRS = heartbeats.c.envoy.in_(bindparam("names", expanding=True))
KNOWN = select(heartbeats.c.envoy).where(THEIRS)
SEEN = select(heartbeats.c.envoy, heartbeats.c.seen_service, heartbeats.c.period_seconds).where(THEIRS)
FREE = SEEN.order_by(heartbeats.c.envoy).with_for_update(key_share=True, skip_locked=True)
SERVING = (
    select(collaborators.c.envoy, collaborators.c.experiment_id, experiments.c.name, collaborators.c.attempt)
    .join(experiments, experiments.c.id == collaborators.c.experiment_id)
    .where(
        collaborators.c.envoy.in_(bindparam("names", expanding=True)),
        collaborators.c.state.in_(("assigned", "working")),
    )
)
BEAT = (
    update(heartbeats)
    .where(heartbeats.c.envoy == bindparam("name"))
    .values(
        seen_at=bindparam("instant"),
        seen_service=bindparam("service"),
        period_seconds=bindparam("period"),
        is_experiment_running=bindparam("running"),
        devices=bindparam("found_devices", type_=heartbeats.c.devices.type),
    )
)


@dataclass(frozen=True, slots=True)
class Envoy:
    """An envoy as others see it."""

    shard: Shard
    registered_at: datetime
    seen_at: datetime
    period: timedelta
    is_online: bool
    is_experiment_running: bool
    devices: Sequence[Mapping[str, Any]]
    experiment_id: int | None
    experiment_name: str | None
    absence_seconds: float

    def seen_by(self, visible: Mapping[int, str]) -> "Envoy":
        """Return it without the name of an experiment that is not among the visible ones."""
        if self.experiment_id is None or self.experiment_id in visible:
            return self
        return replace(self, experiment_id=None, experiment_name=None)


async def register(tx: Transaction, shard: Shard, *, period: timedelta) -> None:
    """Enter a shard, or say anew what it is; its envoy counts as heard of."""
    now, time = await tx.now(), await clock.now(tx)
    row = {
        "description": shard.description,
        "samples": shard.samples,
        "sample_shape": list(shard.sample_shape),
        "target_shape": list(shard.target_shape),
        "updated_at": now,
        "retired_at": None,
    }
    entered = tx.insert(shards).values(row | {"envoy": shard.envoy, "registered_at": now})
    await tx.execute(entered.on_conflict_do_update(index_elements=["envoy"], set_=row))
    beat = {"seen_at": now, "seen_service": time.now, "period_seconds": period.total_seconds()}
    first = {"envoy": shard.envoy, "is_experiment_running": False, "devices": []}
    heard = tx.insert(heartbeats).values(beat | first)
    await tx.execute(heard.on_conflict_do_update(index_elements=["envoy"], set_=beat))
    opened = await sessions.open_one(tx, shard.envoy)
    happened = [Event(EventKind.SHARD_REGISTERED, shard.envoy, details={"samples": shard.samples})]
    if opened:
        happened.append(Event(EventKind.ENVOY_ONLINE, shard.envoy))
    await events.append_to_federation(tx, *happened)
    tx.wake(("admission", 0), ("envoy", shard.envoy))


@dataclass(frozen=True, slots=True)
class Engagement:
    """An experiment as given to one envoy."""

    experiment_id: int
    experiment_name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What a flush of heartbeats found."""

    known: frozenset[str]
    engagements: Mapping[str, Engagement]


async def beat(tx: Transaction, beats: Sequence[Heartbeat], *, period: timedelta, lease: timedelta) -> Heard:
    """Store heartbeats, many at once; a row that somebody else holds is fresh already and is passed over."""
    names = sorted(each.envoy for each in beats)
    now, time = await tx.now(), await clock.now(tx)
    theirs = {"names": names}
    known = {row.envoy for row in await tx.execute(KNOWN, theirs)}
    engagements = {
        row.envoy: Engagement(row.experiment_id, row.name, row.attempt) for row in await tx.execute(SERVING, theirs)
    }
    free = {row.envoy: row for row in await tx.execute(FREE, theirs)}
    rows = [
        {
            "name": each.envoy,
            "instant": now,
            "service": time.now,
            "period": period.total_seconds(),
            "running": each.is_experiment_running,
            "found_devices": [dict(device) for device in each.devices],
        }
        for each in beats
        if each.envoy in free
    ]
    if rows:
        await tx.execute(BEAT, rows)
    back = [
        name
        for name, row in free.items()
        if not Liveness(row.seen_service, limit_seconds(row.period_seconds, lease.total_seconds())).online(time)
    ]
    if back:
        tx.wake(("admission", 0), *(("envoy", name) for name in back))
    return Heard(frozenset(known), engagements)


async def listed(tx: Transaction, *, lease: timedelta) -> list[Envoy]:
    """Return every envoy, by name."""
    time = await clock.now(tx)
    engaged = (
        select(collaborators.c.envoy, experiments.c.id, experiments.c.name)
        .join(experiments, experiments.c.id == collaborators.c.experiment_id)
        .where(ENGAGED)
    )
    serving = {row.envoy: row for row in await tx.execute(engaged)}
    found = select(shards, heartbeats).join(heartbeats, heartbeats.c.envoy == shards.c.envoy)
    rows = (await tx.execute(found.where(shards.c.retired_at.is_(None)).order_by(shards.c.envoy))).mappings().all()
    return [envoy(row, serving.get(row[shards.c.envoy]), time=time, lease=lease) for row in rows]


def envoy(row: Mapping[Any, Any], serving: Any, *, time: ServiceTime, lease: timedelta) -> Envoy:
    """Read a row of `listed`."""
    shard = Shard(
        envoy=row[shards.c.envoy],
        description=row[shards.c.description],
        samples=row[shards.c.samples],
        sample_shape=tuple(row[shards.c.sample_shape]),
        target_shape=tuple(row[shards.c.target_shape]),
    )
    period = row[heartbeats.c.period_seconds]
    liveness = Liveness(row[heartbeats.c.seen_service], limit_seconds(period, lease.total_seconds()))
    return Envoy(
        shard=shard,
        registered_at=row[shards.c.registered_at],
        seen_at=row[heartbeats.c.seen_at],
        period=timedelta(seconds=period),
        is_online=liveness.online(time),
        is_experiment_running=row[heartbeats.c.is_experiment_running],
        devices=row[heartbeats.c.devices],
        experiment_id=serving.id if serving else None,
        experiment_name=serving.name if serving else None,
        absence_seconds=liveness.absence(time),
    )


async def liveness(tx: Transaction, names: Sequence[str], *, lease: timedelta) -> dict[str, Liveness]:
    """Return when envoys were heard of last; those that never registered are left out."""
    rows = await tx.execute(SEEN, {"names": list(names)})
    return {
        row.envoy: Liveness(row.seen_service, limit_seconds(row.period_seconds, lease.total_seconds())) for row in rows
    }


async def registered(tx: Transaction, names: Sequence[str]) -> set[str]:
    """Return which of these envoys exist."""
    return {row.envoy for row in await tx.dated(REGISTERED, {"names": list(names)})}


def unknown(name: str) -> EnvoyNotFound:
    """Return the error for an envoy that never registered."""
    return EnvoyNotFound(f"envoy {name!r} is not registered; register its shard first")
