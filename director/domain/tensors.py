"""What a payload of tensors holds, and where: the layout that models and updates share on disk, in SQL and on the wire.

A payload is the tensors' bytes, little endian, C order, no padding, wider element types first, then by name. So every
element is aligned to its own width and lies inside one chunk, and with a header in front the payload is a
`.safetensors` file.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import prod
from typing import Any

import numpy as np

from director.domain.content import Content
from director.domain.limits import MAX_MANIFEST_BYTES
from director.domain.tensor_info import DTYPES, MAX_BYTES, TensorInfo, describe, layout_order
from director.domain.types import Array, Tensors
from director.errors import TensorMismatch

LENGTH_BYTES = 8
"""Bytes of the number in front of a manifest's JSON; the number is the length of the JSON."""
ALIGNMENT = 16
"""Chunks are multiples of this many bytes, so that no element of any type lies across two."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes of one element type; start and stop are offsets in a payload, or in a part of one."""

    dtype: np.dtype[Any]
    start: int
    stop: int


class Manifest:
    """What a payload holds, in the order of its bytes, in canonical form: the bytes that begin a `.safetensors` file.

    A manifest of 100,000 tensors takes some 10 MB in this form and several times that as objects. So it keeps the
    bytes, and `tensors` reads them at each call.

    Raises:
        TensorMismatch: no tensor, a name twice, not in layout order, too many tensors or too large ones.
    """

    __slots__ = ("content", "encoded", "segments", "size_bytes")

    def __init__(self, tensors: Sequence[TensorInfo]) -> None:
        """Describe a payload by its tensors, in layout order."""
        check_layout(tensors)
        self.encoded = encode(tensors)
        if len(self.encoded) > MAX_MANIFEST_BYTES:
            raise TensorMismatch(
                f"the manifest of {len(tensors)} tensors has {len(self.encoded)} bytes; "
                f"at most {MAX_MANIFEST_BYTES} are allowed"
            )
        self.content = Content(len(self.encoded), hashlib.sha256(self.encoded).hexdigest())
        self.size_bytes = sum(tensor.size_bytes for tensor in tensors)
        """Bytes of the whole payload."""
        if self.size_bytes > MAX_BYTES:
            raise TensorMismatch(f"the {len(tensors)} tensors have {self.size_bytes} bytes, too many for any memory")
        self.segments = segments_of(tensors)
        """The payload as runs of one element type each."""

    def __eq__(self, other: object) -> bool:
        """Whether two manifests describe the same layout."""
        return isinstance(other, Manifest) and self.encoded == other.encoded

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash(self.content)

    def __repr__(self) -> str:
        """Show it in a few words, however many tensors there are."""
        return f"<Manifest of {self.size_bytes} bytes, SHA-256 {self.digest}>"

    @classmethod
    def of(cls, tensors: Tensors) -> "Manifest":
        """Describe arrays held in memory."""
        return cls(sorted((describe(name, array) for name, array in tensors.items()), key=layout_order))

    @classmethod
    def decode(cls, encoded: bytes) -> "Manifest":
        """Read the canonical form.

        Raises:
            TensorMismatch: the bytes are not exactly what `encoded` would hold.
        """
        try:
            manifest = cls(parse(encoded))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise TensorMismatch("the manifest is not the header of a .safetensors file") from error
        if manifest.encoded != encoded:
            raise TensorMismatch("the manifest is not in its canonical form: wider dtypes first, then by name, no gaps")
        return manifest

    @classmethod
    def from_header(cls, header: str) -> "Manifest":
        """Read the JSON of the canonical form, as `header` returned it."""
        return cls.decode(framed(header))

    @property
    def header(self) -> str:
        """The JSON of the canonical form."""
        return self.encoded[LENGTH_BYTES:].rstrip(b" ").decode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return self.content.digest

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors, in the order of the payload's bytes; read from the bytes at each call."""
        return tuple(parse(self.encoded))

    def within(self, start: int, stop: int) -> Iterator[Segment]:
        """Cut out a part of the payload; the segments' offsets are relative to its start."""
        behind = bisect_right(self.segments, start, key=lambda segment: segment.stop)
        for index in range(behind, len(self.segments)):
            segment = self.segments[index]
            first, last = max(segment.start, start), min(segment.stop, stop)
            if first >= last:
                return
            yield Segment(segment.dtype, first - start, last - start)

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


def check_layout(tensors: Sequence[TensorInfo]) -> None:
    """Refuse tensors that cannot make a payload.

    Raises:
        TensorMismatch: there is no tensor, a name occurs twice, or they are not in layout order.
    """
    if not tensors:
        raise TensorMismatch("a model has at least one tensor")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise TensorMismatch("a tensor's name occurs twice in the model")
    for one, two in pairwise(tensors):
        if layout_order(one) > layout_order(two):
            raise TensorMismatch(f"tensor {two.name!r} comes before {one.name!r}: wider dtypes first, then by name")


def segments_of(tensors: Sequence[TensorInfo]) -> tuple[Segment, ...]:
    """Return a payload as runs of one element type each, as long as possible."""
    found, start = [], 0
    filled = (tensor for tensor in tensors if tensor.size_bytes)
    for dtype, run in groupby(filled, key=lambda tensor: tensor.dtype):
        stop = start + sum(tensor.size_bytes for tensor in run)
        found.append(Segment(DTYPES[dtype], start, stop))
        start = stop
    return tuple(found)


def encode(tensors: Sequence[TensorInfo]) -> bytes:
    """Return the canonical form: what stands in front of the payload in a `.safetensors` file."""
    entries: dict[str, Any] = {}
    offset = 0
    for tensor in tensors:
        span = [offset, offset + tensor.size_bytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset += tensor.size_bytes
    return framed(json.dumps(entries, separators=(",", ":"), ensure_ascii=False))


def framed(header: str) -> bytes:
    """Put its length in front of a header and pad it with spaces, so that the payload begins at a multiple of 8."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse(encoded: bytes) -> list[TensorInfo]:
    """Read the tensors of a canonical form, in the order in which they stand there."""
    entries = json.loads(encoded[LENGTH_BYTES:])
    tensors = [TensorInfo(name, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()]
    if any(type(length) is not int for tensor in tensors for length in tensor.shape):
        raise ValueError("a shape holds something else than whole numbers")
    return tensors


def payload_pieces(manifest: Manifest, tensors: Tensors) -> Iterator[memoryview]:
    """Yield a payload's bytes, one tensor after the other. Only tensors in another layout are copied."""
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
