"""Experiments, collaborators, metrics, submissions, and which model is meant."""

from collections.abc import Sequence
from dataclasses import replace

from director.domain.commands import ModelReference, ModelUpload, SubmitExperiment
from director.domain.experiment import Collaborator, Experiment
from director.domain.history import Metric
from director.domain.tensors import Manifest
from director.domain.types import CollaboratorState, ExperimentState
from director.errors import InvalidArgument
from director.v1 import experiments_pb2 as pb
from director.wire.codec.basics import (
    read_content,
    read_cursor,
    read_enum,
    read_failure,
    read_instant,
    read_instant_of,
    read_json,
    write_content,
    write_cursor,
    write_enum,
    write_failure,
    write_instant,
    write_json,
)

CHOICES = {
    "best": pb.DownloadModelRequest.BEST,
    "last": pb.DownloadModelRequest.LAST,
    "initial": pb.DownloadModelRequest.INITIAL,
}
"""Models by what they are rather than by their number."""

LARGEST_NUMBER = 2**63 - 1
"""The largest number of a model that the wire can carry."""

SHOWN_FAILURE_BYTES = 4096
"""Bytes of a failure's message that a list of collaborators gives: the last ones."""


def write_experiment(experiment: Experiment) -> pb.Experiment:
    """Write an experiment."""
    return pb.Experiment(
        uid=experiment.uid,
        name=experiment.name,
        owner=experiment.owner,
        state=write_enum(pb.Experiment.State, experiment.state),
        reason=experiment.reason,
        round=experiment.round,
        rounds_total=experiment.rounds_total,
        collaborator_counts=pb.CollaboratorCounts(**{str(state): n for state, n in experiment.collaborators.items()}),
        best_model=experiment.best_model,
        best_score=experiment.best_score,
        last_model=experiment.last_model,
        priority=experiment.priority,
        submit_time=write_instant(experiment.submitted_at),
        start_time=write_instant(experiment.started_at),
        finish_time=write_instant(experiment.finished_at),
        waiting_for=experiment.waiting_for,
        plan_json=write_json(dict(experiment.plan)) if experiment.plan else "",
    )


def read_experiment(message: pb.Experiment) -> Experiment:
    """Read an experiment.

    Raises:
        DirectorError: the director is newer, and the experiment is in a state that this version does not know.
    """
    counts = {state: getattr(message.collaborator_counts, state.value) for state in CollaboratorState}
    return Experiment(
        uid=message.uid,
        name=message.name,
        owner=message.owner,
        state=read_enum(pb.Experiment.State, ExperimentState, message.state),
        reason=message.reason,
        round=message.round,
        rounds_total=message.rounds_total,
        collaborators={state: number for state, number in counts.items() if number},
        best_model=message.best_model if message.HasField("best_model") else None,
        best_score=message.best_score if message.HasField("best_score") else None,
        last_model=message.last_model,
        priority=message.priority,
        submitted_at=read_instant(message.submit_time),
        started_at=read_instant_of(message, "start_time"),
        finished_at=read_instant_of(message, "finish_time"),
        waiting_for=tuple(message.waiting_for),
        plan=read_json(message.plan_json),
    )


def write_collaborator(collaborator: Collaborator) -> pb.Collaborator:
    """Write a collaborator; of a long failure's message, its end."""
    failure = collaborator.failure
    if failure is not None:
        shown = failure.message.encode()[-SHOWN_FAILURE_BYTES:].decode(errors="ignore")
        failure = replace(failure, message=shown)
    return pb.Collaborator(
        envoy=collaborator.envoy,
        state=write_enum(pb.Collaborator.State, collaborator.state),
        attempt=collaborator.attempt,
        failure=None if failure is None else write_failure(failure),
    )


def read_collaborator(message: pb.Collaborator) -> Collaborator:
    """Read a collaborator.

    Raises:
        DirectorError: the director is newer, and names a state that this version does not know.
    """
    return Collaborator(
        envoy=message.envoy,
        state=read_enum(pb.Collaborator.State, CollaboratorState, message.state),
        attempt=message.attempt,
        failure=read_failure(message.failure) if message.HasField("failure") else None,
    )


def write_metric(metric: Metric) -> pb.Metric:
    """Write a metric."""
    return pb.Metric(
        cursor=write_cursor(metric.cursor),
        origin=metric.origin,
        task=metric.task,
        name=metric.name,
        value=metric.value,
        round=metric.round,
        record_time=write_instant(metric.recorded_at),
    )


def read_metric(message: pb.Metric) -> Metric:
    """Read a metric."""
    return Metric(
        cursor=read_cursor(message.cursor),
        origin=message.origin,
        task=message.task,
        name=message.name,
        value=message.value,
        round=message.round,
        recorded_at=read_instant(message.record_time),
    )


def write_submission(command: SubmitExperiment) -> pb.Submission:
    """Write what a submission announces; its names and its manifest follow in messages of their own."""
    message = pb.Submission(
        submission_id=command.submission_id,
        name=command.name,
        priority=command.priority,
        archive=write_content(command.archive),
        collaborator_count=len(command.collaborators),
        user_count=len(command.users),
    )
    match command.model:
        case ModelUpload(payload, manifest):
            message.upload.payload.CopyFrom(write_content(payload))
            message.upload.manifest.CopyFrom(write_content(manifest.content))
        case ModelReference(uid, number):
            message.reference.experiment_uid, message.reference.number = uid, number
    return message


def read_submission(
    message: pb.Submission, *, collaborators: Sequence[str], users: Sequence[str], manifest: Manifest | None
) -> SubmitExperiment:
    """Read a submission, given what followed it in messages of their own.

    Raises:
        InvalidArgument: it names no initial model, an upload came without its manifest, or a digest is malformed.
    """
    model: ModelUpload | ModelReference
    match message.WhichOneof("model"):
        case "upload" if manifest is not None:
            model = ModelUpload(read_content(message.upload.payload), manifest)
        case "reference":
            model = ModelReference(message.reference.experiment_uid, message.reference.number)
        case _:
            raise InvalidArgument(
                "name the initial model: an upload with its manifest, or a model that is held already"
            )
    return SubmitExperiment(
        submission_id=message.submission_id,
        name=message.name,
        collaborators=tuple(collaborators),
        archive=read_content(message.archive),
        model=model,
        users=tuple(users),
        priority=message.priority,
    )


def write_model(which: str | int) -> pb.DownloadModelRequest:
    """Write which model is wanted: "best", "last", "initial", or a number.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(which, int) and 0 <= which <= LARGEST_NUMBER:
        return pb.DownloadModelRequest(number=which)
    if which not in CHOICES:
        raise InvalidArgument(f"a model is {', '.join(map(repr, CHOICES))} or a number from 0, not {which!r}")
    return pb.DownloadModelRequest(choice=CHOICES[str(which)])


def read_model(message: pb.DownloadModelRequest) -> str | int:
    """Read which model is wanted.

    Raises:
        InvalidArgument: it does not say.
    """
    if message.WhichOneof("model") == "number":
        return message.number
    for which, choice in CHOICES.items():
        if choice == message.choice:
            return which
    raise InvalidArgument("name the model: best, last, initial, or a number")
