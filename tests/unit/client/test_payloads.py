"""Models are spooled into the wire's layout, wherever they come from."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from director.client.payloads import BLOCK_BYTES, spool
from director.domain.content import Content
from director.domain.tensors import Manifest, payload_pieces
from director.errors import InvalidArgument, TensorMismatch

TENSORS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([1.5, -2.5]),
    "steps": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
}


def payload_of(tensors):
    return b"".join(payload_pieces(Manifest.of(tensors), tensors))


def test_arrays_become_the_payload_that_their_manifest_describes(tmp_path):
    upload = spool(TENSORS, tmp_path / "model")

    written = (tmp_path / "model").read_bytes()
    assert written == payload_of(TENSORS)
    assert upload.manifest == Manifest.of(TENSORS)
    assert upload.payload == Content(len(written), hashlib.sha256(written).hexdigest())


def test_file_and_arrays_of_one_model_become_the_same_payload(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "np"})

    from_file = spool(tmp_path / "model.safetensors", tmp_path / "one")
    from_arrays = spool(TENSORS, tmp_path / "two")

    assert from_file == from_arrays
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_file_in_another_order_is_put_into_the_order_of_the_wire(tmp_path):
    data = np.array([1, 2], np.int8).tobytes() + np.array([3.0]).tobytes()
    header = {
        "small": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]},
        "wide": {"dtype": "F64", "shape": [1], "data_offsets": [2, 10]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "odd.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

    spool(str(tmp_path / "odd.safetensors"), tmp_path / "model")

    assert (tmp_path / "model").read_bytes() == payload_of(
        {"small": np.array([1, 2], np.int8), "wide": np.array([3.0])}
    )


def test_tensor_of_many_blocks_is_copied_whole(tmp_path):
    tensors = {"w": np.random.default_rng(1).random(3 * BLOCK_BYTES // 8 + 5)}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")

    spool(tmp_path / "model.safetensors", tmp_path / "model")

    assert (tmp_path / "model").read_bytes() == payload_of(tensors)


def test_whatever_numpy_makes_an_array_of_is_a_tensor(tmp_path):
    big_endian = np.array([1.0, 2.0], ">f4")
    strided = np.arange(10.0)[::2]
    half = np.array([1, 2], ml_dtypes.bfloat16)

    upload = spool({"list": [1.0, 2.0], "big": big_endian, "strided": strided, "half": half}, tmp_path / "model")

    arrays = upload.manifest.arrays((tmp_path / "model").read_bytes())
    assert arrays["list"].tolist() == [1.0, 2.0]
    assert arrays["big"].tolist() == [1.0, 2.0]
    assert arrays["strided"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert arrays["half"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("model", [{}, {"w": np.array(["text"])}, {"w": np.array([None])}])
def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(TensorMismatch):
        spool(model, tmp_path / "model")


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_file_that_was_cut_off_is_refused(keep, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(TensorMismatch, match=r"not a whole \.safetensors file"):
        spool(path, tmp_path / "model")


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match=r"model '.*nowhere.*' cannot be read: No such file"):
        spool(tmp_path / "nowhere.safetensors", tmp_path / "model")
