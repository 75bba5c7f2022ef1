"""Experiments: the row that is one experiment's mutex, and what users see of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Row, Select, bindparam, func, or_, select

from director.domain.commands import SubmitExperiment
from director.domain.content import Content
from director.domain.experiment import Experiment
from director.domain.names import is_uid
from director.domain.plan import PLAN_VERSION, Plan
from director.domain.tensors import Manifest
from director.domain.transitions import rank
from director.domain.types import CollaboratorState, ExperimentId, ExperimentState
from director.errors import AlreadyExists, ExperimentNotFound
from director.store import clock
from director.store.engine.database import Transaction
from director.store.experiment_rows import (
    CHANGING,
    ROWS,
    Constants,
    ExperimentRow,
    document_of,
    experiment,
    keep_constants,
)
from director.store.stash import Blob
from director.store.tables import collaborators, experiment_users, experiments, models

E = experiments.c
ID_BYTES = 256
"""What a remembered id takes, with its uid and its place in the cache."""
THE_ONE = E.id == bindparam("wanted")
BY_ID = ROWS.where(THE_ONE)
LOCK = BY_ID.with_for_update(key_share=True)
ID_OF = select(E.id).where(E.uid == bindparam("wanted"))
BY_SUBMISSION = ROWS.where(E.submission_id == bindparam("key"))
NAMED = select(E.id).where(E.name == bindparam("wanted"), E.removed_at.is_(None))
CONTENTS = (
    select(E.archive_digest, models.c.digest)
    .join(models, models.c.experiment_id == E.id)
    .where(THE_ONE, models.c.number == 0)
)
COUNTS = (
    select(collaborators.c.experiment_id, collaborators.c.state, func.count().label("number"))
    .where(collaborators.c.experiment_id.in_(bindparam("ids", expanding=True)))
    .group_by(collaborators.c.experiment_id, collaborators.c.state)
)
Counts = Mapping[CollaboratorState, int]


async def counts(tx: Transaction, ids: Sequence[int]) -> dict[int, dict[CollaboratorState, int]]:
    """Return how many collaborators of each experiment are in each state."""
    found: dict[int, dict[CollaboratorState, int]] = {each: {} for each in ids}
    for row in await tx.execute(COUNTS, {"ids": list(ids)}):
        found[row.experiment_id][row.state] = row.number
    return found


def described(row: "ExperimentRow | Row[Any]", counted: Counts) -> Experiment:
    """Return what users see of an experiment in a list."""
    return Experiment(
        uid=row.uid,
        name=row.name,
        owner=row.owner,
        state=row.state,
        reason=row.reason or "",
        round=row.round,
        rounds_total=row.rounds_total,
        collaborators=counted,
        best_model=row.best_model,
        best_score=row.best_score,
        last_model=row.last_model,
        priority=row.priority,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


async def seen(tx: Transaction, row: ExperimentRow) -> Experiment:
    """Return what users see of one experiment, without what it waits for and its plan."""
    return described(row, (await counts(tx, [row.id]))[row.id])


async def add(
    tx: Transaction,
    command: SubmitExperiment,
    *,
    owner: str,
    key: str,
    uid: str,
    plan: Plan,
    manifest: Manifest,
    archive: Blob,
    seed: int,
    review_due: bool,
    review_deadline: float | None,
) -> ExperimentRow:
    """Enter a new experiment; it is eligible at once unless a review is due.

    Raises:
        AlreadyExists: an experiment of this name exists.
    """
    document = plan.to_json()
    now, time = await tx.now(), await clock.now(tx)
    row = {
        "uid": uid,
        "name": command.name,
        "submission_id": key,
        "owner": owner,
        "state": ExperimentState.PENDING,
        "plan": document,
        "rule": plan.rule,
        "rule_version": plan.rule_version,
        "plan_version": PLAN_VERSION,
        "manifest": manifest.header,
        "manifest_digest": manifest.digest,
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
    keep_constants(tx, added.id, Constants(document, plan, manifest))
    return await experiment(tx, added)


async def by_submission(tx: Transaction, key: str) -> ExperimentRow | None:
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


async def find(tx: Transaction, which: str, *, caller: str | None) -> ExperimentRow:
    """Return an experiment by its uid or its name, as far as the caller sees it.

    Raises:
        ExperimentNotFound: it is absent, removed, or not the caller's.
    """
    named = E.uid == which.lower() if is_uid(which) else E.name == which
    row = (await tx.execute(visible_to(caller).where(named))).first()
    if row is None:
        raise ExperimentNotFound(f"there is no experiment {which!r}, or it is not yours")
    return await experiment(tx, row)


async def listed(
    tx: Transaction, *, caller: str | None, before: int | None, limit: int
) -> list[tuple[int, Experiment]]:
    """Return experiments that the caller sees and their ids, newest first."""
    found = visible_to(caller)
    if before is not None:
        found = found.where(E.id < before)
    rows = (await tx.execute(found.order_by(E.id.desc()).limit(limit))).all()
    counted = await counts(tx, [row.id for row in rows])
    return [(row.id, described(row, counted[row.id])) for row in rows]


async def documents(tx: Transaction, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Return the plans of experiments as they are stored."""
    rows = await tx.execute(select(E.id, E.plan).where(E.id.in_(ids)))
    return {row.id: document_of(row.plan) for row in rows}


async def id_of(tx: Transaction, uid: str) -> ExperimentId:
    """Return an experiment's id, which never changes.

    Raises:
        ExperimentNotFound: no experiment has this uid.
    """
    known: ExperimentId | None = tx.recall(("id", uid))
    if known is None:
        found = (await tx.execute(ID_OF, {"wanted": uid})).scalar_one_or_none()
        if found is None:
            raise ExperimentNotFound(f"there is no experiment {uid!r}, or it is not yours")
        known = ExperimentId(found)
        tx.remember(("id", uid), known, lasting_bytes=ID_BYTES)
    return known


async def get(tx: Transaction, experiment_id: ExperimentId) -> ExperimentRow:
    """Return an experiment by its id.

    Raises:
        ExperimentNotFound: no experiment has this id.
    """
    return await one(tx, BY_ID, experiment_id)


async def lock(tx: Transaction, experiment_id: ExperimentId) -> ExperimentRow:
    """Take the experiment's mutex, first in every transaction that changes anything of it.

    Raises:
        ExperimentNotFound: no experiment has this id.
    """
    return await one(tx, LOCK, experiment_id)


async def one(tx: Transaction, found: Executable, experiment_id: ExperimentId) -> ExperimentRow:
    """Return the one row of a query."""
    row = (await tx.execute(found, {"wanted": experiment_id})).first()
    if row is None:
        raise ExperimentNotFound("there is no such experiment")
    return await experiment(tx, row)


async def identities(tx: Transaction, ids: Sequence[int], *, caller: str | None) -> dict[int, tuple[str, str]]:
    """Return uid and name of those experiments that the caller sees."""
    rows = await tx.execute(visible_to(caller).where(E.id.in_(ids)))
    return {row.id: (row.uid, row.name) for row in rows}
