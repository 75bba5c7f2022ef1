"""Retired envoys and the experiments that they still take part in."""

from dataclasses import dataclass

from sqlalchemy import select

from director.domain.transitions import collaborator_sources
from director.domain.types import CollaboratorState, ExperimentId
from director.store.engine.database import Transaction
from director.store.tables import collaborators, shards

STEP = 500
"""Parts read at a time."""

OPEN = (
    select(collaborators.c.experiment_id, collaborators.c.envoy)
    .join(shards, shards.c.envoy == collaborators.c.envoy)
    .where(shards.c.retired_at.is_not(None), collaborators.c.state.in_(collaborator_sources(CollaboratorState.FAILED)))
)


@dataclass(frozen=True, slots=True)
class Part:
    """A retired envoy's part in an experiment."""

    experiment_id: ExperimentId
    envoy: str


async def open_parts(tx: Transaction) -> list[Part]:
    """Return parts that retired envoys still have, some at a time."""
    rows = await tx.execute(OPEN.order_by(collaborators.c.experiment_id, collaborators.c.envoy).limit(STEP))
    return [Part(ExperimentId(row.experiment_id), row.envoy) for row in rows]


async def is_open(tx: Transaction, part: Part) -> bool:
    """Whether a retired envoy still has this part. The caller holds the experiment's row."""
    this = OPEN.where(collaborators.c.experiment_id == part.experiment_id, collaborators.c.envoy == part.envoy)
    return (await tx.execute(this)).first() is not None
