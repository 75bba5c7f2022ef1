"""Runs of bytes on the wire: chunks, manifests in chunks, and downloads that go on where they were cut off.

Nothing here holds more than a chunk and a manifest. The caller reads the stream, with asyncio or without.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from director.domain.content import Content
from director.domain.limits import MAX_MANIFEST_BYTES
from director.domain.tensors import Manifest
from director.effects import SystemEntropy
from director.errors import Corrupt, TooLarge
from director.v1 import common_pb2 as pb
from director.wire.codec import read_content

MANIFEST_CHUNK_BYTES = 1 << 20
"""Length of the chunks in which a submission sends its manifest."""


def file_chunks(source: Path | BinaryIO, first_index: int, chunk_bytes: int) -> Iterator[pb.Chunk]:
    """Cut a file into chunks, from the first one wanted to the end; a file that is given open is left open."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(first_index * chunk_bytes)
        index = first_index
        while data := file.read(chunk_bytes):
            yield pb.Chunk(index=index, data=data)
            index += 1


def manifest_chunks(manifest: Manifest, chunk_bytes: int = MANIFEST_CHUNK_BYTES) -> Iterator[pb.Chunk]:
    """Cut a manifest into chunks."""
    for index, start in enumerate(range(0, len(manifest.encoded), chunk_bytes)):
        yield pb.Chunk(index=index, data=manifest.encoded[start : start + chunk_bytes])


class ManifestAssembly:
    """Puts a manifest together from its chunks."""

    def __init__(self, content: Content) -> None:
        """Expect the manifest of this length and digest.

        Raises:
            TooLarge: it is larger than any manifest may be.
        """
        if content.size_bytes > MAX_MANIFEST_BYTES:
            raise TooLarge(f"the manifest has {content.size_bytes} bytes; at most {MAX_MANIFEST_BYTES} are allowed")
        self._content = content
        self._bytes = bytearray()
        self._next_index = 0

    @property
    def complete(self) -> bool:
        """Whether all of its bytes are there."""
        return len(self._bytes) >= self._content.size_bytes

    def take(self, piece: pb.Chunk) -> None:
        """Add the next chunk.

        Raises:
            Corrupt: it is not the next one, it is empty, or it brings more bytes than were announced.
        """
        if piece.index != self._next_index:
            raise Corrupt(f"chunk {piece.index} of the manifest arrived where chunk {self._next_index} was due")
        if not 0 < len(piece.data) <= self._content.size_bytes - len(self._bytes):
            raise Corrupt(f"chunk {piece.index} of the manifest is empty, or brings more bytes than were announced")
        self._next_index += 1
        self._bytes += piece.data

    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            Corrupt: its bytes are not those that were announced.
            TensorMismatch: its bytes are not the canonical form of a manifest.
        """
        if Content(len(self._bytes), hashlib.sha256(self._bytes).hexdigest()) != self._content:
            raise Corrupt("the manifest does not match its SHA-256; send it again")
        return Manifest.decode(bytes(self._bytes))


class Download:
    """A run of bytes as it arrives, over as many streams as it takes.

    Open a stream at `next_index` and name the manifest that is held. Hand each part to `take` and store the bytes that
    it returns. When the stream breaks off before `complete`, open another one. The last chunk verifies the whole.
    """

    def __init__(self, manifest: Manifest | None = None) -> None:
        """Expect the first header. A manifest that the caller holds already is not sent again."""
        self.header: pb.DownloadHeader | None = None
        self.next_index = 0
        self.manifest = manifest
        self.complete = False
        """Whether all bytes and the manifest have arrived and match their digests."""
        self._assembly: ManifestAssembly | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def held_manifest_sha256(self) -> bytes:
        """SHA-256 of the manifest that is held; empty without one."""
        return b"" if self.manifest is None else self.manifest.content.sha256

    def take(self, part: pb.DownloadPart) -> bytes:
        """Return the bytes that a part adds; a header and a chunk of the manifest add none.

        Raises:
            Corrupt: a digest does not match, a chunk is not the next one, or the header names other bytes.
            TooLarge: the manifest is larger than any manifest may be.
            TensorMismatch: the manifest is not in canonical form.
        """
        match part.WhichOneof("part"):
            case "header":
                self._take_header(part.header)
            case "manifest_chunk":
                self._take_manifest_chunk(part.manifest_chunk)
            case "chunk":
                return self._take_chunk(part.chunk)
        return b""

    def _take_header(self, header: pb.DownloadHeader) -> None:
        if self.header is not None and _identity(header) != _identity(self.header):
            raise Corrupt("the bytes changed while they were being downloaded; download them again")
        self.header = header
        if header.HasField("manifest") and self.held_manifest_sha256 != header.manifest.sha256:
            self.manifest = None
            self._assembly = ManifestAssembly(read_content(header.manifest))
        self._verify()

    def _take_manifest_chunk(self, piece: pb.Chunk) -> None:
        if self._assembly is None:
            raise Corrupt("a chunk of a manifest arrived where none was due")
        self._assembly.take(piece)
        if self._assembly.complete:
            self.manifest, self._assembly = self._assembly.manifest(), None
            self._verify()

    def _take_chunk(self, piece: pb.Chunk) -> bytes:
        if self.header is None or self._assembly is not None:
            raise Corrupt("a chunk arrived before its header or its manifest")
        if piece.index != self.next_index:
            raise Corrupt(f"chunk {piece.index} arrived where chunk {self.next_index} was due")
        if len(piece.data) != min(self.header.chunk_bytes, self.header.blob.size_bytes - self._size) or not piece.data:
            raise Corrupt(f"chunk {piece.index} has {len(piece.data)} bytes, which is not what its header says")
        self.next_index += 1
        self._size += len(piece.data)
        self._digest.update(piece.data)
        self._verify()
        return piece.data

    def _verify(self) -> None:
        header = self.header
        if header is None or self._assembly is not None or self._size != header.blob.size_bytes:
            return
        if self._digest.digest() != header.blob.sha256:
            raise Corrupt("the bytes that were downloaded do not match their SHA-256; download them again")
        if header.HasField("manifest") and self.manifest is not None and self.manifest.size_bytes != self._size:
            raise Corrupt(f"the model has {self._size} bytes, its manifest says {self.manifest.size_bytes}")
        self.complete = True


def _identity(header: pb.DownloadHeader) -> tuple[pb.BlobInfo, int, pb.BlobInfo]:
    return header.blob, header.chunk_bytes, header.manifest


class FileDownload:
    """A download into a file, which appears at its place only when it is kept: whole and verified.

    With `as_safetensors` a model's manifest goes in front of its payload: together they are a `.safetensors` file.
    """

    def __init__(self, target: Path, *, as_safetensors: bool = False, manifest: Manifest | None = None) -> None:
        """Write beside the target. `keep` replaces it. A manifest that the caller holds already is not sent again."""
        self.download = Download(manifest)
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
            Corrupt, TooLarge, TensorMismatch: as of `Download.take`.
        """
        data = self.download.take(part)
        manifest = self.download.manifest
        if self._as_safetensors and manifest is not None and self._file.tell() == 0:
            self._file.write(manifest.encoded)
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
