"""From float64, in which every rule reckons, back to the element type of the model."""

import math

import numpy as np

from director.domain.types import Array, Floats


def store(values: Floats, out: Array) -> None:
    """Write float64 values into an array of the model's element type, and spoil them.

    Floats are rounded to the nearest, ties to even (bf16 and f8 by way of float32, as ml_dtypes does); what is too
    large becomes infinity, or NaN where there is none, without a warning. Integers are rounded to the nearest, ties to
    even; those beyond the type's range become its first or last one (for 64 bits: the last one that float64 can hold).
    A truth value is true above one half.
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
