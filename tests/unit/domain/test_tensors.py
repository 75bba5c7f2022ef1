import hashlib
import json
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st

from director.domain.limits import MAX_MANIFEST_BYTES
from director.domain.tensor_info import DTYPES, TensorInfo, layout_order
from director.domain.tensors import ALIGNMENT, Manifest, check_finite, payload_pieces, tensor_at
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

    loaded = dict(safetensors.deserialize(manifest.encoded + payload_of(manifest, model)))

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

    assert manifest.encoded + payload_of(manifest, {"w": values}) == theirs


def test_safetensors_writes_the_same_file_for_a_model_of_one_width(tmp_path):
    model = {f"layer{n}": np.full((n, 2), n, np.float32) for n in range(11)}
    specs = {
        name: safetensors.TensorSpec(dtype="float32", shape=each.shape, data_ptr=each.ctypes.data, data_len=each.nbytes)
        for name, each in model.items()
    }
    manifest = Manifest.of(model)

    ours = manifest.encoded + payload_of(manifest, model)

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


# The canonical form


def framed(header: object) -> bytes:
    """A header as the beginning of a file, padded and with its length in front."""
    text = header.encode() if isinstance(header, str) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def entry(start: int = 0, stop: int = 8, dtype: object = "F32", shape: object = (2,), **more: object) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop], **more}


def is_refused_or_canonical(encoded: bytes) -> bool:
    try:
        return Manifest.decode(encoded).encoded == encoded
    except TensorMismatch:
        return True


@given(manifests)
def test_manifest_comes_back_from_its_canonical_form_as_it_was(manifest):
    read = Manifest.decode(manifest.encoded)

    assert read == manifest == Manifest.from_header(manifest.header)
    assert hash(read) == hash(manifest)
    assert read.tensors == manifest.tensors
    assert (read.segments, read.size_bytes) == (manifest.segments, manifest.size_bytes)
    assert read.digest == hashlib.sha256(manifest.encoded).hexdigest()
    assert read.content.size_bytes == len(manifest.encoded)


@given(manifests, manifests)
def test_manifests_of_different_tensors_have_different_forms(one, two):
    assert (one == two) == (one.tensors == two.tensors) == (one.digest == two.digest)


@given(manifests, st.data())
def test_form_in_which_a_byte_was_changed_is_refused_or_that_of_other_tensors(manifest, data):
    at = data.draw(st.integers(0, len(manifest.encoded) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != manifest.encoded[at]))

    assert is_refused_or_canonical(manifest.encoded[:at] + bytes([byte]) + manifest.encoded[at + 1 :])


@given(manifests, st.data())
def test_form_that_was_cut_or_has_more_bytes_is_refused(manifest, data):
    cut = data.draw(st.integers(0, len(manifest.encoded) - 1))
    more = data.draw(st.binary(min_size=1, max_size=9) | st.just(b" ") | st.just(b" " * 8))

    for encoded in (manifest.encoded[:cut], manifest.encoded + more):
        with pytest.raises(TensorMismatch):
            Manifest.decode(encoded)


@given(st.binary(max_size=64) | st.text(max_size=64).map(framed))
def test_bytes_that_are_no_manifest_are_refused(encoded):
    with pytest.raises(TensorMismatch):
        Manifest.decode(encoded)


json_things = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8"]) | json_things,
                "shape": st.lists(st.integers(0, 3), max_size=2) | json_things,
                "data_offsets": st.lists(st.integers(0, 12), min_size=2, max_size=2) | json_things,
            }
        )
        | json_things,
        max_size=2,
    )
)
def test_header_of_anything_is_refused_or_canonical(header):
    assert is_refused_or_canonical(framed(header))


A, B = entry(0, 8), entry(8, 16)
NOT_CANONICAL = {
    "no bytes": b"",
    "no header": bytes(8),
    "no tensors": framed({}),
    "a list": framed([]),
    "a number": framed("7"),
    "not JSON": framed("{"),
    "not UTF-8": framed({"w": A}).replace(b"w", b"\xff"),
    "UTF-16": framed(json.dumps({"w": A}, separators=(",", ":"))).decode().encode("utf-16-le"),
    "deep": framed("[" * 100_000),
    "deep shape": framed('{"w":{"dtype":"F32","shape":' + "[" * 100_000),
    "huge number": framed('{"w":{"dtype":"F32","shape":[' + "9" * 5000 + "]}}"),
    "moved": framed({"w": entry(8, 16)}),
    "gap": framed({"a": A, "b": entry(16, 24)}),
    "overlap": framed({"a": A, "b": entry(4, 12)}),
    "other length": framed({"w": entry(0, 12)}),
    "order of names": framed({"b": A, "a": B}),
    "order of widths": framed({"a": entry(0, 4, "F16"), "b": entry(4, 12)}),
    "name twice": framed('{"w":%s,"w":%s}' % ((json.dumps(A, separators=(",", ":")),) * 2)),
    "extra key": framed({"w": entry(more=1)}),
    "missing shape": framed({"w": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "missing offsets": framed({"w": {"dtype": "F32", "shape": [2]}}),
    "other order of keys": framed({"w": {"shape": [2], "dtype": "F32", "data_offsets": [0, 8]}}),
    "metadata": framed({"__metadata__": {"format": "pt"}, "w": A}),
    "truth": framed({"w": entry(0, 4, shape=[True])}),
    "float": framed({"w": entry(shape=[2.0])}),
    "infinity": framed({"w": entry(shape=[float("inf")])}),
    "negative": framed({"w": entry(shape=[-2])}),
    "text": framed({"w": entry(shape="2")}),
    "mapping": framed({"w": entry(shape={"2": 1})}),
    "unknown type": framed({"w": entry(dtype="F31")}),
    "type of another kind": framed({"w": entry(dtype=["F32"])}),
    "half a character": framed('{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "escaped": framed('{"\\u0077":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "spaces": framed(json.dumps({"w": A})),
    "leading space": framed(" " + json.dumps({"w": A}, separators=(",", ":"))),
    "too much padding": framed(json.dumps({"w": A}, separators=(",", ":")) + " " * 8),
    "no padding": (lambda text: len(text).to_bytes(8, "little") + text)(framed({"w": A})[8:].rstrip()),
    "wrong prefix": (1).to_bytes(8, "little") + framed({"w": A})[8:],
    "big endian": framed({"w": A})[:8][::-1] + framed({"w": A})[8:],
}


@pytest.mark.parametrize("encoded", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_every_other_form_is_refused(encoded):
    with pytest.raises(TensorMismatch, match=r"^(the manifest|a model|a tensor's|tensor) "):
        Manifest.decode(encoded)


def test_form_that_the_refused_ones_are_made_from_is_canonical():
    assert Manifest.decode(framed({"a": A, "b": B})).tensors == tuple(TensorInfo(name, "F32", (2,)) for name in "ab")


def test_tensors_too_large_for_any_memory_together_are_refused():
    halves = [TensorInfo(name, "U8", (2**62,)) for name in "ab"]

    assert Manifest(halves[:1]).size_bytes == 2**62
    with pytest.raises(TensorMismatch, match=f"the 2 tensors have {2**63} bytes, too many for any memory"):
        Manifest(halves)


def test_manifest_larger_than_any_may_be_is_refused():
    tensors = [TensorInfo(f"{number:05}" + "🏥" * 507, "U8", ()) for number in range(33_000)]

    with pytest.raises(TensorMismatch, match=f"the manifest of 33000 tensors has .*; at most {MAX_MANIFEST_BYTES}"):
        Manifest(tensors)


# Many tensors


def test_manifest_of_a_hundred_thousand_tensors_is_made_and_read_in_seconds_and_held_as_its_bytes():
    tensors = [TensorInfo(f"layers.{number:06}.weight", "F32", (64, 64)) for number in range(100_000)]

    before = time.process_time()
    manifest = Manifest(tensors)
    read = Manifest.decode(manifest.encoded)
    spent = time.process_time() - before

    assert read == manifest
    assert spent < 20
    assert sum(sys.getsizeof(getattr(read, slot)) for slot in Manifest.__slots__) < 1.01 * len(read.encoded)
    assert len(read.segments) == 1
    assert len(repr(read)) < 200


def test_part_of_a_payload_of_many_segments_is_found_without_looking_at_all_of_them():
    tensors = [TensorInfo(f"{number:05}", ("F32", "I32")[number % 2], (4,)) for number in range(20_000)]
    manifest = Manifest(tensors)

    before = time.process_time()
    parts = [list(manifest.within(start, start + 32)) for start in range(0, manifest.size_bytes, 32)]
    spent = time.process_time() - before

    assert [len(part) for part in parts] == [2] * 10_000
    assert spent < 5
