import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain.aggregation import column_bytes
from director.domain.tensors import ALIGNMENT


@given(st.integers(0, 2**31), st.integers(1, 10_000), st.integers(1, 2**22).map(lambda count: count * ALIGNMENT))
def test_column_is_aligned_and_keeps_to_its_budget(budget_bytes, collaborators, chunk_bytes):
    height = column_bytes(budget_bytes, collaborators, chunk_bytes)

    assert height % ALIGNMENT == 0
    assert 4096 * ALIGNMENT <= height <= 16 * 2**20
    assert height == 4096 * ALIGNMENT or height * (collaborators + 3) <= budget_bytes


@pytest.mark.parametrize(
    ("budget_mib", "collaborators", "column_mib"),
    [(256, 8, 16), (110, 8, 10), (110, 19, 4), (64, 19, 2), (16, 13, 1), (0, 8, 1 / 16)],
)
def test_column_begins_and_ends_with_chunks_or_even_halves_of_them(budget_mib, collaborators, column_mib):
    assert column_bytes(budget_mib * 2**20, collaborators, 2 * 2**20) == column_mib * 2**20
