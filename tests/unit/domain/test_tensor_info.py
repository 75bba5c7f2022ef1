import numpy as np
import pytest

from director.domain.tensor_info import DTYPES, TensorInfo, describe, layout_order
from director.errors import TensorMismatch


@pytest.mark.parametrize(("shape", "elements"), [((), 1), ((3,), 3), ((2, 3), 6), ((2, 0), 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_has_as_many_bytes_as_its_array(dtype, shape, elements):
    tensor = describe("w", np.zeros(shape, DTYPES[dtype]))

    assert tensor == TensorInfo("w", dtype, shape)
    assert tensor.size_bytes == elements * DTYPES[dtype].itemsize


def test_wider_element_types_come_first_and_then_the_order_of_names():
    tensors = [TensorInfo(name, dtype, ()) for name, dtype in (("b", "U8"), ("c", "F32"), ("a", "I32"), ("d", "F64"))]

    assert [tensor.name for tensor in sorted(tensors, key=layout_order)] == ["d", "a", "c", "b"]


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


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["a"]), np.array([None]), np.zeros(2, "f4,f4")])
def test_array_of_an_element_type_that_models_cannot_hold_is_refused(array):
    with pytest.raises(TensorMismatch, match="tensor 'w' has dtype"):
        describe("w", array)
