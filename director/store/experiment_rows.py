"""One experiment as the director works with it: its row, and what never changes of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select

from director.domain.plan import Plan
from director.domain.tensors import Manifest
from director.domain.types import BlobId, ExperimentId, ExperimentState
from director.errors import InvalidPlan
from director.store.engine.database import Transaction
from director.store.tables import experiments

E = experiments.c
CHANGING = tuple(column.name for column in E if column.name not in ("plan", "manifest"))
"""The columns of an experiment without those that are kept in memory, since they never change."""
ROWS = select(*(E[name] for name in CHANGING))
OBJECT_BYTES = 8
"""What a byte of a stored plan takes in memory, as a document and as a plan; measured: 6 to 7."""
CONSTANTS = select(E.plan, E.manifest).where(E.id == bindparam("wanted"))


@dataclass(frozen=True, slots=True)
class Constants:
    """What an experiment was submitted with: its plan as it is stored, and as this code reads it; its manifest.

    A plan that this code cannot read is the error that says why. It concerns its own experiment only.
    """

    document: Mapping[str, Any]
    plan: Plan | InvalidPlan
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """An experiment's row, as the director works with it."""

    id: ExperimentId
    uid: str
    name: str
    owner: str
    state: ExperimentState
    reason: str | None
    constants: Constants
    manifest_digest: str
    archive_blob_id: BlobId | None
    seed: int
    priority: int
    rank: float
    rounds_total: int
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

    @property
    def plan(self) -> Plan:
        """The plan.

        Raises:
            InvalidPlan: this code cannot read it.
        """
        if isinstance(self.constants.plan, InvalidPlan):
            raise InvalidPlan(f"experiment {self.name!r}: {self.constants.plan}")
        return self.constants.plan

    @property
    def manifest(self) -> Manifest:
        """What its models hold."""
        return self.constants.manifest


async def experiment(tx: Transaction, row: Row[Any]) -> ExperimentRow:
    """Make an experiment of its row and of what never changes of it, which is kept in memory."""
    return ExperimentRow(
        id=ExperimentId(row.id),
        uid=row.uid,
        name=row.name,
        owner=row.owner,
        state=row.state,
        reason=row.reason,
        constants=await constants(tx, row.id),
        manifest_digest=row.manifest_digest,
        archive_blob_id=None if row.archive_blob_id is None else BlobId(row.archive_blob_id),
        seed=row.seed,
        priority=row.priority,
        rank=row.rank,
        rounds_total=row.rounds_total,
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


async def constants(tx: Transaction, experiment_id: int) -> Constants:
    """Return what an experiment was submitted with."""
    known: Constants | None = tx.recall(("constants", experiment_id))
    if known is None:
        row = (await tx.execute(CONSTANTS, {"wanted": experiment_id})).one()
        known = Constants(document_of(row.plan), read_plan(row.plan), Manifest.from_header(row.manifest))
        keep_constants(tx, experiment_id, known)
    return known


def keep_constants(tx: Transaction, experiment_id: int, known: Constants) -> None:
    """Let later transactions of this process find what never changes of an experiment."""
    size = len(known.manifest.encoded) + OBJECT_BYTES * len(json.dumps(known.document))
    tx.remember(("constants", experiment_id), known, lasting_bytes=size)


def document_of(stored: object) -> Mapping[str, Any]:
    """Return a stored plan as it is shown; a damaged one that is not a mapping is shown as an empty one."""
    return stored if isinstance(stored, Mapping) else {}


def read_plan(stored: object) -> Plan | InvalidPlan:
    """Read a stored plan, or return why it cannot be read."""
    try:
        return Plan.from_json(stored)
    except InvalidPlan as error:
        return error
