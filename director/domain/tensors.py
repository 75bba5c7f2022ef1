"""What a payload of tensors holds, and where: the layout that models and updates share on disk, in SQL and on the wire.

A payload is the tensors' bytes, little endian, C order, no padding, wider element types first, then by name. So every
element is aligned to its own width and lies inside one chunk, and with a header in front the payload is a
`.safetensors` file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from director.domain.types import Array, Tensors
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
ALIGNMENT = 16
"""Chunks are multiples of this many bytes, so that no element of any type lies across two."""


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
        bad = self.name == "__metadata__" or any(each == "\0" or "\ud800" <= each <= "\udfff" for each in self.name)
        if bad or not 1 <= len(self.name) <= MAX_NAME:
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


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes of one element type; start and stop are offsets in a payload, or in a part of one."""

    dtype: np.dtype[Any]
    start: int
    stop: int


@dataclass(frozen=True)
class Manifest:
    """What a payload holds, in the order of its bytes.

    Raises:
        TensorMismatch: no tensor, a name twice, or not in layout order.
    """

    tensors: tuple[TensorInfo, ...]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise TensorMismatch("a model has at least one tensor")
        names = {tensor.name for tensor in self.tensors}
        if len(names) < len(self.tensors):
            raise TensorMismatch("a tensor's name occurs twice in the model")
        for one, two in pairwise(self.tensors):
            if layout_order(one) > layout_order(two):
                raise TensorMismatch(f"tensor {two.name!r} comes before {one.name!r}: wider dtypes first, then by name")

    @classmethod
    def of(cls, tensors: Tensors) -> "Manifest":
        """Describe arrays held in memory."""
        return cls(tuple(sorted((describe(name, array) for name, array in tensors.items()), key=layout_order)))

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[Any]]) -> "Manifest":
        """Read what `to_json` wrote."""
        return cls(tuple(TensorInfo(name, dtype, tuple(shape)) for name, dtype, shape in rows))

    def to_json(self) -> list[list[Any]]:
        """Return [name, dtype, shape] rows in the order of the bytes."""
        return [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in self.tensors]

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the whole payload."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The payload as runs of one element type each, as long as possible."""
        found, start = [], 0
        filled = (tensor for tensor in self.tensors if tensor.size_bytes)
        for dtype, run in groupby(filled, key=lambda tensor: tensor.dtype):
            stop = start + sum(tensor.size_bytes for tensor in run)
            found.append(Segment(DTYPES[dtype], start, stop))
            start = stop
        return tuple(found)

    def within(self, start: int, stop: int) -> Iterator[Segment]:
        """Cut out a part of the payload; the segments' offsets are relative to its start."""
        for segment in self.segments:
            first, last = max(segment.start, start), min(segment.stop, stop)
            if first < last:
                yield Segment(segment.dtype, first - start, last - start)

    def safetensors_header(self) -> bytes:
        """Return the bytes that make a payload a `.safetensors` file when they stand in front of it."""
        entries: dict[str, Any] = {}
        offset = 0
        for tensor in self.tensors:
            span = [offset, offset + tensor.size_bytes]
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
            offset += tensor.size_bytes
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def arrays(self, payload: bytes | bytearray | memoryview) -> dict[str, Array]:
        """Return the payload's tensors by name, as views of its bytes.

        Raises:
            TensorMismatch: the payload is not as long as the manifest says.
        """
        if len(payload) != self.size_bytes:
            raise TensorMismatch(f"the payload has {len(payload)} bytes, its manifest says {self.size_bytes}")
        found, offset = {}, 0
        for tensor in self.tensors:
            flat = np.frombuffer(payload, DTYPES[tensor.dtype], count=prod(tensor.shape), offset=offset)
            found[tensor.name] = flat.reshape(tensor.shape)
            offset += tensor.size_bytes
        return found

    def difference(self, other: "Manifest") -> str:
        """Say in one sentence where another manifest differs from this one; empty if it does not."""
        if self == other:
            return ""
        mine, theirs = ({tensor.name: tensor for tensor in each.tensors} for each in (self, other))
        if missing := sorted(mine.keys() - theirs.keys()):
            return f"tensor {missing[0]!r} is missing"
        if surplus := sorted(theirs.keys() - mine.keys()):
            return f"tensor {surplus[0]!r} is not one of the model's"
        name = next(name for name in sorted(mine) if mine[name] != theirs[name])
        want, got = mine[name], theirs[name]
        return f"tensor {name!r} is {got.dtype} {list(got.shape)}, the model's is {want.dtype} {list(want.shape)}"


def describe(name: str, array: Array) -> TensorInfo:
    """Describe one array.

    Raises:
        TensorMismatch: its element type is not one that models can hold.
    """
    dtype = NAMES.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise TensorMismatch(f"tensor {name!r} has dtype {array.dtype}; known are {', '.join(DTYPES)}")
    return TensorInfo(name, dtype, array.shape)


def payload_pieces(manifest: Manifest, tensors: Tensors) -> Iterator[memoryview]:
    """Yield a payload's bytes, one tensor after the other; nothing is copied that is laid out already."""
    for tensor in manifest.tensors:
        array = np.ascontiguousarray(tensors[tensor.name], DTYPES[tensor.dtype])
        if array.size:
            yield array.reshape(-1).view(np.uint8).data


def check_finite(manifest: Manifest, data: bytes | memoryview, *, start: int) -> None:
    """Refuse a part of a payload that holds NaN or infinity.

    Units: start is the part's offset in the payload, in bytes.

    Raises:
        TensorMismatch: the text names the tensor.
    """
    for segment in manifest.within(start, start + len(data)):
        values = np.frombuffer(data[segment.start : segment.stop], segment.dtype)
        if not np.issubdtype(segment.dtype, np.integer) and segment.dtype != np.bool_:
            with np.errstate(invalid="ignore"):  # numpy warns of some bit patterns of NaN
                finite = np.isfinite(values)
            if not finite.all():
                at = start + segment.start + int(finite.argmin()) * segment.dtype.itemsize
                raise TensorMismatch(f"tensor {tensor_at(manifest, at)!r} holds NaN or infinity")


def tensor_at(manifest: Manifest, offset: int) -> str:
    """Name the tensor that lies at an offset of the payload."""
    end = 0
    for tensor in manifest.tensors:
        end += tensor.size_bytes
        if offset < end:
            return tensor.name
    raise IndexError(offset)
