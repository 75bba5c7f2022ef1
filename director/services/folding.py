"""The fold: a frozen round's counted updates become the next model, column by column, within the budget of bytes.

It reads rows that no longer change, and writes into blobs that no row refers to yet. So it may stop anywhere, and the
next owner begins it again. Only closing the round makes its result count.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import numpy as np

from director.domain import aggregation
from director.domain.scoring import Measurement, weighted_metrics
from director.domain.tensors import check_finite
from director.domain.types import ExperimentId
from director.services.runtime import Runtime
from director.store import contents, contributions, metrics, models, stash
from director.store.contributions import Counted
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.leases import Fence
from director.store.stash import Blob, Upload

FOLDS_AT_ONCE = 4
"""How many folds the budget has room for; a larger share for each would gain nothing and leave none for uploads."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a fold reads: the base model, and the counted updates in the order of the envoys' names."""

    base: Blob
    updates: list[Blob]
    samples: list[int]


def upload_key(fence: Fence, round_number: int) -> str:
    """Return the upload key of a fold's result: one owner's, in one round."""
    return f"fold/{fence.experiment_id}/{fence.number}/{round_number}/model"


async def fold(runtime: Runtime, experiment: ExperimentRow, fence: Fence, round_number: int) -> Blob:
    """Fold a frozen round into its next model; return its bytes, complete in the stash and not yet taken.

    Raises:
        TensorMismatch: the result holds NaN or infinity.
        NotFound, Unavailable: the inputs or the result are gone, since another owner closed or abandoned the round.
    """
    async with runtime.db.read() as tx:
        inputs = await read_inputs(tx, experiment, round_number)
    settings, manifest = runtime.settings, experiment.manifest
    await runtime.disk.wait()
    async with runtime.db.write("begin fold") as tx:
        upload = await stash.begin_new(
            tx, upload_key(fence, round_number), manifest.size_bytes, chunk_bytes=settings.chunk_bytes
        )
    share = runtime.budget.total_bytes // FOLDS_AT_ONCE
    height = aggregation.column_bytes(share, len(inputs.updates), settings.chunk_bytes)
    writer = ChunkWriter(runtime, upload)
    rule = aggregation.rule(experiment.plan.rule)
    samples = np.array(inputs.samples, np.float64)
    for start in range(0, manifest.size_bytes, height):
        stop = min(start + height, manifest.size_bytes)
        await runtime.disk.wait()
        async with runtime.budget.hold((len(inputs.updates) + 3) * (stop - start)):
            async with runtime.db.read() as tx:
                base, *updates = [await contents.part(tx, blob, start, stop) for blob in (inputs.base, *inputs.updates)]

            def work(base: bytes = base, updates: list[bytes] = updates, start: int = start) -> bytes:
                part = aggregation.fold_part(rule, manifest, start, base, updates, samples)
                check_finite(manifest, part, start=start)
                return part

            await writer.write(await asyncio.to_thread(work))
    return await writer.close()


async def read_inputs(tx: Transaction, experiment: ExperimentRow, round_number: int) -> Inputs:
    """Read what a fold reads."""
    counted = await contributions.counted(tx, experiment.id, round_number)
    train = [each for each in counted if each.task == experiment.plan.train_task.name]
    base = await models.get(tx, experiment.id, round_number - 1)
    return Inputs(base.blob, contributions.updates(train), [each.samples for each in train])


class ChunkWriter:
    """Cuts bytes into chunks of a blob and hashes them on the way."""

    def __init__(self, runtime: Runtime, upload: Upload) -> None:
        """Begin at the blob's first byte."""
        self._runtime = runtime
        self._upload = upload
        self._hash = hashlib.sha256()
        self._rest = bytearray()
        self._number = 0
        self._sealed: Blob | None = None

    async def write(self, part: bytes) -> None:
        """Add bytes; whole chunks are stored, each in a transaction of its own."""
        await asyncio.to_thread(self._hash.update, part)
        size = self._upload.chunk_bytes
        self._rest += part
        while len(self._rest) >= size:
            await self._put(bytes(self._rest[:size]))
            del self._rest[:size]

    async def _put(self, data: bytes) -> None:
        """Store a chunk; with the last one the blob is complete."""
        upload = self._upload
        async with self._runtime.db.write("put fold chunk") as tx:
            await stash.put(tx, upload.blob_id, self._number, data)
            if self._number * upload.chunk_bytes + len(data) == upload.size_bytes:
                self._sealed = await self._seal(tx)
        self._runtime.disk.spend(len(data))
        self._number += 1

    async def _seal(self, tx: Transaction) -> Blob:
        return await stash.seal(tx, self._upload.blob_id, self._hash.hexdigest())

    async def close(self) -> Blob:
        """Store what is left, and return the blob, complete."""
        if self._rest:
            await self._put(bytes(self._rest))
        if self._sealed is None:  # a model of no bytes has no last chunk
            async with self._runtime.db.write("seal fold") as tx:
                self._sealed = await self._seal(tx)
        return self._sealed


async def aggregate_metrics(
    tx: Transaction, experiment_id: ExperimentId, round_number: int, counted: list[Counted]
) -> dict[tuple[str, str], float]:
    """Average the metrics of the contributions that count, by samples."""
    reported: dict[tuple[str, str], dict[str, float]] = {}
    for each in await metrics.of_round(tx, experiment_id, round_number):
        reported.setdefault((each.origin, each.task), {})[each.name] = each.value
    return weighted_metrics(
        Measurement(each.envoy, each.task, each.samples, reported.get((each.envoy, each.task), {})) for each in counted
    )
