"""Chunks, manifests, and downloads that are cut off, damaged or resumed."""

import hashlib
import io
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from director.domain.content import Content
from director.domain.limits import MAX_MANIFEST_BYTES
from director.domain.tensors import Manifest, payload_pieces
from director.errors import Corrupt, TensorMismatch, TooLarge
from director.v1 import common_pb2 as pb
from director.wire.chunks import (
    MANIFEST_CHUNK_BYTES,
    Download,
    FileDownload,
    ManifestAssembly,
    file_chunks,
    manifest_chunks,
)
from director.wire.codec import write_content
from tests.strategies import manifests

TENSORS = {
    "b": np.arange(5, dtype=np.float32),
    "a": np.eye(3),
    "scalar": np.array(7, np.int8),
    "none": np.zeros((0, 2)),
}
MANIFEST = Manifest.of(TENSORS)
PAYLOAD = b"".join(payload_pieces(MANIFEST, TENSORS))
OTHER = Manifest.of({"w": np.zeros(len(PAYLOAD), np.uint8)})
"""The manifest of another model of the same length."""


def content_of(data: bytes) -> Content:
    return Content(len(data), hashlib.sha256(data).hexdigest())


def parts_of(
    data: bytes,
    *,
    chunk_bytes: int,
    first_index: int = 0,
    manifest: Manifest | None = None,
    held: bytes = b"",
    number: int = 0,
) -> Iterator[pb.DownloadPart]:
    """What a director sends from a chunk on, to a caller that holds a manifest of this digest."""
    header = pb.DownloadHeader(blob=write_content(content_of(data)), chunk_bytes=chunk_bytes, model_number=number)
    if manifest is not None:
        header.manifest.CopyFrom(write_content(manifest.content))
    yield pb.DownloadPart(header=header)
    if manifest is not None and manifest.content.sha256 != held:
        for piece in manifest_chunks(manifest, chunk_bytes):
            yield pb.DownloadPart(manifest_chunk=piece)
    for piece in file_chunks(io.BytesIO(data), first_index, chunk_bytes):
        yield pb.DownloadPart(chunk=piece)


def rest_of(download: Download, data: bytes, *, chunk_bytes: int, manifest: Manifest | None = None):
    """What a director sends when a download goes on."""
    return parts_of(
        data,
        chunk_bytes=chunk_bytes,
        first_index=download.next_index,
        manifest=manifest,
        held=download.held_manifest_sha256,
    )


# Files and manifests in chunks


def test_file_is_cut_from_the_first_chunk_wanted_on(tmp_path):
    (tmp_path / "archive.zip").write_bytes(b"0123456789")

    pieces = list(file_chunks(tmp_path / "archive.zip", 2, 4))

    assert [(piece.index, piece.data) for piece in pieces] == [(2, b"89")]


def test_open_file_is_left_open_for_the_next_attempt():
    file = io.BytesIO(b"0123456789")

    first = [piece.data for piece in file_chunks(file, 1, 4)]
    second = [piece.data for piece in file_chunks(file, 0, 4)]

    assert first == [b"4567", b"89"]
    assert second == [b"0123", b"4567", b"89"]


@given(manifests, st.integers(1, 500))
def test_manifest_is_put_together_from_chunks_of_any_length(manifest, chunk_bytes):
    assembly = ManifestAssembly(manifest.content)

    for piece in manifest_chunks(manifest, chunk_bytes):
        assert not assembly.complete
        assembly.take(piece)

    assert assembly.complete
    assert assembly.manifest() == manifest


def test_small_manifest_is_one_chunk():
    assert [piece.data for piece in manifest_chunks(MANIFEST)] == [MANIFEST.encoded]
    assert len(MANIFEST.encoded) < MANIFEST_CHUNK_BYTES


def test_chunk_of_a_manifest_out_of_turn_is_refused():
    one, two, *_ = manifest_chunks(MANIFEST, 16)
    assembly = ManifestAssembly(MANIFEST.content)

    with pytest.raises(Corrupt, match="chunk 1 of the manifest arrived where chunk 0 was due"):
        assembly.take(two)
    assembly.take(one)
    with pytest.raises(Corrupt, match="chunk 0 of the manifest arrived where chunk 1 was due"):
        assembly.take(one)


@pytest.mark.parametrize("data", [b"", MANIFEST.encoded + b" "], ids=["empty", "too long"])
def test_chunk_of_a_manifest_with_no_bytes_or_too_many_is_refused(data):
    with pytest.raises(Corrupt, match="empty, or brings more bytes than were announced"):
        ManifestAssembly(MANIFEST.content).take(pb.Chunk(data=data))


def test_manifest_that_is_complete_takes_no_further_chunk():
    assembly = ManifestAssembly(MANIFEST.content)
    assembly.take(pb.Chunk(data=MANIFEST.encoded))

    with pytest.raises(Corrupt, match="more bytes than were announced"):
        assembly.take(pb.Chunk(index=1, data=b" "))


def test_manifest_that_does_not_match_its_digest_is_refused():
    assembly = ManifestAssembly(MANIFEST.content)
    assembly.take(pb.Chunk(data=MANIFEST.encoded.replace(b"F32", b"I32")))

    with pytest.raises(Corrupt, match="SHA-256"):
        assembly.manifest()


def test_manifest_that_breaks_off_does_not_match_its_digest():
    assembly = ManifestAssembly(MANIFEST.content)
    assembly.take(pb.Chunk(data=MANIFEST.encoded[:-1]))

    assert not assembly.complete
    with pytest.raises(Corrupt, match="SHA-256"):
        assembly.manifest()


def test_bytes_that_are_no_manifest_are_refused_though_their_digest_matches():
    assembly = ManifestAssembly(content_of(b"no manifest"))
    assembly.take(pb.Chunk(data=b"no manifest"))

    with pytest.raises(TensorMismatch, match=r"not the header of a \.safetensors file"):
        assembly.manifest()


def test_manifest_larger_than_any_may_be_is_refused_before_its_first_chunk():
    ManifestAssembly(Content(MAX_MANIFEST_BYTES, "0" * 64))

    with pytest.raises(TooLarge, match=f"the manifest has {MAX_MANIFEST_BYTES + 1} bytes; at most"):
        ManifestAssembly(Content(MAX_MANIFEST_BYTES + 1, "0" * 64))


# Downloads


@given(st.binary(max_size=200), st.integers(1, 50), st.none() | manifests, st.data())
def test_download_that_breaks_off_anywhere_any_number_of_times_yields_the_same_bytes(
    data, chunk_bytes, manifest, draws
):
    if manifest is not None:
        data = (data + bytes(manifest.size_bytes))[: manifest.size_bytes]
    download, received = Download(), bytearray()

    for attempt in range(10_000):
        parts = list(rest_of(download, data, chunk_bytes=chunk_bytes, manifest=manifest))
        cut = draws.draw(st.integers(0, len(parts))) if attempt < 3 else len(parts)
        for part in parts[:cut]:
            assert not download.complete
            received += download.take(part)
        if download.complete:
            break

    assert bytes(received) == data
    assert download.manifest == manifest


def test_chunk_out_of_turn_is_refused():
    header, one, two = parts_of(b"12345678", chunk_bytes=4)
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="chunk 1 arrived where chunk 0 was due"):
        download.take(two)
    download.take(one)
    with pytest.raises(Corrupt, match="chunk 0 arrived where chunk 1 was due"):
        download.take(one)

    assert download.next_index == 1
    download.take(two)
    assert download.complete


def test_chunk_before_any_header_is_refused():
    with pytest.raises(Corrupt, match="before its header"):
        Download().take(pb.DownloadPart(chunk=pb.Chunk(data=b"1")))
    with pytest.raises(Corrupt, match="where none was due"):
        Download().take(pb.DownloadPart(manifest_chunk=pb.Chunk(data=b"1")))


def test_chunk_of_a_model_before_its_manifest_is_refused():
    header, *_, last = parts_of(PAYLOAD, chunk_bytes=len(PAYLOAD), manifest=MANIFEST)
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="or its manifest"):
        download.take(last)


@pytest.mark.parametrize("data", [b"", b"123", b"12345"])
def test_chunk_of_another_length_than_the_header_says_is_refused(data):
    header, *_ = parts_of(b"12345678", chunk_bytes=4)
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="not what its header says"):
        download.take(pb.DownloadPart(chunk=pb.Chunk(data=data)))


@pytest.mark.parametrize("chunk_bytes", [0, -4])
def test_header_without_a_length_of_chunks_leads_nowhere(chunk_bytes):
    header, *_ = parts_of(b"12345678", chunk_bytes=4)
    header.header.chunk_bytes = chunk_bytes
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="not what its header says"):
        download.take(pb.DownloadPart(chunk=pb.Chunk(data=b"")))


def test_whole_that_does_not_match_its_digest_is_refused_with_its_last_chunk_and_stays_incomplete():
    header, *chunks = parts_of(b"12345678", chunk_bytes=4)
    header.header.blob.sha256 = hashlib.sha256(b"something else").digest()
    download = Download()
    download.take(header)
    download.take(chunks[0])

    with pytest.raises(Corrupt, match="SHA-256"):
        download.take(chunks[1])

    assert not download.complete


def test_empty_whole_is_complete_with_its_header_if_its_digest_is_that_of_nothing():
    download = Download()
    download.take(next(parts_of(b"", chunk_bytes=4)))

    assert download.complete
    with pytest.raises(Corrupt, match="SHA-256"):
        Download().take(pb.DownloadPart(header=pb.DownloadHeader(blob=pb.BlobInfo(sha256=bytes(32)), chunk_bytes=4)))


@pytest.mark.parametrize(
    "other",
    [
        next(parts_of(bytes(len(PAYLOAD)), chunk_bytes=16, manifest=MANIFEST)),
        next(parts_of(PAYLOAD, chunk_bytes=32, manifest=MANIFEST)),
        next(parts_of(PAYLOAD, chunk_bytes=16, manifest=OTHER)),
        next(parts_of(PAYLOAD, chunk_bytes=16)),
    ],
    ids=["bytes", "chunks", "manifest", "no manifest"],
)
def test_resumed_stream_with_another_header_is_refused(other):
    download = Download()
    for part in list(parts_of(PAYLOAD, chunk_bytes=16, manifest=MANIFEST))[:-1]:
        download.take(part)

    with pytest.raises(Corrupt, match="changed"):
        download.take(other)


def test_manifest_that_is_held_is_not_expected_again():
    download = Download(MANIFEST)

    parts = list(rest_of(download, PAYLOAD, chunk_bytes=1024, manifest=MANIFEST))
    received = b"".join(download.take(part) for part in parts)

    assert [part.WhichOneof("part") for part in parts] == ["header", "chunk"]
    assert (received, download.complete, download.manifest) == (PAYLOAD, True, MANIFEST)
    with pytest.raises(Corrupt, match="where none was due"):
        download.take(pb.DownloadPart(manifest_chunk=pb.Chunk(data=MANIFEST.encoded)))


def test_manifest_of_another_model_that_is_held_is_replaced():
    download = Download(OTHER)

    for part in rest_of(download, PAYLOAD, chunk_bytes=32, manifest=MANIFEST):
        download.take(part)

    assert (download.complete, download.manifest) == (True, MANIFEST)


@pytest.mark.parametrize("held", [None, OTHER])
def test_manifest_of_another_number_of_bytes_than_the_payload_is_refused(held):
    download = Download(held)
    *parts, last = rest_of(download, PAYLOAD + b"+", chunk_bytes=1024, manifest=OTHER)
    for part in parts:
        download.take(part)

    with pytest.raises(Corrupt, match=f"the model has {len(PAYLOAD) + 1} bytes, its manifest says {len(PAYLOAD)}"):
        download.take(last)

    assert not download.complete


# Files


def test_file_appears_at_its_place_only_when_it_is_kept(tmp_path):
    target = tmp_path / "workspace.zip"

    with FileDownload(target) as file:
        for part in parts_of(b"0123456789", chunk_bytes=4):
            file.take(part)
        assert not target.exists()
        file.keep()

    assert target.read_bytes() == b"0123456789"
    assert list(tmp_path.iterdir()) == [target]


def test_download_that_is_given_up_leaves_an_older_file_and_nothing_else(tmp_path):
    target = tmp_path / "workspace.zip"
    target.write_bytes(b"older")

    with FileDownload(target) as file:
        file.take(next(parts_of(b"0123456789", chunk_bytes=4)))

    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_download_that_is_not_whole_cannot_be_kept(tmp_path):
    with FileDownload(tmp_path / "workspace.zip") as file:
        file.take(next(parts_of(b"0123456789", chunk_bytes=4)))
        with pytest.raises(Corrupt, match="before chunk 0"):
            file.keep()

    assert list(tmp_path.iterdir()) == []


def test_damaged_download_cannot_be_kept(tmp_path):
    header, chunk = parts_of(b"0123", chunk_bytes=4)
    chunk.chunk.data = b"0129"

    with FileDownload(tmp_path / "workspace.zip") as file:
        file.take(header)
        with pytest.raises(Corrupt, match="SHA-256"):
            file.take(chunk)
        with pytest.raises(Corrupt, match="ended before"):
            file.keep()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", [None, OTHER, MANIFEST], ids=["none", "another", "the same"])
@pytest.mark.parametrize("cut", [1, 3, -1], ids=["after the header", "in the manifest", "in the payload"])
def test_model_is_written_as_a_file_that_safetensors_loads_wherever_the_stream_breaks_off(tmp_path, cut, held):
    target = tmp_path / "model.safetensors"

    with FileDownload(target, as_safetensors=True, manifest=held) as file:
        for part in list(rest_of(file.download, PAYLOAD, chunk_bytes=16, manifest=MANIFEST))[:cut]:
            file.take(part)
        for part in rest_of(file.download, PAYLOAD, chunk_bytes=16, manifest=MANIFEST):
            file.take(part)
        file.keep()

    loaded = safetensors.numpy.load_file(target)
    assert loaded.keys() == TENSORS.keys()
    assert all(np.array_equal(loaded[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("held", [False, True])
def test_model_without_a_single_byte_is_a_file_too(tmp_path, held):
    tensors = {"w": np.zeros((0, 3), np.float32)}
    manifest = Manifest.of(tensors)
    target = tmp_path / "model.safetensors"

    with FileDownload(target, as_safetensors=True, manifest=manifest if held else None) as file:
        for part in rest_of(file.download, b"", chunk_bytes=16, manifest=manifest):
            file.take(part)
        file.keep()

    assert safetensors.numpy.load_file(target)["w"].shape == (0, 3)


def test_payload_alone_is_written_where_no_safetensors_file_is_wanted(tmp_path):
    with FileDownload(tmp_path / "payload") as file:
        for part in parts_of(PAYLOAD, chunk_bytes=16, manifest=MANIFEST):
            file.take(part)
        file.keep()

    assert (tmp_path / "payload").read_bytes() == PAYLOAD
