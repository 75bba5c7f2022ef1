"""What a worker works on: a shard, a model, and tasks."""

from pathlib import Path

import ml_dtypes
import numpy as np

from director.domain.tensors import Manifest, payload_pieces
from director.envoy.protocol import RunTask

SHARD = """
from director.envoy.shard_descriptor import ShardDescriptor

class Numbers(ShardDescriptor):
    sample_shape = target_shape = ()

    def __init__(self, first=1):
        self.first = first

    def get_dataset(self, kind):
        return [self.first, kind]
"""
MODEL = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5, -0.5]),
    "half": np.ones(3, ml_dtypes.bfloat16),
    "steps": np.array(7, np.int64),
}


def task(workspace: Path, code: str, *, kind: str = "validate", model=MODEL, settings=None) -> RunTask:
    """Write a task's code and its model, and return the command that runs it."""
    (workspace / "task_code.py").write_text(code)
    manifest = Manifest.of(model)
    (workspace / "model").write_bytes(b"".join(payload_pieces(manifest, model)))
    (workspace / "manifest").write_bytes(manifest.encoded)
    return RunTask(
        name="a task",
        kind=kind,
        function="task_code:run",
        settings=settings or {},
        round=3,
        model=str(workspace / "model"),
        manifest=str(workspace / "manifest"),
        update=str(workspace / "update"),
    )
