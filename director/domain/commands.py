"""Commands: what callers tell the director to do, in the imperative."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from director.domain.content import Content
from director.domain.envoy import Device
from director.domain.tensors import Manifest


@dataclass(frozen=True, slots=True)
class ModelUpload:
    """An initial model whose payload is uploaded."""

    payload: Content
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A kept model of another experiment."""

    experiment_uid: str
    number: int


@dataclass(frozen=True, slots=True)
class SubmitExperiment:
    """Put an experiment into the queue."""

    submission_id: str
    name: str
    collaborators: Sequence[str]
    archive: Content
    model: ModelUpload | ModelReference
    users: Sequence[str] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Say that an envoy is alive. With a session of None it counts for whatever session the envoy is in."""

    envoy: str
    experiment_running: bool
    devices: Sequence[Device] = ()
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Contribute:
    """Hand in a collaborator's result of one task in one round.

    A train task has an update and the SHA-256 of its manifest, in hexadecimal; a validate task has neither.

    Units: samples counts the samples that the result rests on, at least 1.
    """

    experiment_uid: str
    envoy: str
    attempt: int
    round_number: int
    task: str
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    update: Content | None = None
    manifest_digest: str = ""
