"""What admission decides from: the pending experiments in rank order, their envoys, and who is taken."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, literal, literal_column, select, tuple_

from director.domain.liveness import ServiceTime
from director.domain.scheduling import Candidate, Pending
from director.domain.types import CollaboratorState, ExperimentState
from director.errors import InvalidPlan
from director.store import clock
from director.store.engine.database import Transaction
from director.store.envoys import ENGAGED, liveness_of
from director.store.experiment_rows import read_plan
from director.store.tables import collaborators, experiments, heartbeats

E = experiments.c
# As the partial index says it; with a bound parameter in place of the literal it would not be used.
PENDING = E.state == literal_column(f"'{ExperimentState.PENDING}'")
ELIGIBLE = PENDING, E.eligible_at.is_not(None)
WAITING = select(E.id, E.owner, E.plan, E.eligible_at, E.eligible_service).where(*ELIGIBLE).order_by(E.rank, E.id)
FREE = WAITING.with_only_columns(E.id).with_for_update(key_share=True, skip_locked=True)
WANTED = (
    select(
        collaborators.c.experiment_id,
        collaborators.c.envoy,
        collaborators.c.state,
        heartbeats.c.seen_service,
        heartbeats.c.period_seconds,
        heartbeats.c.left_at,
    )
    .join(heartbeats, heartbeats.c.envoy == collaborators.c.envoy)
    .join(experiments, E.id == collaborators.c.experiment_id)
    .where(*ELIGIBLE)
    .order_by(collaborators.c.experiment_id, collaborators.c.envoy)
)
SERVING = select(collaborators.c.envoy, collaborators.c.experiment_id).where(ENGAGED)
RUNNING = select(E.owner, func.count().label("number")).where(E.state == ExperimentState.IN_PROGRESS).group_by(E.owner)


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue, and what runs."""

    pending: Sequence[Pending]
    locked: Mapping[int, datetime]
    """Those whose rows this transaction holds, and since when they could start.

    The others keep their place and are left alone.
    """
    engaged: Mapping[str, int]
    running: Mapping[str, int]


async def read(tx: Transaction, *, lease: timedelta) -> Queue:
    """Read the queue and lock as much of it as is free. The caller holds the row of the admission job.

    An experiment whose plan this code cannot read keeps its place, and is left to a director that can.
    """
    free = {row.id for row in await tx.execute(FREE)}
    rows = (await tx.execute(WAITING)).all()
    time = await clock.now(tx)
    wanted = await candidates(tx, time, {row.id: row.eligible_service for row in rows}, lease=lease)
    return Queue(
        pending=[
            Pending(row.id, row.owner, plan, wanted[row.id])
            for row in rows
            if not isinstance(plan := read_plan(row.plan), InvalidPlan)
        ],
        locked={row.id: row.eligible_at for row in rows if row.id in free},
        engaged=await engaged(tx),
        running=await running(tx),
    )


async def candidates(
    tx: Transaction, time: ServiceTime, eligible: Mapping[int, float], *, lease: timedelta
) -> Mapping[int, list[Candidate]]:
    """Return the collaborators of pending experiments, and how long each was away since the experiment could start."""
    wanted: defaultdict[int, list[Candidate]] = defaultdict(list)
    for row in await tx.execute(WANTED):
        if row.experiment_id in eligible:
            if row.state is CollaboratorState.FAILED:  # retired before the start: it does not come
                wanted[row.experiment_id].append(Candidate(row.envoy, False, math.inf))
                continue
            seen = liveness_of(row, lease=lease)
            absence = min(seen.absence(time), time.now - eligible[row.experiment_id])
            wanted[row.experiment_id].append(Candidate(row.envoy, seen.online(time), absence))
    return wanted


async def engaged(tx: Transaction) -> dict[str, int]:
    """Return the envoys that serve an experiment, and which."""
    return {row.envoy: row.experiment_id for row in await tx.execute(SERVING)}


async def running(tx: Transaction) -> dict[str, int]:
    """Return how many experiments of each owner are in progress."""
    return {row.owner: row.number for row in await tx.execute(RUNNING)}


async def ahead_of(tx: Transaction, experiment_id: int, rank: float) -> list[int]:
    """Return the ids of the pending experiments with a better place."""
    before = tuple_(E.rank, E.id) < tuple_(literal(rank), literal(experiment_id))
    rows = await tx.execute(select(E.id).where(*ELIGIBLE, before).order_by(E.rank, E.id))
    return [row.id for row in rows]
