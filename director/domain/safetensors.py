"""Reading the header of a `.safetensors` file: which tensors it has, and the order of their bytes in a payload.

A file is eight bytes with the length of the header, the header in JSON, and the data. Files may have their tensors in
any order; the functions here say where each one lies, and the caller reads them.

Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from director.domain.tensor_info import TensorInfo, layout_order
from director.domain.tensors import LENGTH_BYTES, Manifest
from director.errors import TensorMismatch

LONGEST_HEADER = 100_000_000
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a tensor lies in a file: offsets into its data, behind the header."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What a file holds, and the pieces of its data which, one after the other, are the payload."""

    manifest: Manifest
    pieces: tuple[Piece, ...]


def header_bytes(prefix: bytes) -> int:
    """Return the length of the header, from the first eight bytes of a file; the data begin behind both.

    Raises:
        TensorMismatch: the file is too short, or its header longer than the format allows.
    """
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if len(prefix) < LENGTH_BYTES or not 2 <= length <= LONGEST_HEADER:
        raise broken("it does not begin with the length of a header")
    return length


def plan_rewrite(header: bytes, *, data_bytes: int) -> Rewrite:
    """Read the header; say what the file holds and which pieces of its data make the payload.

    Units: data_bytes counts what follows the header, to the end of the file.

    Raises:
        TensorMismatch: the header is broken, does not cover the data exactly, or names an unknown element type.
    """
    try:
        entries = json.loads(header.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise broken("its header is not JSON") from None
    if not isinstance(entries, dict):
        raise broken("its header is not a JSON object")
    found = [located(name, entry) for name, entry in entries.items() if name != METADATA]
    check_cover([piece for _, piece in found], data_bytes)
    found.sort(key=lambda each: layout_order(each[0]))
    return Rewrite(Manifest([tensor for tensor, _ in found]), tuple(piece for _, piece in found))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; refuse one with a name twice."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise broken("its header holds a name twice")
    return entries


def located(name: str, entry: Any) -> tuple[TensorInfo, Piece]:
    """Read one entry of the header."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]}:
            if all(type(each) is int and each >= 0 for each in (*shape, start, stop)):
                tensor = TensorInfo(name, dtype, tuple(shape))
                if tensor.size_bytes != stop - start:
                    raise broken(f"tensor {name!r} has {stop - start} bytes, its shape needs {tensor.size_bytes}")
                return tensor, Piece(name, start, stop)
    raise broken(f"the header's entry {name[:80]!r} is not a dtype, a shape and two offsets")


def check_cover(pieces: Sequence[Piece], data_bytes: int) -> None:
    """Refuse pieces that overlap, or leave a byte of the data out."""
    end = 0
    for piece in sorted(pieces, key=lambda each: (each.start, each.stop)):
        if piece.start != end:
            fault = "overlaps another one" if piece.start < end else "has a hole in front of it"
            raise broken(f"tensor {piece.name!r} {fault}")
        end = piece.stop
    if end != data_bytes:
        raise broken(f"it has {data_bytes} bytes of data, its header says {end}")


def broken(fault: str) -> TensorMismatch:
    """Return the error of a file that is not what it should be."""
    return TensorMismatch(f"not a whole .safetensors file: {fault}")
