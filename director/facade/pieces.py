"""Files and arrays as the chunks that an upload wants."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from director.domain.content import Content
from director.errors import InvalidArgument
from director.services.uploads import Chunks
from director.store import stash

PIECE = 1 << 20


def file_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes.

    Raises:
        InvalidArgument: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise InvalidArgument(f"the archive {path} cannot be read: {error.strerror}") from error


def measure(pieces: Iterator[bytes] | Iterator[memoryview]) -> Content:
    """Return the identity of bytes."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return Content(size, digest.hexdigest())


async def rechunked(pieces: Iterator[bytes] | Iterator[memoryview], upload: stash.Upload) -> Chunks:
    """Cut bytes into the chunks that an upload still misses."""
    rest, number = bytearray(), 0
    for piece in pieces:
        rest += piece
        while len(rest) >= upload.chunk_bytes:
            if upload.missing is not None and number >= upload.missing:
                yield number, bytes(rest[: upload.chunk_bytes])
            del rest[: upload.chunk_bytes]
            number += 1
    if rest and upload.missing is not None and number >= upload.missing:
        yield number, bytes(rest)
