"""The rules by the names that plans give them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from director.domain.aggregation.mean import weighted_average
from director.domain.types import Array, Floats
from director.errors import InvalidPlan

Fold = Callable[[Array, Sequence[Array], Floats], Array]
"""(base, columns, samples) → column: the base's values, each collaborator's in envoy order, and their samples.

What it returns for an element depends on that element's values and on the samples alone.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fold under its name; the version changes with any bit of what it returns."""

    name: str
    version: int
    fold: Fold


RULES: Mapping[str, Rule] = {each.name: each for each in [Rule("weighted_average", 1, weighted_average)]}


def rule(name: str) -> Rule:
    """Return the rule of a name.

    Raises:
        InvalidPlan: there is none; the text lists those that there are.
    """
    try:
        return RULES[name]
    except KeyError:
        raise InvalidPlan(f"there is no aggregation rule {name!r}; known are {', '.join(RULES)}") from None
