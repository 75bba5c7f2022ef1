"""Who owns an experiment: one lease per director, one fencing token per experiment.

A director that missed its lease stays dead. What it owned is freed, and claimed again with a higher fence. The fence is
checked under the experiment's row lock, first in each transaction of an owner: without that lock, a stale owner's write
could pass the check and land after the takeover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from director.domain.history import EventKind, Occurrence
from director.domain.plan import PLAN_VERSION
from director.domain.types import DirectorId, ExperimentId, ExperimentState, RoundState
from director.errors import LeaseLost
from director.store import events
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.experiment_rows import ROWS
from director.store.tables import directors, experiments, rounds

IN_PROGRESS = f"'{ExperimentState.IN_PROGRESS}'"
PATIENT_CRASHES = 3
LONGEST_PAUSE = timedelta(hours=1)
PENDING = f"'{ExperimentState.PENDING}'"


E = experiments.c
OWNED = select(E.id, E.fence).where(E.director_id == bindparam("me"))
HOLD = ROWS.where(
    E.id == bindparam("wanted"),
    E.director_id == bindparam("me"),
    E.fence == bindparam("number"),
    E.state.in_(bindparam("states", expanding=True)),
).with_for_update(key_share=True)


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write as the owner of an experiment, until somebody else claims it."""

    experiment_id: ExperimentId
    director_id: DirectorId
    number: int


async def register(tx: Transaction, director_id: DirectorId, *, host: str, version: str, lease: timedelta) -> None:
    """Enter a director that has just started."""
    now = await tx.now()
    row = {"id": director_id, "host": host, "version": version, "started_at": now, "expires_at": now + lease}
    await tx.execute(tx.insert(directors).values(row))


async def renew(tx: Transaction, director_id: DirectorId, *, lease: timedelta) -> bool:
    """Extend a lease that has not expired yet; False means that this director is dead and stops everything."""
    now = await tx.now()
    renewed = await tx.execute(
        update(directors)
        .where(directors.c.id == director_id, directors.c.reaped_at.is_(None), directors.c.expires_at > now)
        .values(expires_at=now + lease)
        .returning(directors.c.id)
    )
    return renewed.first() is not None


async def reap(tx: Transaction, *, lease: timedelta, survivor: DirectorId | None = None) -> list[DirectorId]:
    """Expire the directors whose lease has passed; one more than two leases ahead is from a clock that went back.

    With a survivor all others expire, whatever their lease: SQLite's file lock let only one in.
    """
    now = await tx.now()
    overdue = or_(directors.c.expires_at <= now, directors.c.expires_at > now + 2 * lease)
    condition = overdue if survivor is None else directors.c.id != survivor
    # Lock before updating: a renewal stuck in its commit must not stop the reaping of others.
    locked = await tx.execute(
        select(directors.c.id)
        .where(directors.c.reaped_at.is_(None), condition)
        .order_by(directors.c.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    dead = [DirectorId(row.id) for row in locked]
    if dead:
        await tx.execute(update(directors).where(directors.c.id.in_(dead)).values(reaped_at=now))
    return dead


async def next_expiry(tx: Transaction, *, but: DirectorId | None) -> float | None:
    """Return in how many seconds the first lease of another director expires; None if there is no other."""
    first = select(func.min(directors.c.expires_at)).where(directors.c.reaped_at.is_(None), directors.c.id != but)
    expires_at = (await tx.execute(first)).scalar_one()
    return None if expires_at is None else (expires_at - await tx.now()).total_seconds()


async def retire(tx: Transaction, director_id: DirectorId) -> None:
    """End a director's own lease, on its way out."""
    now = await tx.now()
    await tx.execute(
        update(directors)
        .where(directors.c.id == director_id, directors.c.reaped_at.is_(None))
        .values(reaped_at=now, expires_at=now)
    )


async def free(tx: Transaction) -> list[ExperimentId]:
    """Free what dead directors still own, pending reviews too.

    One that was being aggregated or reviewed counts a crash: from the third on it waits, longer each time. So an
    experiment that kills its director does not kill one director after the other.
    """
    busy = exists().where(rounds.c.experiment_id == experiments.c.id, rounds.c.state == RoundState.AGGREGATING)
    locked = await tx.execute(
        select(experiments.c.id, experiments.c.crashes, or_(busy, experiments.c.review_due).label("crashed"))
        .join(directors, directors.c.id == experiments.c.director_id)
        .where(directors.c.reaped_at.is_not(None))
        .order_by(experiments.c.id)
        .with_for_update(of=experiments, key_share=True, skip_locked=True)
    )
    now = await tx.now()
    orphans = []
    for row in locked.all():
        crashes = row.crashes + 1 if row.crashed else row.crashes
        values = {"director_id": None, "crashes": crashes}
        if row.crashed:
            values["claimable_from"] = now + pause_after(crashes)
        await tx.execute(update(experiments).where(experiments.c.id == row.id).values(values))
        orphans.append(ExperimentId(row.id))
    if orphans:
        tx.wake(Topic.claim())
    return orphans


async def start_over(tx: Transaction) -> tuple[list[DirectorId], list[ExperimentId]]:
    """Declare every director dead and free every experiment, under a higher fence: the rows are a restored copy.

    Returns the directors that seemed alive, and the experiments that seemed owned.
    """
    died = update(directors).where(directors.c.reaped_at.is_(None)).values(reaped_at=await tx.now())
    dead = [DirectorId(row.id) for row in await tx.execute(died.returning(directors.c.id))]
    rows = await tx.execute(select(E.id, E.director_id).order_by(E.id).with_for_update(key_share=True))
    freed = [ExperimentId(row.id) for row in rows if row.director_id is not None]
    await tx.execute(update(experiments).values(director_id=None, fence=E.fence + 1))
    return sorted(dead), freed


def pause_after(crashes: int) -> timedelta:
    """Return for how long an experiment is left alone after so many crashes in a row."""
    if crashes < PATIENT_CRASHES:
        return timedelta(0)
    return min(timedelta(seconds=10) * int(2 ** min(crashes - PATIENT_CRASHES, 20)), LONGEST_PAUSE)


def rests(claimable_from: datetime, now: datetime) -> timedelta:
    """Return for how long an experiment is left alone: not at all where the clock went back by more than any pause."""
    left = claimable_from - now
    return left if timedelta(0) < left <= LONGEST_PAUSE else timedelta(0)


def claimable(rules: frozenset[tuple[str, int]], *, reviews: bool) -> ColumnElement[bool]:
    """Say which experiments a director may take: those without an owner, whose plan and rule this code knows."""
    runs = experiments.c.state == literal_column(IN_PROGRESS)
    due = and_(experiments.c.state == literal_column(PENDING), literal_column("review_due"))
    return and_(
        # As the partial index says it; with bound parameters in place of the literals it would not be used.
        experiments.c.director_id.is_(None),
        or_(runs, due),
        true() if reviews else runs,
        E.plan_version <= literal_column(str(PLAN_VERSION)),
        # The same rule as in `rests`.
        or_(
            experiments.c.claimable_from <= bindparam("now", type_=experiments.c.claimable_from.type),
            experiments.c.claimable_from > bindparam("beyond", type_=experiments.c.claimable_from.type),
        ),
        or_(*(and_(E.rule == name, E.rule_version == version) for name, version in sorted(rules))),
    )


@cache
def candidates(rules: frozenset[tuple[str, int]], *, reviews: bool) -> Select[int]:
    """Select what may be claimed, first in rank first."""
    most = bindparam("most", type_=Integer)
    return select(E.id).where(claimable(rules, reviews=reviews)).order_by(E.rank, E.id).limit(most)


@cache
def claim_of(rules: frozenset[tuple[str, int]], *, reviews: bool, for_postgresql: bool) -> ReturningUpdate[int, int]:
    """Return the statement that claims."""
    found = candidates(rules, reviews=reviews)
    if not for_postgresql:
        chosen = found.scalar_subquery()
    else:
        # Materialized: otherwise the planner may run the limited subquery once per row and claim more than the limit.
        locked = found.with_for_update(key_share=True, skip_locked=True).cte("claimable").prefix_with("MATERIALIZED")
        chosen = select(locked.c.id).scalar_subquery()
    return (
        update(experiments)
        .where(E.id.in_(chosen), claimable(rules, reviews=reviews))
        .values(director_id=bindparam("me"), fence=E.fence + 1)
        .returning(E.id, E.fence)
    )


async def anything_to_claim(tx: Transaction, *, rules: Mapping[str, int], reviews: bool) -> bool:
    """Whether there may be something to claim; looking costs no lock."""
    found = candidates(frozenset(rules.items()), reviews=reviews)
    return (await tx.execute(found, await at_present(tx, most=1))).first() is not None


async def at_present(tx: Transaction, *, most: int) -> dict[str, Any]:
    """Return what a statement about claimable experiments is given."""
    now = await tx.now()
    return {"now": now, "beyond": now + LONGEST_PAUSE, "most": most}


async def claim(
    tx: Transaction, director_id: DirectorId, *, rules: Mapping[str, int], reviews: bool, limit: int
) -> tuple[list[Fence], bool]:
    """Take experiments that nobody owns, first in rank first, and only those whose rule this code has.

    Returns the fences, and whether there were some that somebody else held locked: ask again soon.
    """
    ours = frozenset(rules.items())
    statement = claim_of(ours, reviews=reviews, for_postgresql=tx.postgresql)
    claimed = await tx.execute(statement, await at_present(tx, most=limit) | {"me": director_id})
    fences = [Fence(ExperimentId(row.id), director_id, row.fence) for row in claimed]
    for fence in sorted(fences, key=lambda each: each.experiment_id):
        details = {"director": director_id, "fence": fence.number}
        await events.append(tx, fence.experiment_id, Occurrence(EventKind.EXPERIMENT_CLAIMED, details=details))
    missed = not fences and await anything_to_claim(tx, rules=rules, reviews=reviews)
    return fences, missed


async def owned(tx: Transaction, director_id: DirectorId) -> list[Fence]:
    """Return what a director owns according to the rows, which is what counts."""
    rows = await tx.execute(OWNED, {"me": director_id})
    return [Fence(ExperimentId(row.id), director_id, row.fence) for row in rows]


async def hold(tx: Transaction, fence: Fence, states: Sequence[ExperimentState]) -> Row[Any]:
    """Lock the experiment's row as its owner, and return it, unread; first in every transaction of an owner.

    Raises:
        LeaseLost: somebody else owns it, or it has ended.
    """
    mine = {"wanted": fence.experiment_id, "me": fence.director_id, "number": fence.number}
    row = (await tx.execute(HOLD, mine | {"states": list(states)})).first()
    if row is None:
        raise LeaseLost(f"experiment {fence.experiment_id} is no longer this director's (fence {fence.number})")
    return row


async def release(tx: Transaction, fence: Fence) -> bool:
    """Let an experiment go, so that another director may claim it at once."""
    released = await tx.execute(
        update(experiments)
        .where(
            experiments.c.id == fence.experiment_id,
            experiments.c.director_id == fence.director_id,
            experiments.c.fence == fence.number,
        )
        .values(director_id=None)
        .returning(experiments.c.id)
    )
    if released.first() is None:
        return False
    tx.wake(Topic.claim())
    return True
