"""The fold: the same bytes whatever the size of a chunk and the room in memory, and those of a plain average."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from director.domain import aggregation
from director.domain.tensors import Manifest
from director.domain.types import Tensors
from director.errors import NotFound
from director.services import folding
from director.services.budget import Budget
from director.store import contents, experiments
from director.store.leases import Fence
from tests.store.words import only_sqlite, owned
from tests.tables import blob_rows, changes
from tests.world import World, payload_of, world

TRAIN_ONLY = "rounds: 1\ntasks: [{name: train, kind: train, function: 'work:train'}]\n"
SAMPLES = {"a": 10, "b": 30, "c": 7}
MEBIBYTE = 1 << 20


def a_model(seed: int) -> Tensors:
    """Return a model with elements of several widths, none of whose tensors ends with a chunk."""
    numbers = np.random.default_rng(seed)
    return {
        "embedding": numbers.normal(size=(3750, 8)).astype(np.float32),
        "head": numbers.normal(size=1001).astype(np.float64),
        "norm": numbers.normal(size=333).astype(ml_dtypes.bfloat16),
        "half": numbers.normal(size=777).astype(np.float16),
        "steps": numbers.integers(-1000, 1000, 5).astype(np.int64),
        "mask": numbers.integers(0, 2, 13).astype(np.bool_),
    }


async def frozen(federation: World, updates: dict[str, Tensors]) -> Fence:
    """Have a round frozen with these updates; the first of them was the initial model, too."""
    fence = await owned(federation, envoys=tuple(updates), plan=TRAIN_ONLY, model=updates["a"])
    await federation.drive(fence)
    for envoy, update in updates.items():
        given = await federation.wait(envoy)
        await federation.contribute(given, envoy, "train", round_number=1, samples=SAMPLES[envoy], update=update)
    await federation.steps(fence).next()
    return fence


class Recording(Budget):
    """A budget that knows what it was asked for."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__(total_bytes)
        self.asked: list[int] = []

    def hold(self, size_bytes: int) -> AbstractAsyncContextManager[None]:
        self.asked.append(size_bytes)
        return super().hold(size_bytes)


async def fold(federation: World, fence: Fence, budget: Budget) -> bytes:
    """Fold the first round within a budget."""
    runtime = federation.process.runtime
    object.__setattr__(runtime, "budget", budget)
    async with federation.db.read() as tx:
        experiment = await experiments.get(tx, fence.experiment_id)
    blob = await folding.fold(runtime, experiment, fence, 1)
    return b"".join([data async for _, data in contents.chunks(federation.db, blob)])


def in_one_piece(updates: dict[str, Tensors]) -> bytes:
    """Fold whole payloads, with no chunk and no database anywhere."""
    payloads = [payload_of(update) for update in updates.values()]
    samples = np.array([SAMPLES[envoy] for envoy in updates], np.float64)
    rule = aggregation.rule("weighted_average")
    return aggregation.fold_part(rule, Manifest.of(updates["a"]), 0, payloads[0], payloads, samples)


def plain_average(updates: dict[str, Tensors]) -> dict[str, Any]:
    """Average as anybody would."""
    weights = [SAMPLES[envoy] for envoy in updates]
    return {
        name: np.average([update[name].astype(np.float64) for update in updates.values()], axis=0, weights=weights)
        for name in updates["a"]
    }


@pytest.mark.parametrize("chunk_bytes", [4096, 8192, MEBIBYTE])
async def test_fold_gives_the_same_bytes_whatever_the_size_of_a_chunk_and_the_room_in_memory(
    migrated_url: str, chunk_bytes: int
) -> None:
    updates = {envoy: a_model(seed) for seed, envoy in enumerate(SAMPLES)}

    async with world(migrated_url, chunk_bytes=chunk_bytes) as federation:
        fence = await frozen(federation, updates)
        payloads = [await fold(federation, fence, Budget(memory)) for memory in (1, MEBIBYTE, 256 * MEBIBYTE)]

    assert payloads == [in_one_piece(updates)] * 3


def test_fold_is_a_plain_average_rounded_to_the_type_of_each_tensor() -> None:
    updates = {envoy: a_model(seed) for seed, envoy in enumerate(SAMPLES)}

    folded = Manifest.of(updates["a"]).arrays(in_one_piece(updates))

    expected = plain_average(updates)
    assert np.array_equal(folded["mask"], expected.pop("mask") > 0.5)
    assert np.array_equal(folded["steps"], np.rint(expected.pop("steps")))
    for name, values in expected.items():
        rounding = float(ml_dtypes.finfo(folded[name].dtype).eps)
        np.testing.assert_allclose(folded[name].astype(np.float64), values, rtol=rounding, atol=rounding)


@only_sqlite
async def test_model_that_is_larger_than_the_budget_is_folded_within_it(migrated_url: str) -> None:
    memory = 16 * MEBIBYTE
    size = (memory + MEBIBYTE) // 4
    updates = {envoy: {"w": np.full(size, value, np.float32)} for envoy, value in [("a", 1.0), ("b", 5.0)]}
    budget = Recording(memory)

    async with world(migrated_url, memory_bytes=memory, chunk_bytes=MEBIBYTE) as federation:
        payload = await fold(federation, await frozen(federation, updates), budget)

    assert payload == payload_of({"w": np.full(size, 4.0, np.float32)})
    assert max(budget.asked) <= memory // folding.FOLDS_AT_ONCE


async def test_fold_that_was_interrupted_begins_again_and_leaves_one_result(federation: World) -> None:
    updates = {envoy: a_model(seed) for seed, envoy in enumerate(SAMPLES)}
    fence = await frozen(federation, updates)
    before = len(await blob_rows.uploads_left(federation.db))

    first = await fold(federation, fence, Budget(MEBIBYTE))
    second = await fold(federation, fence, Budget(1))

    assert first == second
    assert len(await blob_rows.uploads_left(federation.db)) == before + 1


async def test_fold_without_one_of_its_updates_makes_no_model(federation: World) -> None:
    fence = await frozen(federation, {envoy: a_model(seed) for seed, envoy in enumerate(SAMPLES)})
    await changes.lose_chunk(federation.db, "c", 3)

    with pytest.raises(NotFound):
        await fold(federation, fence, Budget(MEBIBYTE))


async def test_model_of_no_bytes_is_folded_into_another_one(federation: World) -> None:
    nothing: Tensors = {"weights": np.zeros(0, np.float32)}
    fence = await frozen(federation, {"a": nothing, "b": nothing})

    assert await fold(federation, fence, Budget(1 << 20)) == b""
