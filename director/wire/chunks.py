"""Runs of bytes on the wire: chunks with their digests, manifests, and downloads that go on where they were cut off.

Nothing here holds more than a chunk, and nothing here knows how the messages travel: a stream is read by whoever opened
it, with asyncio or without.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from director.domain.tensors import Manifest, TensorInfo
from director.effects import SystemEntropy
from director.errors import Corrupt
from director.v1 import common_pb2 as pb


def chunk(index: int, data: bytes) -> pb.Chunk:
    """Wrap one piece of a run of bytes."""
    return pb.Chunk(index=index, data=data, sha256=hashlib.sha256(data).digest())


def checked(piece: pb.Chunk) -> bytes:
    """Return a chunk's bytes.

    Raises:
        Corrupt: they are not those of its digest.
    """
    if hashlib.sha256(piece.data).digest() != piece.sha256:
        raise Corrupt(f"the bytes of chunk {piece.index} do not match its SHA-256; send them again")
    return piece.data


def blob_info(size_bytes: int, sha256: bytes) -> pb.BlobInfo:
    """Name a run of bytes by its length and its SHA-256 (32 bytes)."""
    return pb.BlobInfo(size_bytes=size_bytes, sha256=sha256)


def manifest_message(manifest: Manifest) -> pb.Manifest:
    """Put a manifest into a message."""
    rows = (pb.TensorInfo(name=each.name, dtype=each.dtype, shape=each.shape) for each in manifest.tensors)
    return pb.Manifest(tensors=rows)


def manifest_of(message: pb.Manifest) -> Manifest:
    """Read a manifest from a message.

    Raises:
        TensorMismatch: it describes no payload.
    """
    return Manifest(tuple(TensorInfo(each.name, each.dtype, tuple(each.shape)) for each in message.tensors))


def file_chunks(source: Path | BinaryIO, first_index: int, chunk_bytes: int) -> Iterator[pb.Chunk]:
    """Cut a file into chunks, from the first one wanted on; an open file is left open."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(first_index * chunk_bytes)
        index = first_index
        while data := file.read(chunk_bytes):
            yield chunk(index, data)
            index += 1


class Download:
    """A run of bytes as it arrives, over as many streams as it takes.

    Open a stream at `next_index`, hand each of its parts to `take`, and store what that returns; when the stream breaks
    off before `complete`, open another one. What was taken last is verified as a whole.
    """

    def __init__(self) -> None:
        """Expect the first header."""
        self.header: pb.DownloadHeader | None = None
        self.next_index = 0
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived, and are those that the header names."""
        return self.header is not None and self._size == self.header.blob.size_bytes

    def take(self, part: pb.DownloadPart) -> bytes:
        """Return the bytes that a part adds; a header adds none.

        Raises:
            Corrupt: a digest does not match, a chunk is not the next one, or the header names other bytes than before.
        """
        if part.WhichOneof("part") == "header":
            self._take_header(part.header)
            return b""
        return self._take_chunk(part.chunk)

    def _take_header(self, header: pb.DownloadHeader) -> None:
        if self.header is not None and (header.blob, header.chunk_bytes) != (self.header.blob, self.header.chunk_bytes):
            raise Corrupt("the bytes changed while they were being downloaded; download them anew")
        self.header = header
        self._verify()

    def _take_chunk(self, piece: pb.Chunk) -> bytes:
        data = checked(piece)
        if self.header is None or piece.index != self.next_index:
            raise Corrupt(f"chunk {piece.index} arrived where chunk {self.next_index} was due")
        if len(data) != min(self.header.chunk_bytes, self.header.blob.size_bytes - self._size) or not data:
            raise Corrupt(f"chunk {piece.index} has {len(data)} bytes, which is not what its header says")
        self.next_index += 1
        self._size += len(data)
        self._digest.update(data)
        self._verify()
        return data

    def _verify(self) -> None:
        if self.header is not None and self.complete and self._digest.digest() != self.header.blob.sha256:
            raise Corrupt("the bytes that were downloaded do not match their SHA-256; download them anew")


class FileDownload:
    """A download into a file that appears, whole and verified, when it is kept; until then nothing is at its place.

    With `as_safetensors` the header that belongs to a model's manifest goes in front of its payload.
    """

    def __init__(self, target: Path, *, as_safetensors: bool = False) -> None:
        """Write beside the target, which is replaced if it exists."""
        self.download = Download()
        self._target = target
        self._as_safetensors = as_safetensors
        self._part = target.with_name(f".{SystemEntropy().token()}.part")
        self._file = self._part.open("xb")

    @property
    def next_index(self) -> int:
        """The first chunk that is still missing; open the next stream there."""
        return self.download.next_index

    @property
    def complete(self) -> bool:
        """Whether all bytes are there and verified."""
        return self.download.complete

    def take(self, part: pb.DownloadPart) -> None:
        """Store what a part adds.

        Raises:
            Corrupt: as of `Download.take`.
            TensorMismatch: the manifest of a model describes no payload.
        """
        is_first = self.download.header is None
        data = self.download.take(part)
        if is_first and self._as_safetensors:
            self._file.write(manifest_of(part.header.manifest).safetensors_header())
        self._file.write(data)

    def keep(self) -> None:
        """Put the file into its place.

        Raises:
            Corrupt: some of it is still missing.
        """
        if not self.complete:
            raise Corrupt(f"the download of {self._target.name} ended before chunk {self.next_index}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)
