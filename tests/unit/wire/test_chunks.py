"""Chunks, manifests, and downloads that are cut off, damaged or resumed."""

import hashlib
import io

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from director.domain.tensors import Manifest, payload_pieces
from director.errors import Corrupt, TensorMismatch
from director.v1 import common_pb2 as pb
from director.wire.chunks import (
    Download,
    FileDownload,
    blob_info,
    checked,
    chunk,
    file_chunks,
    manifest_message,
    manifest_of,
)

TENSORS = {
    "b": np.arange(5, dtype=np.float32),
    "a": np.eye(3),
    "scalar": np.array(7, np.int8),
    "none": np.zeros((0, 2)),
}


def parts_of(data: bytes, *, chunk_bytes: int, first_index: int = 0, manifest: Manifest | None = None):
    header = pb.DownloadHeader(blob=blob_info(len(data), hashlib.sha256(data).digest()), chunk_bytes=chunk_bytes)
    if manifest is not None:
        header.manifest.CopyFrom(manifest_message(manifest))
    yield pb.DownloadPart(header=header)
    for piece in file_chunks(io.BytesIO(data), first_index, chunk_bytes):
        yield pb.DownloadPart(chunk=piece)


def payload_of(tensors) -> tuple[Manifest, bytes]:
    manifest = Manifest.of(tensors)
    return manifest, b"".join(payload_pieces(manifest, tensors))


def test_chunk_whose_bytes_were_altered_is_refused():
    piece = chunk(3, b"some bytes")
    piece.data = b"some bites"

    with pytest.raises(Corrupt, match="chunk 3"):
        checked(piece)


def test_manifest_comes_back_from_its_message_as_it_was():
    manifest = Manifest.of(TENSORS)

    assert manifest_of(manifest_message(manifest)) == manifest


def test_message_that_describes_no_payload_is_refused():
    with pytest.raises(TensorMismatch):
        manifest_of(pb.Manifest(tensors=[pb.TensorInfo(name="w", dtype="F31", shape=[2])]))


@given(st.binary(max_size=200), st.integers(1, 50), st.data())
def test_download_that_breaks_off_anywhere_any_number_of_times_yields_the_same_bytes(data, chunk_bytes, draws):
    download, received = Download(), bytearray()

    while not download.complete:
        parts = list(parts_of(data, chunk_bytes=chunk_bytes, first_index=download.next_index))
        for part in parts[: draws.draw(st.integers(2, len(parts))) if len(parts) > 1 else 1]:
            received += download.take(part)

    assert bytes(received) == data


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


def test_chunk_out_of_turn_is_refused():
    header, one, two = parts_of(b"12345678", chunk_bytes=4)
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="chunk 1 arrived where chunk 0 was due"):
        download.take(two)

    download.take(one)
    assert download.next_index == 1


def test_chunk_before_any_header_is_refused():
    with pytest.raises(Corrupt):
        Download().take(pb.DownloadPart(chunk=chunk(0, b"1")))


@pytest.mark.parametrize("data", [b"", b"123", b"12345"])
def test_chunk_of_another_length_than_the_header_says_is_refused(data):
    header, _, _ = parts_of(b"12345678", chunk_bytes=4)
    download = Download()
    download.take(header)

    with pytest.raises(Corrupt, match="not what its header says"):
        download.take(pb.DownloadPart(chunk=chunk(0, data)))


def test_whole_that_does_not_match_its_digest_is_refused_with_its_last_chunk():
    header, *chunks = parts_of(b"12345678", chunk_bytes=4)
    header.header.blob.sha256 = hashlib.sha256(b"something else").digest()
    download = Download()
    download.take(header)
    download.take(chunks[0])

    with pytest.raises(Corrupt, match="SHA-256"):
        download.take(chunks[1])


def test_resumed_stream_of_other_bytes_is_refused():
    download = Download()
    header, one, _ = parts_of(b"12345678", chunk_bytes=4)
    download.take(header)
    download.take(one)

    with pytest.raises(Corrupt, match="changed"):
        download.take(next(parts_of(b"87654321", chunk_bytes=4, first_index=1)))


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


def test_model_is_written_as_a_file_that_safetensors_loads_even_when_the_stream_breaks_off(tmp_path):
    manifest, payload = payload_of(TENSORS)
    target = tmp_path / "model.safetensors"

    with FileDownload(target, as_safetensors=True) as file:
        for part in list(parts_of(payload, chunk_bytes=16, manifest=manifest))[:3]:
            file.take(part)
        for part in parts_of(payload, chunk_bytes=16, first_index=file.next_index, manifest=manifest):
            file.take(part)
        file.keep()

    loaded = safetensors.numpy.load_file(target)
    assert loaded.keys() == TENSORS.keys()
    assert all(np.array_equal(loaded[name], TENSORS[name]) for name in TENSORS)
