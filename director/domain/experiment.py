"""Experiments and their collaborators, as users see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from director.domain.types import CollaboratorState, ExperimentState

BRIEF = 1000
"""Characters of a failure's message that a reason of an experiment quotes."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a collaborator cannot go on. The task is empty where none failed, the error's type where none was raised."""

    message: str
    task: str = ""
    error_type: str = ""

    def __str__(self) -> str:
        """Say it in one text."""
        where = f"task {self.task!r} failed: " if self.task else ""
        what = f"{self.error_type}: " if self.error_type else ""
        return f"{where}{what}{self.message or 'no reason given'}"

    @property
    def brief(self) -> str:
        """The same text with at most 1000 characters of the message: the last ones, which name a traceback's error."""
        if len(self.message) <= BRIEF:
            return str(self)
        return str(replace(self, message=f"…{self.message[-BRIEF:]}"))


@dataclass(frozen=True, slots=True)
class Collaborator:
    """An envoy's part in an experiment; the attempt counts how often the experiment was handed to it."""

    envoy: str
    state: CollaboratorState
    attempt: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment.

    `round` is the round that is open, or was last: 0 before the first, `rounds_total + 1` in the final validation.
    `collaborators` counts the collaborators by state, without the states that no collaborator is in.
    `waiting_for` and `plan` are empty in a list.
    """

    uid: str
    name: str
    owner: str
    state: ExperimentState
    round: int
    rounds_total: int
    last_model: int
    priority: int
    submitted_at: datetime
    reason: str = ""
    collaborators: Mapping[CollaboratorState, int] = field(default_factory=dict)
    best_model: int | None = None
    best_score: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waiting_for: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def collaborators_count(self) -> int:
        """The number of collaborators, in any state."""
        return sum(self.collaborators.values())
