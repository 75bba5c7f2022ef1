import json
from itertools import pairwise

import numpy as np
import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st

from director.domain.tensors import (
    ALIGNMENT,
    DTYPES,
    Manifest,
    TensorInfo,
    check_finite,
    describe,
    layout_order,
    payload_pieces,
    tensor_at,
)
from director.errors import TensorMismatch
from tests.strategies import FLOATS, INTEGERS, manifests, tensors

ONE_OF_EACH = Manifest(
    tuple(sorted((TensorInfo(f"t{n}", name, (3, n + 1)) for n, name in enumerate(DTYPES)), key=layout_order))
)


def payload_of(manifest, model):
    return b"".join(payload_pieces(manifest, model))


def cut_points(manifest):
    return range(0, manifest.size_bytes + ALIGNMENT, ALIGNMENT)


@given(tensors())
def test_safetensors_reads_a_payload_behind_its_header(model):
    manifest = Manifest.of(model)

    loaded = dict(safetensors.deserialize(manifest.safetensors_header() + payload_of(manifest, model)))

    assert loaded.keys() == model.keys()
    for name, array in model.items():
        assert DTYPES[loaded[name]["dtype"]] == array.dtype
        assert tuple(loaded[name]["shape"]) == array.shape
        assert loaded[name]["data"] == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_and_ours_agree_on_every_element_type(dtype):
    values = np.arange(6).reshape(2, 3).astype(DTYPES[dtype])
    spec = safetensors.TensorSpec(
        dtype=values.dtype.name, shape=values.shape, data_ptr=values.ctypes.data, data_len=values.nbytes
    )
    manifest = Manifest.of({"w": values})

    theirs = bytes(safetensors.serialize({"w": spec}))

    assert manifest.safetensors_header() + payload_of(manifest, {"w": values}) == theirs


def test_safetensors_writes_the_same_file_for_a_model_of_one_width(tmp_path):
    model = {f"layer{n}": np.full((n, 2), n, np.float32) for n in range(11)}
    specs = {
        name: safetensors.TensorSpec(dtype="float32", shape=each.shape, data_ptr=each.ctypes.data, data_len=each.nbytes)
        for name, each in model.items()
    }
    manifest = Manifest.of(model)

    ours = manifest.safetensors_header() + payload_of(manifest, model)

    assert ours == bytes(safetensors.serialize(specs))


@given(tensors())
def test_payload_gives_back_the_tensors_that_were_laid_out(model):
    manifest = Manifest.of(model)

    read = manifest.arrays(payload_of(manifest, model))

    assert {name: (each.dtype, each.shape, each.tobytes()) for name, each in read.items()} == {
        name: (each.dtype, each.shape, each.tobytes()) for name, each in model.items()
    }


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
        np.arange(12, dtype=np.int64)[::2],
        np.array(1.5),
    ],
    ids=["big endian", "transposed", "every second", "scalar"],
)
def test_array_of_any_layout_in_memory_is_laid_out_in_c_order_and_little_endian(array):
    model = {"w": array}
    manifest = Manifest.of(model)

    read = manifest.arrays(payload_of(manifest, model))["w"]

    assert read.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, array)


def test_payload_of_another_length_is_refused():
    manifest = Manifest((TensorInfo("w", "F32", (2,)),))

    with pytest.raises(TensorMismatch, match="the payload has 7 bytes, its manifest says 8"):
        manifest.arrays(bytes(7))


@given(manifests)
def test_manifest_comes_back_from_json_as_it_was(manifest):
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


@given(manifests)
@example(Manifest((TensorInfo("a", "F32", ()), TensorInfo("b", "U32", (0,)), TensorInfo("c", "F32", ()))))
def test_segments_cover_the_payload_once_and_are_as_long_as_possible(manifest):
    segments = manifest.segments

    assert [segment.start for segment in segments] == [0, *(segment.stop for segment in segments)][: len(segments)]
    assert sum(segment.stop - segment.start for segment in segments) == manifest.size_bytes
    assert all(one.dtype != two.dtype for one, two in pairwise(segments))
    assert all(segment.start % segment.dtype.itemsize == 0 for segment in segments)
    assert all(segment.start < segment.stop for segment in segments)


@given(manifests, st.data())
def test_cutting_a_payload_anywhere_on_a_chunk_keeps_every_byte_in_its_segment(manifest, data):
    cuts = sorted({0, manifest.size_bytes, *data.draw(st.sets(st.sampled_from(cut_points(manifest))))})
    cuts = [cut for cut in cuts if cut <= manifest.size_bytes]

    pieces = [
        (segment.dtype, start + segment.start, start + segment.stop)
        for start, stop in pairwise(cuts)
        for segment in manifest.within(start, stop)
    ]

    whole = [(segment.dtype, at) for segment in manifest.segments for at in range(segment.start, segment.stop)]
    assert [(dtype, at) for dtype, start, stop in pieces for at in range(start, stop)] == whole
    assert all(start % dtype.itemsize == stop % dtype.itemsize == 0 for dtype, start, stop in pieces)


@given(manifests)
def test_each_byte_of_a_payload_belongs_to_the_tensor_that_is_laid_out_there(manifest):
    owners = [tensor_at(manifest, offset) for offset in range(manifest.size_bytes)]

    assert owners == [tensor.name for tensor in manifest.tensors for _ in range(tensor.size_bytes)]
    with pytest.raises(IndexError):
        tensor_at(manifest, manifest.size_bytes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_number_that_is_not_finite_is_found_at_every_position(dtype, value):
    if dtype == "F8_E4M3":
        value = np.nan  # it has no infinity
    tensor = next(tensor for tensor in ONE_OF_EACH.tensors if tensor.dtype == dtype)
    clean = bytes(ONE_OF_EACH.size_bytes)
    flawed = np.array(value).astype(DTYPES[dtype]).tobytes()
    first = next(at for at in range(len(clean)) if tensor_at(ONE_OF_EACH, at) == tensor.name)

    for at in range(first, first + tensor.size_bytes, len(flawed)):
        payload = clean[:at] + flawed + clean[at + len(flawed) :]
        start = at - at % ALIGNMENT
        check_finite(ONE_OF_EACH, payload[:start], start=0)
        check_finite(ONE_OF_EACH, payload[start + ALIGNMENT :], start=start + ALIGNMENT)
        for part in (payload[start:], memoryview(payload)[start : start + ALIGNMENT]):
            with pytest.raises(TensorMismatch, match=f"tensor '{tensor.name}' holds NaN or infinity"):
                check_finite(ONE_OF_EACH, part, start=start)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_pattern_of_nan_is_found_without_a_warning(dtype):
    width = DTYPES[dtype].itemsize
    manifest = Manifest((TensorInfo("w", dtype, (1,)),))
    tops = [bytes(width - min(width, 2)) + bits.to_bytes(2, "little")[-width:] for bits in range(0, 2**16, 7)]
    values = [np.frombuffer(top, DTYPES[dtype]).item() for top in tops]

    for top in [top for top, value in zip(tops, values, strict=True) if value != value]:
        with pytest.raises(TensorMismatch):
            check_finite(manifest, top, start=0)


@pytest.mark.parametrize("dtype", [*INTEGERS, "BOOL"])
def test_integers_and_truth_values_are_always_finite(dtype):
    manifest = Manifest((TensorInfo("w", dtype, (4,)),))

    check_finite(manifest, b"\xff" * manifest.size_bytes, start=0)


@given(tensors())
def test_finite_models_pass_in_one_part_and_in_many(model):
    manifest = Manifest.of(model)
    payload = payload_of(manifest, model)

    check_finite(manifest, payload, start=0)
    for start in range(0, len(payload), ALIGNMENT):
        check_finite(manifest, payload[start : start + ALIGNMENT], start=start)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([("b", "F32", (2,)), ("w", "F32", (2, 3))], ""),
        ([("w", "F32", (2, 3))], "tensor 'b' is missing"),
        ([("b", "F32", (2,)), ("c", "F32", ()), ("w", "F32", (2, 3))], "tensor 'c' is not one of the model's"),
        ([("b", "F32", (2,)), ("w", "F32", (3, 2))], "tensor 'w' is F32 [3, 2], the model's is F32 [2, 3]"),
        ([("w", "F32", (2, 3)), ("b", "F16", (2,))], "tensor 'b' is F16 [2], the model's is F32 [2]"),
    ],
)
def test_difference_from_the_model_is_told_in_one_sentence(tensors, sentence):
    model = Manifest((TensorInfo("b", "F32", (2,)), TensorInfo("w", "F32", (2, 3))))

    assert model.difference(Manifest(tuple(TensorInfo(*each) for each in tensors))) == sentence


@given(manifests, manifests)
def test_only_equal_manifests_have_no_difference(one, two):
    assert (one.difference(two) == "") == (one == two)
    assert one.difference(Manifest(one.tensors)) == ""


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "sentence"),
    [
        ("", "F32", (), "a tensor's name has 1 to 512 characters"),
        ("w" * 513, "F32", (), "a tensor's name has 1 to 512 characters"),
        ("__metadata__", "F32", (), "is not '__metadata__'"),
        ("a\0b", "F32", (), "is not 'a\\x00b'"),
        ("\ud800", "F32", (), "is not '\\ud800'"),
        ("w", "F31", (), "tensor 'w' has dtype 'F31'; known are F64, F32"),
        ("w", "F32", (2, -1), "tensor 'w' has a negative length"),
        ("w", "F32", (1,) * 65, "tensor 'w' has 65 axes; at most 64"),
        ("w", "F32", (2**40, 2**40), "too large for any memory"),
        ("w", "F32", (0, 2**62), "too large for any memory"),
    ],
)
def test_tensor_that_no_model_can_hold_is_refused(name, dtype, shape, sentence):
    with pytest.raises(TensorMismatch) as refused:
        TensorInfo(name, dtype, shape)

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([], "at least one tensor"),
        ([("w", "F32"), ("w", "F32")], "occurs twice"),
        ([("w", "F32"), ("w", "F16")], "occurs twice"),
        ([("w", "F32"), ("b", "F32")], "tensor 'b' comes before 'w'"),
        ([("a", "F16"), ("b", "F32")], "tensor 'b' comes before 'a'"),
    ],
)
def test_manifest_without_order_is_refused(tensors, sentence):
    with pytest.raises(TensorMismatch, match=sentence):
        Manifest(tuple(TensorInfo(name, dtype, (2,)) for name, dtype in tensors))


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["a"]), np.array([None]), np.zeros(2, "f4,f4")])
def test_array_of_an_element_type_that_models_cannot_hold_is_refused(array):
    with pytest.raises(TensorMismatch, match="tensor 'w' has dtype"):
        describe("w", array)
