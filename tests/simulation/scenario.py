"""The small federation whose every commit is crashed: three envoys, two experiments, a third one that is cancelled."""

from tests.simulation.actors import Client
from tests.simulation.envoys import Envoy, Habits
from tests.simulation.researchers import Researcher, Submission

TASKS = """
tasks:
  - {name: train, kind: train, function: "work:train"}
  - {name: validate, kind: validate, function: "work:validate"}
"""
PATIENT = f"rounds: 3\nmin_collaborators: 2\ncutoff: 90\n{TASKS}"
"""A round goes on without an envoy that does not answer within 90 s of service time."""
UNMEASURED = """
rounds: 2
tasks:
  - {name: train, kind: train, function: "work:train"}
"""
"""Without a task that measures there is no last round that only validates."""


def small_federation() -> list[Client]:
    """Return the clients: c answers round 2 of the first experiment too late, a refuses to validate in the third."""
    return [
        Envoy("a", Habits(refuses=frozenset({("cancelled", "validate")}))),
        Envoy("b"),
        Envoy("c", Habits(late=frozenset({("first", 2)}))),
        Researcher(
            "researcher",
            [
                Submission("first", ("a", "b", "c"), PATIENT),
                Submission("second", ("c",), UNMEASURED, elements=1500),
                Submission(
                    "cancelled",
                    ("a",),
                    PATIENT.replace("min_collaborators: 2", "min_collaborators: 1"),
                    cancelled_by="a",
                ),
            ],
        ),
    ]


def plain_federation() -> list[Client]:
    """Return the clients of one experiment with two envoys that do as they are asked."""
    plan = f"rounds: 2\n{TASKS}"
    return [Envoy("a"), Envoy("b"), Researcher("researcher", [Submission("plain", ("a", "b"), plan)])]
