"""Envoys: the shards they hold, their sessions, and when they were heard of last."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, bindparam, literal_column, select, update

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement, Shard
from director.domain.history import EventKind, Occurrence
from director.domain.liveness import Liveness, limit_seconds
from director.domain.types import CollaboratorState
from director.errors import DirectorError, EnvoyNotFound, EnvoyRetired, StaleSession
from director.store import clock, events, sessions
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import collaborators, experiments, heartbeats, shards

# As the partial index says it; with bound parameters in place of the literals it would not be used.
ENGAGED = collaborators.c.state.in_([literal_column(f"'{state}'") for state in CollaboratorState if state.engaged])
REGISTERED = select(shards.c.envoy).where(
    shards.c.envoy.in_(bindparam("names", expanding=True)), shards.c.retired_at.is_(None)
)
THEIRS = heartbeats.c.envoy.in_(bindparam("names", expanding=True))
STANDING = (
    select(heartbeats.c.envoy, heartbeats.c.session_id, heartbeats.c.left_at, shards.c.retired_at)
    .join(shards, shards.c.envoy == heartbeats.c.envoy)
    .where(THEIRS)
)
SEEN = select(
    heartbeats.c.envoy,
    heartbeats.c.seen_service,
    heartbeats.c.period_seconds,
    heartbeats.c.session_id,
    heartbeats.c.left_at,
).where(THEIRS)
FREE = SEEN.order_by(heartbeats.c.envoy).with_for_update(key_share=True, skip_locked=True)
LOCK = (
    select(heartbeats.c.session_id, heartbeats.c.left_at)
    .where(heartbeats.c.envoy == bindparam("name"))
    .with_for_update(key_share=True)
)
SERVING = (
    select(
        collaborators.c.envoy,
        collaborators.c.experiment_id,
        experiments.c.uid,
        experiments.c.name,
        collaborators.c.attempt,
    )
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
        experiment_running=bindparam("running"),
        devices=bindparam("found_devices", type_=heartbeats.c.devices.type),
        left_at=None,
    )
)
LEAVE = update(heartbeats).where(heartbeats.c.envoy == bindparam("name")).values(left_at=bindparam("instant"))
RETIRE = (
    update(shards)
    .where(shards.c.envoy == bindparam("name"), shards.c.retired_at.is_(None))
    .values(retired_at=bindparam("instant"))
    .returning(shards.c.envoy)
)
RESTORE = (
    update(shards)
    .where(shards.c.envoy == bindparam("name"), shards.c.retired_at.is_not(None))
    .values(retired_at=None)
    .returning(shards.c.envoy)
)
KNOWN = select(shards.c.envoy).where(shards.c.envoy == bindparam("name"))


async def register(
    tx: Transaction,
    shard: Shard,
    *,
    session_id: str,
    period: timedelta,
    sdk_version: str = "",
    python_version: str = "",
) -> None:
    """Enter a shard, or replace its description. Its envoy is heard of, and a new session begins.

    Raises:
        EnvoyRetired: an operator retired the envoy.
    """
    now, time = await tx.now(), await clock.now(tx)
    row = {
        "description": shard.description,
        "samples": shard.samples,
        "sample_shape": list(shard.sample_shape),
        "target_shape": list(shard.target_shape),
        "updated_at": now,
        "sdk_version": sdk_version,
        "python_version": python_version,
    }
    entered = (
        tx.insert(shards)
        .values(row | {"envoy": shard.envoy, "registered_at": now})
        .on_conflict_do_update(index_elements=["envoy"], set_=row, where=shards.c.retired_at.is_(None))
        .returning(shards.c.envoy)
    )
    if (await tx.execute(entered)).first() is None:
        raise retired(shard.envoy)
    beat = {"seen_at": now, "seen_service": time.now, "period_seconds": period.total_seconds()}
    session = {"session_id": session_id, "left_at": None}
    first = {"envoy": shard.envoy, "experiment_running": False, "devices": []}
    heard = tx.insert(heartbeats).values(beat | session | first)
    await tx.execute(heard.on_conflict_do_update(index_elements=["envoy"], set_=beat | session))
    opened = await sessions.open_one(tx, shard.envoy)
    happened = [Occurrence(EventKind.SHARD_REGISTERED, shard.envoy, details={"samples": shard.samples})]
    if opened:
        happened.append(Occurrence(EventKind.ENVOY_ONLINE, shard.envoy))
    await events.append_to_federation(tx, *happened)
    tx.wake(Topic.admission(), Topic.envoy(shard.envoy))


async def leave(tx: Transaction, envoy: str, session_id: str) -> bool:
    """Note that an envoy said goodbye: it is offline at once; False, and nothing changes, in an older session."""
    row = (await tx.execute(LOCK, {"name": envoy})).first()
    if row is None or row.session_id != session_id or row.left_at is not None:
        return False
    await tx.execute(LEAVE, {"name": envoy, "instant": await tx.now()})
    await sessions.close_one(tx, envoy)
    await events.append_to_federation(tx, Occurrence(EventKind.ENVOY_LEFT, envoy))
    tx.wake(Topic.envoy(envoy))
    return True


async def retire(tx: Transaction, envoy: str, *, actor: str) -> bool:
    """Refuse an envoy from now on; False where it is retired already.

    Raises:
        EnvoyNotFound: it never registered.
    """
    now = await tx.now()
    if (await tx.execute(RETIRE, {"name": envoy, "instant": now})).first() is None:
        await require(tx, envoy)
        return False
    await tx.execute(LEAVE, {"name": envoy, "instant": now})
    await sessions.close_one(tx, envoy)
    await events.append_to_federation(tx, Occurrence(EventKind.ENVOY_RETIRED, actor, details={"envoy": envoy}))
    tx.wake(Topic.envoy(envoy), Topic.admission())
    return True


async def restore(tx: Transaction, envoy: str, *, actor: str) -> bool:
    """Let a retired envoy register again; False where it is not retired.

    Raises:
        EnvoyNotFound: it never registered.
    """
    if (await tx.execute(RESTORE, {"name": envoy})).first() is None:
        await require(tx, envoy)
        return False
    await events.append_to_federation(tx, Occurrence(EventKind.ENVOY_RESTORED, actor, details={"envoy": envoy}))
    return True


async def require(tx: Transaction, envoy: str) -> None:
    """Refuse an envoy that never registered.

    Raises:
        EnvoyNotFound: it did not.
    """
    if (await tx.execute(KNOWN, {"name": envoy})).first() is None:
        raise unknown(envoy)


Outcome = Engagement | DirectorError | None
"""What a heartbeat is answered: what the envoy should be working on, or why nothing was stored."""


async def beat(tx: Transaction, beats: Sequence[Heartbeat], *, period: timedelta, lease: timedelta) -> list[Outcome]:
    """Store heartbeats, many at once, and answer each; a row that somebody else holds is fresh and is passed over."""
    theirs = {"names": sorted({each.envoy for each in beats})}
    now, time = await tx.now(), await clock.now(tx)
    standing = {row.envoy: row for row in await tx.execute(STANDING, theirs)}
    serving = {row.envoy: engagement(row) for row in await tx.execute(SERVING, theirs)}
    free = {row.envoy: row for row in await tx.execute(FREE, theirs)}
    outcomes: list[Outcome] = []
    rows, stored = [], []
    for each in beats:
        refused = refusal(standing.get(each.envoy), free.get(each.envoy), each.envoy, each.session_id)
        outcomes.append(refused or serving.get(each.envoy))
        if refused is None and each.envoy in free:
            stored.append(each.envoy)
            rows.append(
                {
                    "name": each.envoy,
                    "instant": now,
                    "service": time.now,
                    "period": period.total_seconds(),
                    "running": each.experiment_running,
                    "found_devices": [asdict(device) for device in each.devices],
                }
            )
    if rows:
        await tx.execute(BEAT, rows)
    back = [name for name in stored if not liveness_of(free[name], lease=lease).online(time)]
    if back:
        tx.wake(Topic.admission(), *(Topic.envoy(name) for name in back))
    return outcomes


def engagement(row: Row[Any]) -> Engagement:
    """Read what an envoy serves."""
    return Engagement(row.uid, row.name, row.attempt)


def refusal(
    standing: Row[Any] | None, locked: Row[Any] | None, envoy: str, session_id: str | None
) -> DirectorError | None:
    """Return why a call of a session is refused; None where it is not. Without a session it speaks for any."""
    if standing is None:
        return unknown(envoy)
    if standing.retired_at is not None:
        return retired(envoy)
    row = locked or standing
    if session_id is not None and (row.session_id != session_id or row.left_at is not None):
        return StaleSession(f"this session of envoy {envoy!r} has ended; register its shard to begin another one")
    return None


Speaker = tuple[str, str | None]
"""An envoy, and the session in which it calls."""


async def refusals(tx: Transaction, speakers: Collection[Speaker]) -> dict[Speaker, DirectorError]:
    """Return which of these envoys and sessions are refused, and why."""
    names = sorted({envoy for envoy, _ in speakers})
    standing = {row.envoy: row for row in await tx.execute(STANDING, {"names": names})}
    found = {each: refusal(standing.get(each[0]), None, *each) for each in speakers}
    return {each: error for each, error in found.items() if error is not None}


async def refuse(tx: Transaction, envoy: str) -> None:
    """Refuse an envoy that may not act at all, in whatever session.

    Raises:
        EnvoyNotFound: it never registered.
        EnvoyRetired: an operator retired it.
    """
    for error in (await refusals(tx, [(envoy, None)])).values():
        raise error


def liveness_of(row: Row[Any], *, lease: timedelta) -> Liveness:
    """Read when an envoy was heard of last."""
    return Liveness(row.seen_service, limit_seconds(row.period_seconds, lease.total_seconds()), row.left_at is not None)


async def liveness(tx: Transaction, names: Sequence[str], *, lease: timedelta) -> dict[str, Liveness]:
    """Return when envoys were heard of last; those that never registered are left out."""
    return {row.envoy: liveness_of(row, lease=lease) for row in await tx.execute(SEEN, {"names": list(names)})}


async def registered(tx: Transaction, names: Sequence[str]) -> set[str]:
    """Return which of these envoys exist and are not retired."""
    return {row.envoy for row in await tx.dated(REGISTERED, {"names": list(names)})}


def unknown(name: str) -> EnvoyNotFound:
    """Return the error for an envoy that never registered."""
    return EnvoyNotFound(f"envoy {name!r} is not registered; register its shard first")


def retired(name: str) -> EnvoyRetired:
    """Return the error for an envoy that an operator retired."""
    return EnvoyRetired(f"envoy {name!r} is retired; an operator restores it with `director envoys restore`")
