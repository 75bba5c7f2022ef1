"""Streams: every number up to the counter is there, and none beyond it."""

from typing import Any

from sqlalchemy import ColumnElement, Row, Table, bindparam, func, select

from director.domain.types import ExperimentId
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.fsck.findings import Check, Finding, FindingsPage, subject
from director.store.tables import FEDERATION_STREAM, events, experiments, federations, metrics

PAGE = 100_000


def numbers(table: Table, stream: ColumnElement[int]) -> Any:
    """Select how many rows of a stream follow a number, up to another one."""
    seq = table.c.seq
    return select(func.count().label("rows"), func.max(seq).label("last")).where(
        stream == bindparam("of"), seq > bindparam("after"), seq <= bindparam("until")
    )


METRICS = numbers(metrics, metrics.c.experiment_id)
EVENTS = numbers(events, events.c.stream)
COUNTERS = select(experiments.c.metric_seq, experiments.c.event_seq).where(experiments.c.id == bindparam("of"))
FEDERATION_COUNTER = select(federations.c.event_seq)
FIRST_EVENT = select(events.c.seq).where(events.c.stream == bindparam("of"), events.c.seq == 1)
BEYOND = 1 << 62


async def metric_stream(tx: Transaction, experiment: ExperimentRow, after: int | None) -> FindingsPage:
    """Check an experiment's metrics."""
    of = f"{subject(experiment)}: metrics"
    counter = (await counters(tx, experiment)).metric_seq
    return await page(tx, METRICS, experiment.id, counter, after or 0, Check.METRIC_STREAM, of)


async def event_stream(tx: Transaction, experiment: ExperimentRow, after: int | None) -> FindingsPage:
    """Check an experiment's events."""
    of = f"{subject(experiment)}: events"
    counter = (await counters(tx, experiment)).event_seq
    return await page(tx, EVENTS, experiment.id, counter, after or 0, Check.EVENT_STREAM, of)


async def counters(tx: Transaction, experiment: ExperimentRow) -> Row[Any]:
    """Return how far an experiment's streams are numbered."""
    return (await tx.execute(COUNTERS, {"of": experiment.id})).one()


async def federation_stream(tx: Transaction, after: int | None) -> FindingsPage:
    """Check the federation's own events; before the first director there are none."""
    counter = (await tx.execute(FEDERATION_COUNTER)).scalar_one_or_none() or 0
    of = "the federation's events"
    return await page(tx, EVENTS, FEDERATION_STREAM, counter, after or 0, Check.EVENT_STREAM, of)


async def page(
    tx: Transaction, query: Any, stream: int, counter: int, after: int, check: Check, of: str
) -> FindingsPage:
    """Check the numbers that follow one; the last page reaches beyond the counter.

    A number that is there never changes, so that pages of different moments fit together.
    """
    last = after + PAGE >= counter
    until = counter if last else after + PAGE
    row = (await tx.execute(query, {"of": stream, "after": after, "until": BEYOND if last else until})).one()
    findings = []
    if (row.rows, row.last) != (until - after, until if until > after else None):
        text = f"{of}: numbers {after + 1} to {until} are expected; there are {row.rows} rows up to {row.last or after}"
        findings.append(Finding(check, text))
    return FindingsPage(findings, None if last else until)


async def history_dropped(tx: Transaction, experiment: ExperimentRow) -> bool:
    """Whether retention has dropped a removed experiment's history, or is at it: its first event goes first."""
    if experiment.removed_at is None:
        return False
    return (await tx.execute(FIRST_EVENT, {"of": ExperimentId(experiment.id)})).first() is None
