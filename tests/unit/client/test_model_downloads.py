"""Models arrive whole, over as many streams as it takes; their manifests arrive once."""

import hashlib

import numpy as np
import pytest
import safetensors.numpy

from director.domain.tensors import Manifest, payload_pieces
from director.errors import Corrupt, InvalidArgument, ModelNotFound, Unavailable
from director.v1 import common_pb2
from director.v1 import experiments_pb2 as pb
from director.wire.chunks import manifest_chunks
from director.wire.codec import write_content
from tests.unit.client.fake_director import UID, later

MODEL = {"bias": np.array([0.5, -0.5]), "weights": np.arange(8, dtype=np.float32)}
MANIFEST = Manifest.of(MODEL)
PAYLOAD = b"".join(payload_pieces(MANIFEST, MODEL))
CHUNK_BYTES = 16
NUMBER = 2


class Model:
    """Sends the model as a director does, and breaks each stream off after some messages."""

    def __init__(self, *, messages: int = 1000, payload: bytes = PAYLOAD) -> None:
        self._messages = messages
        self._payload = payload

    def __call__(self, request):
        return [*self._parts(request)[: self._messages], *([later(Unavailable)] * (self._messages < 1000))]

    def _parts(self, request):
        blob = common_pb2.BlobInfo(size_bytes=len(PAYLOAD), sha256=hashlib.sha256(PAYLOAD).digest())
        header = common_pb2.DownloadHeader(
            blob=blob, chunk_bytes=CHUNK_BYTES, manifest=write_content(MANIFEST.content), model_number=NUMBER
        )
        parts = [common_pb2.DownloadPart(header=header)]
        if request.held_manifest_sha256 != MANIFEST.content.sha256:
            parts += [common_pb2.DownloadPart(manifest_chunk=each) for each in manifest_chunks(MANIFEST)]
        for index in range(request.first_index, -(-len(PAYLOAD) // CHUNK_BYTES)):
            data = self._payload[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            parts.append(common_pb2.DownloadPart(chunk=common_pb2.Chunk(index=index, data=data)))
        return parts


@pytest.fixture
def handle(federation):
    return federation.experiment("digits")


def test_model_that_arrives_over_many_streams_is_asked_for_by_its_number_and_without_its_manifest(director, handle):
    director.turns["DownloadModel"] = [Model(messages=3)]
    director.answers["DownloadModel"] = Model()

    model = handle.model("best")

    assert {name: array.tolist() for name, array in model.items()} == {
        name: array.tolist() for name, array in MODEL.items()
    }
    assert director.requests("DownloadModel") == [
        pb.DownloadModelRequest(experiment_uid=UID, choice=pb.DownloadModelRequest.BEST),
        pb.DownloadModelRequest(
            experiment_uid=UID, number=NUMBER, first_index=1, held_manifest_sha256=MANIFEST.content.sha256
        ),
    ]


def test_stream_that_broke_off_before_the_manifest_was_whole_asks_for_it_again(director, handle):
    director.turns["DownloadModel"] = [Model(messages=1)]
    director.answers["DownloadModel"] = Model()

    handle.model("last")

    assert [each.held_manifest_sha256 for each in director.requests("DownloadModel")] == [b"", b""]


def test_file_is_the_manifest_and_the_payload(director, handle, tmp_path):
    director.turns["DownloadModel"] = [Model(messages=3)]
    director.answers["DownloadModel"] = Model()

    number = handle.download_model("best", tmp_path / "model.safetensors")

    assert number == NUMBER
    assert (tmp_path / "model.safetensors").read_bytes() == MANIFEST.encoded + PAYLOAD
    assert safetensors.numpy.load_file(tmp_path / "model.safetensors").keys() == MODEL.keys()


@pytest.mark.parametrize("failing", [Model(payload=bytes(len(PAYLOAD))), [], ModelNotFound("not kept")])
def test_model_that_does_not_arrive_leaves_no_file(director, handle, tmp_path, failing):
    director.answers["DownloadModel"] = failing

    with pytest.raises((Corrupt, ModelNotFound)):
        handle.download_model("best", tmp_path / "model.safetensors")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["newest", ""])
def test_model_that_is_named_by_another_word_is_refused_before_anything_is_asked(director, handle, which):
    with pytest.raises(InvalidArgument, match="'best', 'last', 'initial' or a number"):
        handle.model(which)

    assert director.requests("DownloadModel") == []
