"""Identifiers and states."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NewType

import numpy as np
import numpy.typing as npt

ExperimentId = NewType("ExperimentId", int)
BlobId = NewType("BlobId", int)
DirectorId = NewType("DirectorId", str)
EnvoyName = NewType("EnvoyName", str)
UserName = NewType("UserName", str)

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
"""A model or an update in memory: arrays by name. Only users' code and the facade hold a whole one."""

Floats = npt.NDArray[np.float64]


class ExperimentState(StrEnum):
    """pending ─► in_progress ─► finished | failed | cancelled; pending ─► rejected | cancelled | failed."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        """Whether the experiment has ended; an ended one never changes its state."""
        return self not in (ExperimentState.PENDING, ExperimentState.IN_PROGRESS)


class CollaboratorState(StrEnum):
    """waiting ─► queued ─► assigned ─► working ─► done; any of them ─► failed | released."""

    WAITING = "waiting"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    RELEASED = "released"

    @property
    def engaged(self) -> bool:
        """Whether the envoy works for the experiment; an envoy works for one experiment at a time."""
        return self in (CollaboratorState.QUEUED, CollaboratorState.ASSIGNED, CollaboratorState.WORKING)


class RoundKind(StrEnum):
    """A train round makes a model; the final one only validates the last model."""

    TRAIN = "train"
    FINAL = "final"


class RoundState(StrEnum):
    """collecting ─► aggregating ─► closed; both ─► abandoned."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    CLOSED = "closed"
    ABANDONED = "abandoned"


class AssignmentState(StrEnum):
    """asked ─► counted | missed | failed."""

    ASKED = "asked"
    COUNTED = "counted"
    MISSED = "missed"
    FAILED = "failed"


class BlobState(StrEnum):
    """receiving ─► complete ─► taken."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    TAKEN = "taken"


class TaskKind(StrEnum):
    """A train task changes the model, a validate task only measures it."""

    TRAIN = "train"
    VALIDATE = "validate"
