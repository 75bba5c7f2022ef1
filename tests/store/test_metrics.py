"""A metric stream is complete: numbered without a gap, every number as it was measured."""

import asyncio
import itertools
import math
import sys

import pytest

from director.domain.history import Cursor, Measured, Metric
from director.domain.types import ExperimentId
from director.store import experiments, metrics
from director.store.engine.columns import Real
from director.store.engine.database import Database
from tests.store.words import running
from tests.tables import changes, experiment_rows, result_rows
from tests.world import World


@pytest.fixture
async def experiment_id(federation: World) -> ExperimentId:
    """An experiment that nothing was measured in."""
    return await running(federation)


async def append(db: Database, experiment_id: ExperimentId, *measured: Measured) -> None:
    async with db.write("append") as tx:
        await experiments.lock(tx, experiment_id)
        await metrics.append(tx, experiment_id, measured)


async def after(db: Database, experiment_id: ExperimentId, seq: int = 0, *, limit: int = 1000) -> list[Metric]:
    async with db.read() as tx:
        return await metrics.after(tx, experiment_id, seq, name="stream", epoch="1", limit=limit)


def loss(value: float, *, round_number: int = 1, origin: str = "a") -> Measured:
    return Measured(round_number, origin, "validate", "loss", value)


async def test_metric_is_read_as_it_was_measured(db: Database, experiment_id: ExperimentId) -> None:
    async with db.write("append") as tx:
        await metrics.append(tx, experiment_id, [Measured(3, "ä", "validate", "loss ✓", 0.1)])
        at = await tx.now()

    assert await after(db, experiment_id) == [Metric(Cursor("stream", "1", 1), "ä", "validate", "loss ✓", 0.1, 3, at)]


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 1.0, 1e300, -1e-300, math.pi, math.inf, -math.inf, sys.float_info.min, 5e-324, sys.float_info.max],
)
async def test_number_comes_back_to_the_bit(db: Database, experiment_id: ExperimentId, value: float) -> None:
    await append(db, experiment_id, loss(value))

    [found] = await after(db, experiment_id)

    assert found.value == value
    assert isinstance(found.value, float)


async def test_nan_comes_back_and_averages_in_sql_pass_it_over(db: Database, experiment_id: ExperimentId) -> None:
    await append(db, experiment_id, loss(math.nan), loss(1.0), loss(3.0))

    found = await after(db, experiment_id)

    assert [math.isnan(each.value) for each in found] == [True, False, False]
    assert await result_rows.mean_metric_by_sql(db) == 2.0
    assert [each.value for each in await result_rows.metrics(db)] == [None, 1.0, 3.0]


def test_only_nan_is_stored_as_null() -> None:
    assert [Real().process_bind_param(value, None) for value in (math.nan, None, 1, math.inf)] == [  # type: ignore[arg-type]
        None,
        None,
        1.0,
        math.inf,
    ]


async def test_nothing_measured_changes_nothing(db: Database, experiment_id: ExperimentId) -> None:
    await append(db, experiment_id)

    assert await experiment_rows.numbers_of_metrics(db) == [0]


async def test_metrics_keep_the_order_they_were_given_in(db: Database, experiment_id: ExperimentId) -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    await append(db, experiment_id, *(loss(value) for value in values))
    await append(db, experiment_id, loss(3.0))

    found = await after(db, experiment_id)

    assert [(each.cursor.seq, each.value) for each in found] == [*enumerate([*values, 3.0], start=1)]
    assert [each.cursor.seq for each in await after(db, experiment_id, 2, limit=2)] == [3, 4]


async def test_metrics_are_read_in_order_however_they_lie(db: Database, experiment_id: ExperimentId) -> None:
    await changes.add_metrics(db, experiment_id, [3, 1, 4, 2])

    assert [each.cursor.seq for each in await after(db, experiment_id)] == [1, 2, 3, 4]


async def test_metrics_of_a_round_are_its_own(db: Database, experiment_id: ExperimentId) -> None:
    await append(db, experiment_id, loss(0.1), loss(0.2, round_number=2), loss(0.3))
    other = await changes.clone(db, experiment_id, "other")
    await append(db, other, loss(9.0))

    async with db.read() as tx:
        found = await metrics.of_round(tx, experiment_id, 1)

    assert found == [loss(0.1), loss(0.3)]


async def test_streams_are_without_a_gap_under_concurrent_writers(db: Database, experiment_id: ExperimentId) -> None:
    other = await changes.clone(db, experiment_id, "other")

    async def write(number: int) -> None:
        await append(
            db, (experiment_id, other)[number % 2], *(loss(0.5, origin=f"{number}") for _ in range(number % 4))
        )

    async def follow(stream: ExperimentId, count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            found += [each.cursor.seq for each in await after(db, stream, found[-1] if found else 0, limit=7)]
            await asyncio.sleep(0)
        return found

    counts = [sum(number % 4 for number in range(40) if number % 2 == stream) for stream in range(2)]
    async with asyncio.timeout(20):
        *seen, _ = await asyncio.gather(
            follow(experiment_id, counts[0]),
            follow(other, counts[1]),
            asyncio.gather(*(write(number) for number in range(40))),
        )

    assert seen == [list(range(1, count + 1)) for count in counts]
    origins = [each.origin for each in await result_rows.metrics(db, other)]
    assert len([*itertools.groupby(origins)]) == 20, "what one transaction wrote stays together"
