import itertools
import json

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from director.domain.safetensors import LONGEST_HEADER, Piece, header_bytes, plan_rewrite
from director.domain.tensor_info import DTYPES, TensorInfo
from director.domain.tensors import Manifest, payload_pieces
from director.errors import TensorMismatch
from tests.strategies import tensors


def split(file):
    length = header_bytes(file[:8])
    return file[8 : 8 + length], file[8 + length :]


def written_by_safetensors(model, metadata=None):
    specs = {
        name: safetensors.TensorSpec(
            dtype=each.dtype.name, shape=each.shape, data_ptr=each.ctypes.data, data_len=each.nbytes
        )
        for name, each in model.items()
    }
    return bytes(safetensors.serialize(specs, metadata=metadata))


def entry(start=0, stop=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def refusal(header, data_bytes=8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(TensorMismatch) as refused:
        plan_rewrite(text, data_bytes=data_bytes)
    return str(refused.value)


@given(tensors(), st.none() | st.just({"format": "np"}))
def test_file_of_the_real_library_is_rewritten_to_a_payload(model, metadata):
    header, data = split(written_by_safetensors(model, metadata))

    rewrite = plan_rewrite(header, data_bytes=len(data))

    assert rewrite.manifest == Manifest.of(model)
    payload = b"".join(data[piece.start : piece.stop] for piece in rewrite.pieces)
    assert payload == b"".join(payload_pieces(rewrite.manifest, model))


@given(tensors(), st.randoms())
def test_file_of_any_order_is_rewritten_to_a_payload(model, random):
    order = list(model)
    random.shuffle(order)
    data = b"".join(model[name].tobytes() for name in order)
    ends = [*itertools.accumulate(model[name].nbytes for name in order)]
    infos = {tensor.name: tensor for tensor in Manifest.of(model).tensors}
    entries = {
        name: entry(stop - model[name].nbytes, stop, infos[name].dtype, model[name].shape)
        for name, stop in zip(order, ends, strict=True)
    }

    rewrite = plan_rewrite(json.dumps(entries).encode(), data_bytes=len(data))

    assert [piece.name for piece in rewrite.pieces] == [tensor.name for tensor in rewrite.manifest.tensors]
    payload = b"".join(data[piece.start : piece.stop] for piece in rewrite.pieces)
    assert payload == b"".join(payload_pieces(Manifest.of(model), model))


@given(tensors())
def test_file_of_ours_is_left_as_it_is(model):
    manifest = Manifest.of(model)
    header, rest = split(manifest.encoded)

    rewrite = plan_rewrite(header, data_bytes=manifest.size_bytes)

    assert rest == b""
    assert rewrite.manifest == manifest
    assert [piece.start for piece in rewrite.pieces] == [0, *(piece.stop for piece in rewrite.pieces)][:-1]


def test_pieces_stand_in_the_order_of_the_payload():
    header = {"b": entry(0, 2, "F16", (1,)), "c": entry(2, 6, "F32", (1,)), "a": entry(6, 10, "F32", (1,))}

    rewrite = plan_rewrite(json.dumps(header).encode(), data_bytes=10)

    assert rewrite.pieces == (Piece("a", 6, 10), Piece("c", 2, 6), Piece("b", 0, 2))
    assert rewrite.manifest.tensors[0] == TensorInfo("a", "F32", (1,))


@pytest.mark.parametrize(
    "prefix",
    [b"", b"\x10\0\0\0\0\0\0", bytes(8), (LONGEST_HEADER + 1).to_bytes(8, "little"), b"PK\x03\x04\x14\0\0\0\x08"],
    ids=["empty", "short", "zero", "huge", "a zip file"],
)
def test_file_that_does_not_begin_with_a_length_is_refused(prefix):
    with pytest.raises(TensorMismatch, match="it does not begin with the length of a header"):
        header_bytes(prefix)


def test_longest_header_of_the_format_is_accepted():
    assert header_bytes(LONGEST_HEADER.to_bytes(8, "little") + b"{") == LONGEST_HEADER


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"", "its header is not JSON"),
        (b"{", "its header is not JSON"),
        (b"\xff\xfe", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        (b'{"w":' + b"9" * 5000 + b"}", "its header is not JSON"),
        ([], "its header is not a JSON object"),
        (b'{"w": 1, "w": 1}', "its header holds a name twice"),
        ({}, "it has 8 bytes of data, its header says 0"),
        ({"__metadata__": {"format": "pt"}}, "it has 8 bytes of data, its header says 0"),
        ({"w": 3}, "the header's entry 'w' is not a dtype, a shape and two offsets"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "the header's entry 'w' is not"),
        ({"w": entry(shape=[2.0])}, "the header's entry 'w' is not"),
        ({"w": entry(shape=[True, 2])}, "the header's entry 'w' is not"),
        ({"w": entry(shape=[-2])}, "the header's entry 'w' is not"),
        ({"w": entry(-8, 0)}, "the header's entry 'w' is not"),
        ({"w": {**entry(), "data_offsets": [0, 8, 8]}}, "the header's entry 'w' is not"),
        ({"w": entry(dtype="F31")}, "tensor 'w' has dtype 'F31'; known are"),
        ({"w": entry(dtype="C64", shape=[1])}, "tensor 'w' has dtype 'C64'; known are"),
        ({"": entry()}, "a tensor's name has 1 to 512 characters"),
        ({"w": entry(shape=[3])}, "tensor 'w' has 8 bytes, its shape needs 12"),
        ({"w": entry(8, 0)}, "tensor 'w' has -8 bytes, its shape needs 8"),
        ({"w": entry(8, 16)}, "tensor 'w' has a hole in front of it"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "tensor 'b' overlaps another one"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "tensor 'b' overlaps another one"),
        ({"a": entry(0, 8), "b": entry(9, 17)}, "tensor 'b' has a hole in front of it"),
        ({"a": entry(0, 8), "b": entry(8, 16)}, "it has 8 bytes of data, its header says 16"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_broken_header_is_refused(header, sentence):
    assert sentence in refusal(header)


def test_file_without_a_tensor_is_no_model():
    assert "at least one tensor" in refusal({}, data_bytes=0)


@given(st.binary(max_size=64) | st.builds(lambda text: text.encode(), st.text()))
def test_whatever_a_header_holds_it_is_read_or_refused(header):
    with pytest.raises(TensorMismatch):
        plan_rewrite(header, data_bytes=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type_of_the_real_library_is_known(dtype):
    header, data = split(written_by_safetensors({"w": np.zeros(3, DTYPES[dtype])}))

    rewrite = plan_rewrite(header, data_bytes=len(data))

    assert rewrite.manifest.tensors == (TensorInfo("w", dtype, (3,)),)
