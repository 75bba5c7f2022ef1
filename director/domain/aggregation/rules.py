"""The aggregation rules, by the names that plans give them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from director.domain.aggregation.mean import weighted_average
from director.domain.types import Array, Floats
from director.errors import InvalidPlan

Fold = Callable[[Array, Sequence[Array], Floats], Array]
"""(base, columns, samples) → column: the base's values, each collaborator's in envoy order, and their samples.

Its result for an element depends only on that element's values and on the samples.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fold and its name. Its version changes when its results change, even by one bit."""

    name: str
    version: int
    fold: Fold


RULES: Mapping[str, Rule] = {each.name: each for each in [Rule("weighted_average", 1, weighted_average)]}


def rule(name: str) -> Rule:
    """Return the rule of a name.

    Raises:
        InvalidPlan: there is no such rule; the text lists the known ones.
    """
    try:
        return RULES[name]
    except KeyError:
        raise InvalidPlan(f"there is no aggregation rule {name!r}; known are {', '.join(RULES)}") from None
