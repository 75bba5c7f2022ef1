"""The mean family: averages weighted by samples."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from director.domain.aggregation import rounding
from director.domain.types import Array, Floats

BLOCK = 16_384
"""Elements added at a time, so that the float64 sums stay in the processor's cache."""


def weighted_average(base: Array, columns: Sequence[Array], samples: Floats) -> Array:
    """Average the collaborators' values, weighted by their training samples (FedAvg). The base is not used.

    Shapes: base (n,); columns (collaborators, n), all of one element type; samples (collaborators,); returns (n,).
    Units: samples counts training samples, each at least 1.
    Source: McMahan et al., AISTATS 2017, Algorithm 1 (arXiv:1602.05629).
    """
    return average(columns, samples)


def average(columns: Sequence[Array], samples: Floats) -> Array:
    """Average arrays of one element type, weighted by samples.

    Accumulates in float64, in the order given, so that the result is the same to the bit on every machine. The weights
    are the samples over a power of two, and their sum divides once, at the end: nothing overflows on the way, and means
    of integers and votes are exact while Σ samples · |value| stays below 2**53. Beyond that, int64 and uint64 have the
    53 bits of float64. No element leaves the range of its columns: equal values give that value. One array alone is
    returned bit for bit.

    Shapes: columns (collaborators, n), at least one; samples (collaborators,); returns (n,) in the type of the columns.
    """
    if len(columns) == 1:
        return columns[0].copy()
    whole, exponent = math.frexp(math.fsum(samples))
    weights = [math.ldexp(each, -exponent) for each in samples]
    result = np.empty_like(columns[0])
    sums, terms = np.empty((2, BLOCK))
    with np.errstate(all="ignore"):
        for start in range(0, len(result), BLOCK):
            out = result[start : start + BLOCK]
            parts = [column[start : start + BLOCK] for column in columns]
            total, term = sums[: len(out)], terms[: len(out)]
            weigh(parts[0], weights[0], out=total)
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                weigh(part, weight, out=term)
                np.add(total, term, out=total)
            np.divide(total, whole, out=total)
            rounding.store(total, out)
            if out.itemsize == total.itemsize:
                confine(out, parts)
    return result


def weigh(values: Array, weight: float, *, out: Floats) -> None:
    """Multiply values by a weight in float64; widening first is faster than a product of mixed types."""
    np.copyto(out, values)
    np.multiply(out, weight, out=out)


def confine(result: Array, parts: Sequence[Array]) -> None:
    """Bring a mean that rounding has pushed out of its columns' range back to the edge.

    Only where float64 has no bits to spare: narrower types lose the excess when they are rounded.
    """
    lowest = functools.reduce(np.minimum, parts)
    np.copyto(result, lowest, where=result < lowest)
    highest = functools.reduce(np.maximum, parts)
    np.copyto(result, highest, where=result > highest)
