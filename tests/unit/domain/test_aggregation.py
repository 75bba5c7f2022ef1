import hashlib
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain.aggregation import RULES, fold_part, rounding, rule
from director.domain.aggregation.mean import BLOCK, average, weighted_average
from director.domain.tensor_info import DTYPES, TensorInfo
from director.domain.tensors import ALIGNMENT, Manifest
from director.errors import InvalidPlan, TensorMismatch
from tests.strategies import FLOATS, INTEGERS, columns, rounds_of_updates

AVERAGE = rule("weighted_average")


GOLDEN = {
    "F64": "9197970fcdbc03a8",
    "F32": "42c5e9049dd00b24",
    "F16": "d34d7a4d362eeae8",
    "BF16": "d06cd38efd375505",
    "F8_E5M2": "06e28adafebbb1d9",
    "F8_E4M3": "54461f38e9cdd684",
    "I64": "8d19df1c4ab23d5d",
    "I32": "803d72ee2beba260",
    "I16": "9a1ad1f626bcc8eb",
    "I8": "291ec64412c4eda2",
    "U64": "7d30a35bbe5c01d4",
    "U32": "f538829d82496453",
    "U16": "32746ab23d0aa8a0",
    "U8": "bbd1c2fb20687d0b",
    "BOOL": "0be7d87898e7cba4",
}
"""Digests of one average for each element type; other ones are another version of the rule."""


def finite_values(dtype, name):
    """The same pseudo-random values on every machine."""
    kind = DTYPES[dtype]
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(4096), np.uint8)
    if kind == np.bool_:
        return drawn % 2 == 1
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(drawn.view(kind)), drawn.view(kind), kind.type(1))


def fold(columns, samples):
    return weighted_average(np.zeros_like(columns[0]), columns, np.array(samples, np.float64))


def same_bits(one, two):
    return one.dtype == two.dtype and one.tobytes() == two.tobytes()


def slow_mean(columns, samples):
    """The exact means, as fractions."""
    whole = sum(Fraction(each) for each in samples)
    means = [Fraction(0)] * len(columns[0])
    for column, each in zip(columns, samples, strict=True):
        weight = Fraction(each) / whole
        means = [mean + Fraction(value) * weight for mean, value in zip(means, column.tolist(), strict=True)]
    return means


def spacing(dtype, value):
    """The distance between neighbours around a value, of the type or of float64, whichever is coarser."""
    if np.issubdtype(dtype, np.integer):
        return Fraction(1) + Fraction(abs(value)) * Fraction(2) ** -49
    limits = ml_dtypes.finfo(dtype)
    return max(Fraction(abs(value)) * Fraction(float(limits.eps)), Fraction(float(limits.smallest_subnormal)))


@given(columns(FLOATS + INTEGERS))
def test_average_agrees_with_a_slow_one_in_exact_fractions(drawn):
    updates, samples = drawn

    result = fold(updates, samples)

    for got, want, *values in zip(result.tolist(), slow_mean(updates, samples), *updates, strict=True):
        largest = max(abs(Fraction(each)) for each in np.array(values).tolist())
        assert abs(Fraction(got) - want) <= spacing(result.dtype, want) + largest * Fraction(2) ** -49


@given(columns(tuple(name for name in INTEGERS if name not in ("I64", "U64"))))
def test_average_of_integers_is_exact_and_rounds_half_to_even(drawn):
    updates, samples = drawn

    result = fold(updates, samples)

    assert result.tolist() == [round(each) for each in slow_mean(updates, samples)]


@given(columns(("BOOL",)))
def test_truth_value_is_that_of_more_than_half_of_the_samples(drawn):
    updates, samples = drawn

    result = fold(updates, samples)

    assert result.tolist() == [each > Fraction(1, 2) for each in slow_mean(updates, samples)]


@given(columns())
def test_average_never_leaves_the_range_of_what_is_averaged(drawn):
    updates, samples = drawn

    result = fold(updates, samples)

    rows = list(zip(*(update.tolist() for update in updates), strict=True))
    assert all(min(row) <= value <= max(row) for value, row in zip(result.tolist(), rows, strict=True))


@given(columns())
def test_one_envoy_alone_gets_its_own_bytes(drawn):
    (update, *_), samples = drawn

    assert same_bits(fold([update], samples[:1]), update)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_envoy_alone_keeps_even_the_bits_of_nan(dtype):
    update = np.frombuffer(bytes(range(256)) if dtype != "BOOL" else bytes([0, 1]), DTYPES[dtype])

    assert same_bits(fold([update], [3]), update)


@given(columns(), st.integers(2, 7))
def test_envoys_that_agree_get_what_they_agree_on(drawn, collaborators):
    (update, *_), samples = drawn

    result = fold([update] * collaborators, [*samples, *range(1, 8)][:collaborators])

    assert result.tolist() == update.tolist()


@given(columns(), st.randoms())
def test_order_of_arrival_is_irrelevant_once_updates_stand_in_envoy_order(drawn, random):
    updates, samples = drawn
    arrived = list(zip("abcdef", updates, samples, strict=False))
    expected = fold(updates, samples)

    random.shuffle(arrived)
    arrived.sort(key=lambda each: each[0])
    result = fold([update for _, update, _ in arrived], [each for _, _, each in arrived])

    assert same_bits(result, expected)


@given(rounds_of_updates(), st.sampled_from([1, 2, 5]))
def test_size_of_a_chunk_does_not_change_a_single_bit(drawn, height):
    manifest, base, updates, samples = drawn
    whole = fold_part(AVERAGE, manifest, 0, base, updates, samples)

    step = height * ALIGNMENT
    parts = [
        fold_part(
            AVERAGE,
            manifest,
            start,
            base[start : start + step],
            [memoryview(update)[start : start + step] for update in updates],
            samples,
        )
        for start in range(0, len(base), step)
    ]

    assert b"".join(parts) == whole
    assert len(whole) == manifest.size_bytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_size_of_a_block_does_not_change_a_single_bit(dtype):
    drawn = np.random.default_rng(7).standard_normal((3, 2 * BLOCK + 5)) * 40
    updates = [row.astype(DTYPES[dtype]) for row in drawn]

    result = fold(updates, [1, 10, 7])

    for start, stop in [(0, 1), (BLOCK - 1, BLOCK + 1), (BLOCK + 3, 2 * BLOCK + 5)]:
        assert same_bits(fold([update[start:stop] for update in updates], [1, 10, 7]), result[start:stop])


@given(rounds_of_updates())
def test_part_of_mixed_types_is_folded_tensor_by_tensor(drawn):
    manifest, base, updates, samples = drawn

    folded = manifest.arrays(fold_part(AVERAGE, manifest, 0, base, updates, samples))

    models = [manifest.arrays(update) for update in updates]
    for name, array in folded.items():
        assert same_bits(array.reshape(-1), average([model[name].reshape(-1) for model in models], samples))


def test_update_that_is_shorter_than_the_model_is_refused():
    manifest = Manifest((TensorInfo("w", "F32", (8,)),))

    with pytest.raises(TensorMismatch, match="not as long as the model's"):
        fold_part(AVERAGE, manifest, 0, bytes(32), [bytes(32), bytes(16)], np.array([1.0, 1.0]))


def test_average_is_weighted_by_samples_as_in_the_paper():
    updates = [np.array([1.0, 10.0], np.float32), np.array([2.0, 20.0], np.float32)]

    assert fold(updates, [1, 3]).tolist() == [1.75, 17.5]


@pytest.mark.parametrize(("dtype", "digest"), GOLDEN.items())
def test_weighted_average_of_version_1_never_changes_a_bit(dtype, digest):
    updates = [finite_values(dtype, name) for name in ("lyon", "porto", "turku", "vilnius")]

    result = fold(updates, [3, 5_000_011, 70_001, 999])

    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == digest


def test_negative_zero_stays_negative():
    zeros = np.array([-0.0], np.float32)

    assert same_bits(fold([zeros, zeros], [1, 2]), zeros)


@pytest.mark.parametrize("dtype", ["I64", "U64"])
def test_integers_at_the_edges_of_64_bits_saturate(dtype):
    limits = np.iinfo(DTYPES[dtype])
    edges = np.array([limits.min, limits.max, limits.max - 1], DTYPES[dtype])

    agreed = fold([edges, edges, edges], [1, 1, 3])
    spread = fold([edges, edges[::-1]], [1, 1])

    assert same_bits(agreed, edges)
    assert spread[1] == limits.max
    assert abs(int(spread[0]) - (limits.min + limits.max) // 2) <= 1024


def test_large_floats_do_not_overflow_on_the_way():
    largest = np.array([np.finfo(np.float64).max])

    assert fold([largest, largest], [5_000_000, 3]) == largest
    assert fold([largest, -largest], [4, 4]) == [0.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_infinity_and_nan_go_through_without_a_warning(dtype):
    values = np.array([np.inf, np.nan, 1.0]).astype(DTYPES[dtype])

    result = fold([values, -values], [1, 1])

    assert not np.isfinite(result[:2]).any()
    assert result[2] == 0


@pytest.mark.parametrize(
    ("dtype", "value", "rounded"),
    [
        ("F32", 1 + 2.0**-24, 1.0),
        ("F32", 1 + 3 * 2.0**-24, 1 + 2.0**-22),
        ("F16", 1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-10),
        ("BF16", 1 + 3 * 2.0**-8, 1 + 2.0**-6),
        ("F8_E4M3", 1 + 3 * 2.0**-4, 1.25),
        ("F8_E5M2", 1 + 3 * 2.0**-3, 1.5),
        ("I8", 2.5, 2),
        ("I8", 3.5, 4),
        ("I8", 1000, 127),
        ("I8", -1000, -128),
        ("U8", -1, 0),
        ("U32", 1e300, 2**32 - 1),
        ("I64", 1e300, 2**63 - 1024),
        ("I64", -1e300, -(2**63)),
        ("U64", np.inf, 2**64 - 2048),
        ("BOOL", 0.5, False),
        ("BOOL", 0.5 + 2.0**-53, True),
        ("F16", 1e300, np.inf),
        ("F8_E5M2", 1e300, np.inf),
    ],
)
def test_float64_is_rounded_to_the_type_of_the_model(dtype, value, rounded):
    out = np.empty(1, DTYPES[dtype])

    rounding.store(np.array([value], np.float64), out)

    assert out.tolist() == [rounded]


def test_rule_that_is_unknown_is_refused_with_those_that_are_known():
    with pytest.raises(InvalidPlan, match="no aggregation rule 'wheel'; known are weighted_average"):
        rule("wheel")


def test_every_rule_stands_under_its_own_name():
    assert all(name == each.name and each.version >= 1 for name, each in RULES.items())
