"""A metric stream is complete: numbered without a gap, every number as it was measured."""

import asyncio
import itertools
import math
import sys

import pytest

from director.domain.types import ExperimentId
from director.store import experiments, metrics
from director.store.engine.columns import Real
from director.store.engine.database import Database
from director.store.metrics import Measured, Recorded
from tests.store.words import clone, one, rows, running
from tests.world import World


@pytest.fixture
async def experiment_id(federation: World) -> ExperimentId:
    """An experiment that nothing was measured in."""
    return await running(federation)


async def append(db: Database, experiment_id: ExperimentId, *measured: Measured) -> None:
    async with db.write("append") as tx:
        await experiments.lock(tx, experiment_id)
        await metrics.append(tx, experiment_id, measured)


async def after(db: Database, experiment_id: ExperimentId, seq: int = 0, *, limit: int = 1000) -> list[Recorded]:
    async with db.read() as tx:
        return await metrics.after(tx, experiment_id, seq, limit=limit)


def loss(value: float, *, round_number: int = 1, origin: str = "a") -> Measured:
    return Measured(round_number, origin, "validate", "loss", value)


async def test_metric_is_read_as_it_was_measured(db: Database, experiment_id: ExperimentId) -> None:
    async with db.write("append") as tx:
        await metrics.append(tx, experiment_id, [Measured(3, "ä", "validate", "loss ✓", 0.1)])
        at = await tx.now()

    assert await after(db, experiment_id) == [Recorded(3, "ä", "validate", "loss ✓", 0.1, 1, at)]


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
    assert await one(db, "SELECT avg(value) FROM metrics") == 2.0
    assert await one(db, "SELECT value FROM metrics WHERE seq = 1") is None


def test_only_nan_is_stored_as_null() -> None:
    assert [Real().process_bind_param(value, None) for value in (math.nan, None, 1, math.inf)] == [  # type: ignore[arg-type]
        None,
        None,
        1.0,
        math.inf,
    ]


async def test_nothing_measured_changes_nothing(db: Database, experiment_id: ExperimentId) -> None:
    await append(db, experiment_id)

    assert await one(db, "SELECT metric_seq FROM experiments") == 0


async def test_metrics_keep_the_order_they_were_given_in(db: Database, experiment_id: ExperimentId) -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    await append(db, experiment_id, *(loss(value) for value in values))
    await append(db, experiment_id, loss(3.0))

    found = await after(db, experiment_id)

    assert [(each.seq, each.value) for each in found] == [*enumerate([*values, 3.0], start=1)]
    assert [each.seq for each in await after(db, experiment_id, 2, limit=2)] == [3, 4]


async def test_metrics_are_read_in_order_however_they_lie(db: Database, experiment_id: ExperimentId) -> None:
    row = {"experiment_id": experiment_id, "round": 1, "origin": "a", "task": "train", "name": "loss", "value": 1.0}
    async with db.write("append") as tx:
        at = await tx.now()
        await tx.add(metrics.metrics, *(row | {"seq": seq, "recorded_at": at} for seq in (3, 1, 4, 2)))

    assert [each.seq for each in await after(db, experiment_id)] == [1, 2, 3, 4]


async def test_metrics_of_a_round_are_its_own(db: Database, experiment_id: ExperimentId) -> None:
    await append(db, experiment_id, *(loss(float(number), round_number=number) for number in (1, 2, 1)))
    other = await clone(db, experiment_id, "other", metric_seq=0)
    await append(db, other, loss(9.0))

    async with db.read() as tx:
        found = await metrics.of_round(tx, experiment_id, 1)

    assert [each.seq for each in found] == [1, 3]


async def test_streams_are_without_a_gap_under_concurrent_writers(db: Database, experiment_id: ExperimentId) -> None:
    other = await clone(db, experiment_id, "other")

    async def write(number: int) -> None:
        await append(
            db, (experiment_id, other)[number % 2], *(loss(0.5, origin=f"{number}") for _ in range(number % 4))
        )

    async def follow(stream: ExperimentId, count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            found += [each.seq for each in await after(db, stream, found[-1] if found else 0, limit=7)]
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
    origins = await rows(db, "SELECT origin FROM metrics WHERE experiment_id = :id ORDER BY seq", id=other)
    assert len([*itertools.groupby(origins)]) == 20, "what one transaction wrote stays together"
