"""Experiments: the row that is one experiment's mutex, and its guarded changes of state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, Row, Select, bindparam, delete, or_, select, update

from director.domain.messages import Content, SubmitExperiment
from director.domain.plan import Plan
from director.domain.tensors import Manifest
from director.domain.transitions import rank, sources
from director.domain.types import BlobId, ExperimentId, ExperimentState
from director.errors import AlreadyExists, ExperimentNotFound
from director.store import clock
from director.store.engine.database import Transaction
from director.store.stash import Blob
from director.store.tables import experiment_users, experiments, models

E = experiments.c
CHANGING = tuple(column.name for column in E if column.name not in ("plan", "manifest"))
"""The columns of an experiment without those that are kept in memory, since they never change."""
ROWS = select(*(E[name] for name in CHANGING))
THE_ONE = E.id == bindparam("wanted")
BY_ID = ROWS.where(THE_ONE)
LOCK = BY_ID.with_for_update(key_share=True)
CONSTANTS = select(E.plan, E.manifest).where(THE_ONE)
BY_SUBMISSION = ROWS.where(E.submission_id == bindparam("key"))
NAMED = select(E.id).where(E.name == bindparam("wanted"), E.removed_at.is_(None))
CONTENTS = (
    select(E.archive_digest, models.c.digest)
    .join(models, models.c.experiment_id == E.id)
    .where(THE_ONE, models.c.number == 0)
)
START = (
    update(experiments)
    .where(THE_ONE, E.state.in_(sources(ExperimentState.IN_PROGRESS)), E.eligible_at.is_not(None))
    .values(state=ExperimentState.IN_PROGRESS, started_at=bindparam("instant"), queued_seconds=bindparam("length"))
    .returning(E.id)
)
END = (
    update(experiments)
    .where(THE_ONE, E.state.in_(bindparam("states", expanding=True)))
    .values(
        state=bindparam("to"),
        reason=bindparam("why"),
        finished_at=bindparam("instant"),
        review_due=False,
        director_id=None,
        fence=E.fence + 1,
    )
    .returning(E.started_at)
)
RAN = update(experiments).where(THE_ONE).values(running_seconds=bindparam("length"))
SET_ROUND = update(experiments).where(THE_ONE).values(round=bindparam("number"), crashes=0)
SET_LAST_MODEL = update(experiments).where(THE_ONE).values(last_model=bindparam("model"), crashes=0)
SET_BEST = update(experiments).where(THE_ONE).values(best_model=bindparam("model"), best_score=bindparam("score"))
RESET_CRASHES = update(experiments).where(THE_ONE).values(crashes=0)


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment's row."""

    id: ExperimentId
    name: str
    owner: str
    state: ExperimentState
    reason: str | None
    plan: Plan
    manifest: Manifest
    archive_blob_id: BlobId | None
    seed: int
    priority: int
    rank: float
    round: int
    last_model: int
    best_model: int | None
    best_score: float | None
    review_due: bool
    review_deadline: float | None
    submitted_at: datetime
    eligible_at: datetime | None
    eligible_service: float | None
    started_at: datetime | None
    finished_at: datetime | None
    removed_at: datetime | None
    director_id: str | None
    fence: int
    crashes: int
    claimable_from: datetime


async def experiment(tx: Transaction, row: Row[Any]) -> Experiment:
    """Make an experiment of its row and of its plan and manifest, which never change and are kept in memory."""
    plan, manifest = await constants(tx, row.id)
    return Experiment(
        id=ExperimentId(row.id),
        name=row.name,
        owner=row.owner,
        state=row.state,
        reason=row.reason,
        plan=plan,
        manifest=manifest,
        archive_blob_id=None if row.archive_blob_id is None else BlobId(row.archive_blob_id),
        seed=row.seed,
        priority=row.priority,
        rank=row.rank,
        round=row.round,
        last_model=row.last_model,
        best_model=row.best_model,
        best_score=row.best_score,
        review_due=row.review_due,
        review_deadline=row.review_deadline_service,
        submitted_at=row.submitted_at,
        eligible_at=row.eligible_at,
        eligible_service=row.eligible_service,
        started_at=row.started_at,
        finished_at=row.finished_at,
        removed_at=row.removed_at,
        director_id=row.director_id,
        fence=row.fence,
        crashes=row.crashes,
        claimable_from=row.claimable_from,
    )


async def constants(tx: Transaction, experiment_id: int) -> tuple[Plan, Manifest]:
    """Return what an experiment was submitted with."""
    known: tuple[Plan, Manifest] | None = tx.memory.get(("constants", experiment_id))
    if known is None:
        row = (await tx.execute(CONSTANTS, {"wanted": experiment_id})).one()
        known = Plan.from_json(row.plan), Manifest.from_json(row.manifest)
        tx.memory["constants", experiment_id] = known
    return known


async def add(
    tx: Transaction,
    command: SubmitExperiment,
    *,
    owner: str,
    key: str,
    plan: Plan,
    archive: Blob,
    seed: int,
    review_due: bool,
    review_deadline: float | None,
) -> Experiment:
    """Enter a new experiment; it is eligible at once unless a review is due.

    Raises:
        AlreadyExists: an experiment of this name exists.
    """
    now, time = await tx.now(), await clock.now(tx)
    row = {
        "name": command.name,
        "submission_id": key,
        "owner": owner,
        "state": ExperimentState.PENDING,
        "plan": plan.to_json(),
        "rule": plan.rule,
        "rule_version": plan.rule_version,
        "manifest": command.manifest.to_json(),
        "archive_digest": archive.digest,
        "archive_blob_id": archive.id,
        "seed": seed,
        "priority": command.priority,
        "rank": rank(now.timestamp(), command.priority),
        "rounds_total": plan.rounds,
        "round": 0,
        "last_model": 0,
        "review_due": review_due,
        "review_deadline_service": review_deadline,
        "submitted_at": now,
        "eligible_at": None if review_due or plan.manual_review else now,
        "eligible_service": None if review_due or plan.manual_review else time.now,
        "fence": 0,
        "crashes": 0,
        "claimable_from": now,
        "metric_seq": 0,
        "event_seq": 0,
    }
    added = await tx.add_if_absent(experiments, row, *CHANGING)
    if added is None:
        raise AlreadyExists(f"an experiment named {command.name!r} exists already; pick another name")
    users = sorted(set(command.users) - {owner})
    await tx.add(experiment_users, *({"experiment_id": added.id, "user_name": user} for user in users))
    tx.memory["constants", added.id] = plan, command.manifest
    return await experiment(tx, added)


async def by_submission(tx: Transaction, key: str) -> Experiment | None:
    """Return what an earlier call of the same submission made."""
    row = (await tx.execute(BY_SUBMISSION, {"key": key})).first()
    return await experiment(tx, row) if row is not None else None


async def holds(tx: Transaction, experiment_id: ExperimentId, *, archive: Content, model: Content) -> bool:
    """Whether an experiment was made of this archive and this initial model."""
    row = (await tx.execute(CONTENTS, {"wanted": experiment_id})).one()
    return (row.archive_digest, row.digest) == (archive.digest, model.digest)


async def name_taken(tx: Transaction, name: str) -> bool:
    """Whether an experiment that was not removed has this name."""
    return (await tx.execute(NAMED, {"wanted": name})).first() is not None


def visible_to(caller: str | None) -> Select[Any]:
    """Select the experiments that a user sees: own and shared; None sees all."""
    found = ROWS.where(E.removed_at.is_(None))
    if caller is None:
        return found
    shared = select(experiment_users.c.experiment_id).where(experiment_users.c.user_name == caller)
    return found.where(or_(E.owner == caller, E.id.in_(shared)))


async def find(tx: Transaction, name: str, *, caller: str | None) -> Experiment:
    """Return an experiment by name, as far as the caller sees it.

    Raises:
        ExperimentNotFound: it is absent, removed, or not the caller's.
    """
    row = (await tx.execute(visible_to(caller).where(E.name == name))).first()
    if row is None:
        raise ExperimentNotFound(f"there is no experiment {name!r}, or it is not yours")
    return await experiment(tx, row)


async def listed(tx: Transaction, *, caller: str | None, before: int | None, limit: int) -> list[Experiment]:
    """Return experiments that the caller sees, newest first."""
    found = visible_to(caller)
    if before is not None:
        found = found.where(E.id < before)
    rows = (await tx.execute(found.order_by(E.id.desc()).limit(limit))).all()
    return [await experiment(tx, row) for row in rows]


async def get(tx: Transaction, experiment_id: ExperimentId) -> Experiment:
    """Return an experiment by its id.

    Raises:
        ExperimentNotFound: there is none.
    """
    return await one(tx, BY_ID, experiment_id)


async def lock(tx: Transaction, experiment_id: ExperimentId) -> Experiment:
    """Take the experiment's mutex, first in every transaction that changes anything of it.

    Raises:
        ExperimentNotFound: there is none.
    """
    return await one(tx, LOCK, experiment_id)


async def one(tx: Transaction, found: Executable, experiment_id: ExperimentId) -> Experiment:
    """Return the one row of a query."""
    row = (await tx.execute(found, {"wanted": experiment_id})).first()
    if row is None:
        raise ExperimentNotFound("there is no such experiment")
    return await experiment(tx, row)


async def start(tx: Transaction, experiment_id: ExperimentId, *, eligible_at: datetime) -> bool:
    """Make a pending experiment run; False if it is not pending any more. The caller holds its row, and has read it."""
    now = await tx.now()
    starting = {"wanted": experiment_id, "instant": now, "length": (now - eligible_at).total_seconds()}
    if (await tx.execute(START, starting)).first() is None:
        return False
    tx.wake(("experiment", experiment_id), ("claim", 0))
    return True


async def end(tx: Transaction, experiment_id: ExperimentId, state: ExperimentState, *, reason: str | None) -> bool:
    """Make an experiment end; False if it has ended already. Its owner loses it. The caller holds its row."""
    now = await tx.now()
    ended = {"wanted": experiment_id, "to": state, "why": reason, "instant": now, "states": sources(state)}
    row = (await tx.execute(END, ended)).first()
    if row is None:
        return False
    if row.started_at is not None:
        await tx.execute(RAN, {"wanted": experiment_id, "length": (now - row.started_at).total_seconds()})
    tx.wake(("experiment", experiment_id), ("admission", 0))
    return True


async def approve(tx: Transaction, experiment_id: ExperimentId, *, priority: int) -> bool:
    """Make a pending experiment eligible; False if it waits for no review. The caller holds its row."""
    now, time = await tx.now(), await clock.now(tx)
    approved = await tx.execute(
        update(experiments)
        .where(E.id == experiment_id, E.state == ExperimentState.PENDING, E.eligible_at.is_(None))
        .values(
            review_due=False,
            director_id=None,
            eligible_at=now,
            eligible_service=time.now,
            rank=rank(now.timestamp(), priority),
        )
        .returning(E.id)
    )
    if approved.first() is None:
        return False
    tx.wake(("experiment", experiment_id), ("admission", 0))
    return True


async def set_round(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Store the round that is open now. The caller holds its row."""
    await tx.execute(SET_ROUND, {"wanted": experiment_id, "number": number})


async def set_last_model(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Store the newest model. The caller holds its row."""
    await tx.execute(SET_LAST_MODEL, {"wanted": experiment_id, "model": number})


async def reset_crashes(tx: Transaction, experiment_id: ExperimentId) -> None:
    """Forget the crashes: something went well. The caller holds its row."""
    await tx.execute(RESET_CRASHES, {"wanted": experiment_id})


async def set_best(tx: Transaction, experiment_id: ExperimentId, model: int, score: float) -> None:
    """Store which model is best. The caller holds its row."""
    await tx.execute(SET_BEST, {"wanted": experiment_id, "model": model, "score": score})


async def remove(tx: Transaction, experiment_id: ExperimentId) -> bool:
    """Take an ended experiment from its users' lists; its history stays. The caller holds its row."""
    removed = await tx.execute(
        update(experiments)
        .where(E.id == experiment_id, E.finished_at.is_not(None), E.removed_at.is_(None))
        .values(removed_at=await tx.now(), archive_blob_id=None)
        .returning(E.id)
    )
    if removed.first() is None:
        return False
    await tx.execute(delete(experiment_users).where(experiment_users.c.experiment_id == experiment_id))
    return True


async def names(tx: Transaction, ids: Sequence[int], *, caller: str | None) -> dict[int, str]:
    """Return the names of those experiments that the caller sees."""
    rows = await tx.execute(visible_to(caller).where(E.id.in_(ids)))
    return {row.id: row.name for row in rows}
