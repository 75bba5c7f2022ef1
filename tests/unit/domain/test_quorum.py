"""Whom a round needs, asks, and may end with."""

from typing import Any

import pytest

from director.domain import plan as plans
from director.domain.steps import quorum


def a_plan(**keys: Any) -> plans.Plan:
    return plans.parse({"rounds": 2, "tasks": [{"name": "train", "kind": "train", "function": "work:train"}], **keys})


@pytest.mark.parametrize(
    ("keys", "collaborators", "minimum", "meant", "wanted", "target"),
    [
        ({}, 4, 4, 4, 4, None),
        ({"selection": 0.5}, 5, 3, 3, 3, None),
        ({"selection": 0.07}, 100, 7, 7, 7, None),
        ({"selection": 0.001}, 5, 1, 1, 1, None),
        ({"min_collaborators": 2}, 4, 2, 4, 4, None),
        ({"min_collaborators": 4, "selection": 0.5}, 5, 4, 4, 4, None),
        ({"percentage": 0.5}, 4, 1, 4, 4, 2),
        ({"percentage": 0.5, "min_collaborators": 3}, 4, 3, 4, 4, 2),
        ({"over_selection": 1, "selection": 0.5}, 4, 1, 2, 3, 2),
        ({"cutoff": 10}, 4, 1, 4, 4, None),
        ({"required_collaborators": ["a", "b"], "percentage": 0.1}, 4, 2, 4, 4, 1),
    ],
)
def test_quorum_follows_from_the_plan_and_the_number_of_collaborators(
    keys: dict[str, Any], collaborators: int, minimum: int, meant: int, wanted: int, target: int | None
):
    found = quorum(a_plan(**keys), collaborators)

    assert (found.minimum, found.meant, found.asked, found.target) == (minimum, meant, wanted, target)
