"""From float64, in which every rule computes, back to the element type of the model."""

import math

import numpy as np

from director.domain.types import Array, Floats


def store(values: Floats, out: Array) -> None:
    """Write float64 values into an array of the model's element type; the values are overwritten.

    Floats are rounded to the nearest, ties to even (bf16 and f8 by way of float32, as ml_dtypes does). A float that is
    too large becomes infinity without a warning, or NaN in a type without infinity. Integers are rounded to the
    nearest, ties to even; one beyond the type's range becomes the nearest end of the range (for 64 bits: the nearest
    that float64 can hold). A truth value is true above one half.
    """
    if out.dtype == np.bool_:
        np.greater(values, 0.5, out=out)
        return
    if np.issubdtype(out.dtype, np.integer):
        limits = np.iinfo(out.dtype)
        highest = float(limits.max)
        if int(highest) > limits.max:
            highest = math.nextafter(highest, 0.0)
        np.clip(np.rint(values, out=values), float(limits.min), highest, out=values)
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")
