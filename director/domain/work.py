"""What a collaborator is told when it asks what to do."""

from dataclasses import dataclass

from director.domain.content import Content
from director.domain.tasks import Task


@dataclass(frozen=True, slots=True)
class Work:
    """Tasks to do in their order, and the model to start from: its number, its payload, its manifest's SHA-256."""

    round_number: int
    base_model: int
    model: Content
    manifest_digest: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do yet: ask again."""


@dataclass(frozen=True, slots=True)
class Quit:
    """The envoy's part in the experiment is over."""

    reason: str


Answer = Work | Idle | Quit
