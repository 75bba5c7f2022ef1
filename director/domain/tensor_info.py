"""One tensor of a model: its name, its element type and its shape, without its values."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from director.domain.names import is_storable
from director.domain.types import Array
from director.errors import TensorMismatch

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}
"""Element types by the names that safetensors gives them."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_NAME = 512
MAX_AXES = 64
MAX_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its name, its element type as safetensors calls it, and its shape.

    Raises:
        TensorMismatch: unknown element type, a bad name, or a shape that no array can have.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.name == "__metadata__" or not is_storable(self.name) or not 1 <= len(self.name) <= MAX_NAME:
            raise TensorMismatch(f"a tensor's name has 1 to {MAX_NAME} characters and is not {self.name[:80]!a}")
        if self.dtype not in DTYPES:
            raise TensorMismatch(f"tensor {self.name!r} has dtype {self.dtype!r}; known are {', '.join(DTYPES)}")
        if any(length < 0 for length in self.shape):
            raise TensorMismatch(f"tensor {self.name!r} has a negative length in its shape {self.shape}")
        if len(self.shape) > MAX_AXES:
            raise TensorMismatch(f"tensor {self.name!r} has {len(self.shape)} axes; at most {MAX_AXES} are allowed")
        if prod(max(length, 1) for length in self.shape) * DTYPES[self.dtype].itemsize > MAX_BYTES:
            raise TensorMismatch(f"tensor {self.name!r} has the shape {list(self.shape)}, too large for any memory")

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in a payload."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def layout_order(tensor: TensorInfo) -> tuple[int, str]:
    """Sort key of a payload: wider element types first, then by name."""
    return -DTYPES[tensor.dtype].itemsize, tensor.name


def describe(name: str, array: Array) -> TensorInfo:
    """Describe one array.

    Raises:
        TensorMismatch: models cannot hold its element type.
    """
    dtype = NAMES.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise TensorMismatch(f"tensor {name!r} has dtype {array.dtype}; known are {', '.join(DTYPES)}")
    return TensorInfo(name, dtype, array.shape)
