"""Metrics: numbered without a gap within their experiment, so that a reader's cursor is all it needs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, Row, bindparam, select, update

from director.domain.history import Cursor, Measured, Metric
from director.domain.types import ExperimentId
from director.store.engine.database import Transaction
from director.store.tables import experiments, metrics

COUNT = (
    update(experiments)
    .where(experiments.c.id == bindparam("experiment"))
    .values(metric_seq=experiments.c.metric_seq + bindparam("number"))
    .returning(experiments.c.metric_seq)
)
OF_EXPERIMENT = select(metrics).where(metrics.c.experiment_id == bindparam("experiment")).order_by(metrics.c.seq)
AFTER = OF_EXPERIMENT.where(metrics.c.seq > bindparam("cursor")).limit(bindparam("page", type_=Integer))
OF_ROUND = OF_EXPERIMENT.where(metrics.c.round == bindparam("number"))


async def append(tx: Transaction, experiment_id: ExperimentId, measured: Sequence[Measured]) -> None:
    """Store metrics, in the order given. The caller holds the experiment's row."""
    if not measured:
        return
    counted = await tx.execute(COUNT, {"experiment": experiment_id, "number": len(measured)})
    first = counted.scalar_one() - len(measured) + 1
    at = await tx.now()
    rows = [
        {
            "experiment_id": experiment_id,
            "seq": first + index,
            "round": each.round,
            "origin": each.origin,
            "task": each.task,
            "name": each.name,
            "value": each.value,
            "recorded_at": at,
        }
        for index, each in enumerate(measured)
    ]
    await tx.add(metrics, *rows)


async def after(
    tx: Transaction, experiment_id: ExperimentId, seq: int, *, name: str, epoch: str, limit: int
) -> list[Metric]:
    """Return the next metrics, in order; their cursors carry the stream's name and the epoch."""
    rows = await tx.execute(AFTER, {"experiment": experiment_id, "cursor": seq, "page": limit})
    return [
        Metric(
            cursor=Cursor(name, epoch, row.seq),
            origin=row.origin,
            task=row.task,
            name=row.name,
            value=value_of(row),
            round=row.round,
            recorded_at=row.recorded_at,
        )
        for row in rows.all()
    ]


async def of_round(tx: Transaction, experiment_id: ExperimentId, round_number: int) -> list[Measured]:
    """Return all metrics of a round, in order."""
    rows = await tx.execute(OF_ROUND, {"experiment": experiment_id, "number": round_number})
    return [Measured(row.round, row.origin, row.task, row.name, value_of(row)) for row in rows.all()]


def value_of(row: Row[Any]) -> float:
    """Read a value; NULL is NaN."""
    return float("nan") if row.value is None else float(row.value)
