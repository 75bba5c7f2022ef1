"""Folding a part of a payload: the same bytes of every update, whatever they hold."""

from collections.abc import Sequence

import numpy as np

from director.domain.aggregation.rules import Rule
from director.domain.tensors import ALIGNMENT, Manifest
from director.domain.types import Floats
from director.errors import TensorMismatch

Buffer = bytes | bytearray | memoryview

SMALLEST_COLUMN = ALIGNMENT * 4096
LARGEST_COLUMN = 16 * 1024 * 1024


def fold_part(
    rule: Rule, manifest: Manifest, start: int, base: Buffer, updates: Sequence[Buffer], samples: Floats
) -> bytes:
    """Apply a rule to one part of a payload; return the next model's bytes of that part.

    The result has the same bits however the payload is cut into parts.

    Args:
        rule: the plan's rule.
        manifest: what the model and each update hold.
        start: the part's offset in the payload; a multiple of `ALIGNMENT`.
        base: the base model's bytes of the part, to the end of the payload or for a multiple of `ALIGNMENT`.
        updates: the collaborators' bytes of the part, in envoy order.
        samples: their training samples, in the same order.

    Raises:
        TensorMismatch: an update is not as long as the base.
    """
    if any(len(update) != len(base) for update in updates):
        raise TensorMismatch(f"an update's part at byte {start} is not as long as the model's")
    folded = []
    for segment in manifest.within(start, start + len(base)):
        count = (segment.stop - segment.start) // segment.dtype.itemsize
        values, *columns = (np.frombuffer(each, segment.dtype, count, segment.start) for each in (base, *updates))
        folded.append(rule.fold(values, columns, samples).view(np.uint8).data)
    return b"".join(folded)


def column_bytes(budget_bytes: int, collaborators: int, chunk_bytes: int) -> int:
    """Return the largest column with which the base, the updates, the result and its copy fit into the budget.

    Columns begin and end with chunks, or with halves, quarters … of chunks, where that is possible: then most are read
    without their neighbours. A budget too small for the smallest column is exceeded.

    Units: bytes; the height is a multiple of `ALIGNMENT`.
    """
    height = min(max(budget_bytes // (collaborators + 3), SMALLEST_COLUMN), LARGEST_COLUMN)
    step = chunk_bytes
    while step > height and step % (2 * ALIGNMENT) == 0:
        step //= 2
    if step > height:
        step = ALIGNMENT
    return max(height - height % step, SMALLEST_COLUMN)
