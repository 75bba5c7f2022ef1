"""Check what a user's function returned, and write a trained model as the payload that is sent."""

import hashlib
import operator
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from director.domain.limits import MAX_SAMPLES
from director.domain.tensors import Manifest, check_finite, payload_pieces
from director.domain.types import Array, TaskKind, Tensors
from director.envoy.protocol import TaskDone
from director.errors import InvalidArgument, TensorMismatch

PIECE_BYTES = 16 << 20
EXPECTED = {
    TaskKind.TRAIN: (3, "(model, samples, metrics)"),
    TaskKind.VALIDATE: (2, "(samples, metrics)"),
}


def finish(kind: TaskKind, returned: Any, *, manifest: Manifest, update: Path) -> TaskDone:
    """Check what a task's function returned, and write the update of a train task to a file.

    A trained model is compared with the manifest of the model that was given, before anything is written or sent.

    Raises:
        InvalidArgument: it is not what such a task returns.
        TensorMismatch: the tensors are not the model's; the text names the tensor that differs.
    """
    length, form = EXPECTED[kind]
    if not isinstance(returned, tuple) or len(returned) != length:
        raise InvalidArgument(f"a {kind} function returns {form}, not {_kind_of(returned)}")
    *model, samples, metrics = returned
    done = TaskDone(samples=checked_samples(samples), metrics=checked_metrics(metrics))
    if kind is TaskKind.VALIDATE:
        return done
    arrays = checked_model(model[0], manifest)
    digest = write_payload(update, manifest, arrays)
    return TaskDone(done.samples, done.metrics, size_bytes=manifest.size_bytes, sha256=digest)


def checked_samples(samples: Any) -> int:
    """Return the number of samples as an int.

    Raises:
        InvalidArgument: it is not a whole number from 1 to 2**53.
    """
    try:
        count = operator.index(samples)
    except TypeError:
        count = 0
    if isinstance(samples, bool) or not 1 <= count <= MAX_SAMPLES:
        raise InvalidArgument(f"samples is a whole number of at least 1, not {samples!r:.80}")
    return count


def checked_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics as floats by name; numbers of NumPy and of other libraries are accepted too.

    Raises:
        InvalidArgument: it is not a mapping from names to numbers.
    """
    if not isinstance(metrics, Mapping):
        raise InvalidArgument(f"metrics are a mapping from names to numbers, not {_kind_of(metrics)}")
    return {_metric_name(name): _number(name, value) for name, value in metrics.items()}


def checked_model(model: Any, manifest: Manifest) -> dict[str, Array]:
    """Return a trained model as arrays, with the names, dtypes and shapes of the model that was given.

    Raises:
        TensorMismatch: they differ; the text names the tensor.
    """
    if not isinstance(model, Mapping):
        raise TensorMismatch(f"a train function returns the model as a mapping of arrays, not {_kind_of(model)}")
    arrays: dict[str, Array] = {}
    for name, value in model.items():
        if not isinstance(name, str):
            raise TensorMismatch(f"a tensor's name is a string, not {name!r:.80}")
        try:
            arrays[name] = np.asarray(value)
        except Exception as error:
            raise TensorMismatch(f"tensor {name!r} cannot be made an array: {error}") from error
    if difference := (manifest.difference(Manifest.of(arrays)) if arrays else "the trained model is empty"):
        raise TensorMismatch(difference)
    return arrays


def write_payload(path: Path, manifest: Manifest, tensors: Tensors) -> str:
    """Write a payload of finite numbers, and return its SHA-256 in hexadecimal.

    Raises:
        TensorMismatch: a tensor holds NaN or infinity.
    """
    digest = hashlib.sha256()
    offset = 0
    with path.open("wb") as file:
        for tensor in payload_pieces(manifest, tensors):
            for start in range(0, len(tensor), PIECE_BYTES):
                piece = tensor[start : start + PIECE_BYTES]
                check_finite(manifest, piece, start=offset)
                digest.update(piece)
                file.write(piece)
                offset += len(piece)
    return digest.hexdigest()


def read_payload(path: Path, manifest: Manifest) -> dict[str, Array]:
    """Read a payload into writable arrays.

    Raises:
        TensorMismatch: the file is not as long as the manifest says.
    """
    return manifest.arrays(np.fromfile(path, np.uint8).data)


def _metric_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"a metric's name is a string that is not empty, not {name!r:.80}")
    return name


def _number(name: str, value: Any) -> float:
    try:
        number = value.item() if hasattr(value, "item") else value
    except Exception:
        number = None
    if not isinstance(number, Real):
        raise InvalidArgument(f"metric {name!r} is a number, not {_kind_of(value)}")
    return float(number)


def _kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
