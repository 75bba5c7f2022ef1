"""The small federation whose every commit is crashed: four envoys, an operator, experiments that end in three ways."""

from tests.simulation.actors import Client
from tests.simulation.envoys import Envoy, Habits
from tests.simulation.operators import Operator, Retirement
from tests.simulation.researchers import Researcher, Submission

TASKS = """
tasks:
  - {name: train, kind: train, function: "work:train"}
  - {name: validate, kind: validate, function: "work:validate"}
"""
PATIENT = f"rounds: 3\nmin_collaborators: 2\ncutoff: 90\n{TASKS}"
"""A round goes on without an envoy that does not answer within 90 s of service time."""
ALONE = PATIENT.replace("min_collaborators: 2", "min_collaborators: 1")
UNMEASURED = """
rounds: 2
tasks:
  - {name: train, kind: train, function: "work:train"}
"""
"""Without a task that measures there is no last round that only validates."""


def small_federation() -> list[Client]:
    """Return the clients.

    Envoy b leaves round 3 of the first experiment and comes back, c answers its round 2 too late. Envoy a refuses to
    validate in the experiment that is cancelled, d to train in the one whose only envoy is retired.
    """
    return [
        Envoy("a", Habits(refuses=frozenset({("cancelled", "validate")}))),
        Envoy("b", Habits(leaves=frozenset({("first", 3)}))),
        Envoy("c", Habits(late=frozenset({("first", 2)}))),
        Envoy("d", Habits(refuses=frozenset({("retired", "train")}))),
        Operator("operator", [Retirement("d", measured_in="retired", for_seconds=5)]),
        Researcher(
            "researcher",
            [
                Submission("first", ("a", "b", "c"), PATIENT),
                Submission("second", ("c",), UNMEASURED, elements=1500),
                Submission("retired", ("d",), ALONE, elements=1500, begins_as="second"),
                Submission(
                    "cancelled",
                    ("a",),
                    ALONE,
                    cancelled_by="a",
                ),
            ],
        ),
    ]


def plain_federation() -> list[Client]:
    """Return the clients of one experiment with two envoys that do as they are asked."""
    plan = f"rounds: 2\n{TASKS}"
    return [Envoy("a"), Envoy("b"), Researcher("researcher", [Submission("plain", ("a", "b"), plan)])]
