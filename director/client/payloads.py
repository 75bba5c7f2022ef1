"""Models on their way to a director: a payload in the wire's layout, in a file of our own."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from director.domain.commands import ModelUpload
from director.domain.content import Content
from director.domain.safetensors import Piece, header_bytes, plan_rewrite
from director.domain.tensors import LENGTH_BYTES, Manifest, payload_pieces
from director.errors import InvalidArgument, TensorMismatch

BLOCK_BYTES = 1 << 20

Model = Mapping[str, Any] | Path | str
"""A model to submit: arrays by name (whatever numpy makes an array of), or the path of a `.safetensors` file."""


def spool(model: Model, target: Path) -> ModelUpload:
    """Write a model's payload to a file, however large the model is; return what the file holds.

    Raises:
        TensorMismatch: it holds nothing, or an element type that models cannot have, or the file is not a whole one.
        InvalidArgument: the file cannot be read.
    """
    if isinstance(model, Mapping):
        arrays = {name: np.asarray(value) for name, value in model.items()}
        manifest = Manifest.of(arrays)
        return _written(target, manifest, payload_pieces(manifest, arrays))
    try:
        source = Path(model).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InvalidArgument(f"the model {str(model)!r} cannot be read: {error.strerror or error}") from error
    with source:
        length = header_bytes(source.read(LENGTH_BYTES))
        header = source.read(length)
        start = LENGTH_BYTES + length
        rewrite = plan_rewrite(header, data_bytes=source.seek(0, SEEK_END) - start)
        return _written(target, rewrite.manifest, _copied(source, start, rewrite.pieces))


def _copied(source: BinaryIO, start: int, pieces: Sequence[Piece]) -> Iterator[bytes]:
    """Yield the bytes of pieces whose offsets count from `start`."""
    for piece in pieces:
        source.seek(start + piece.start)
        missing = piece.stop - piece.start
        while missing:
            data = source.read(min(BLOCK_BYTES, missing))
            if not data:
                raise TensorMismatch(f"tensor {piece.name!r} was cut off while the model was being read")
            missing -= len(data)
            yield data


def _written(target: Path, manifest: Manifest, pieces: Iterable[bytes | memoryview]) -> ModelUpload:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return ModelUpload(Content(manifest.size_bytes, digest.hexdigest()), manifest)
