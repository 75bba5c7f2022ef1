"""Messages and what they mean: protobuf ↔ commands and answers. Pure: nothing here waits, reads or decides."""

import json
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from director.domain.envoys import Shard
from director.domain.messages import Content, Contribute, Heartbeat, SubmitExperiment
from director.domain.types import ExperimentState
from director.errors import InvalidArgument
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, rounds_pb2
from director.wire.chunks import blob_info, manifest_of

STATES = {
    ExperimentState.PENDING: experiments_pb2.EXPERIMENT_STATE_PENDING,
    ExperimentState.IN_PROGRESS: experiments_pb2.EXPERIMENT_STATE_IN_PROGRESS,
    ExperimentState.FINISHED: experiments_pb2.EXPERIMENT_STATE_FINISHED,
    ExperimentState.FAILED: experiments_pb2.EXPERIMENT_STATE_FAILED,
    ExperimentState.CANCELLED: experiments_pb2.EXPERIMENT_STATE_CANCELLED,
    ExperimentState.REJECTED: experiments_pb2.EXPERIMENT_STATE_REJECTED,
}
CHOICES = {
    experiments_pb2.MODEL_CHOICE_BEST: "best",
    experiments_pb2.MODEL_CHOICE_LAST: "last",
    experiments_pb2.MODEL_CHOICE_INITIAL: "initial",
}


def duration(length: timedelta) -> Duration:
    """Write a length of time."""
    message = Duration()
    message.FromTimedelta(length)
    return message


def timestamp(instant: datetime | None) -> Timestamp | None:
    """Write an instant; None stays absent."""
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def content(message: common_pb2.BlobInfo) -> Content:
    """Read the identity of a run of bytes.

    Raises:
        InvalidArgument: the digest is not 32 bytes long.
    """
    if len(message.sha256) != 32 or message.size_bytes < 0:
        raise InvalidArgument("bytes are announced by their length and their SHA-256 (32 bytes)")
    return Content(message.size_bytes, message.sha256.hex())


def blob(content: Content) -> common_pb2.BlobInfo:
    """Write the identity of a run of bytes."""
    return blob_info(content.size_bytes, bytes.fromhex(content.digest))


def shard(message: envoys_pb2.Shard) -> Shard:
    """Read a shard."""
    return Shard(
        envoy=message.envoy,
        description=message.description,
        samples=message.samples,
        sample_shape=tuple(message.sample_shape),
        target_shape=tuple(message.target_shape),
    )


def shard_message(shard: Shard) -> envoys_pb2.Shard:
    """Write a shard."""
    return envoys_pb2.Shard(
        envoy=shard.envoy,
        description=shard.description,
        samples=shard.samples,
        sample_shape=shard.sample_shape,
        target_shape=shard.target_shape,
    )


def heartbeat(message: envoys_pb2.HeartbeatRequest) -> Heartbeat:
    """Read a heartbeat."""
    devices = [device(each) for each in message.devices]
    return Heartbeat(message.envoy, message.is_experiment_running, devices)


def device(message: envoys_pb2.Device) -> dict[str, Any]:
    """Read an accelerator."""
    return {
        "index": message.index,
        "name": message.name,
        "memory_total_bytes": message.memory_total_bytes,
        "memory_used_bytes": message.memory_used_bytes,
    }


def submission(message: experiments_pb2.Submission) -> SubmitExperiment:
    """Read a submission.

    Raises:
        InvalidArgument: a digest or the manifest is none.
    """
    return SubmitExperiment(
        submission_id=message.submission_id,
        name=message.name,
        collaborators=list(message.collaborators),
        users=list(message.users),
        priority=message.priority,
        archive=content(message.archive),
        model=content(message.model),
        manifest=manifest_of(message.manifest),
    )


def contribution(message: rounds_pb2.Contribution) -> Contribute:
    """Read a contribution.

    Raises:
        InvalidArgument: the update's digest or manifest is none.
    """
    return Contribute(
        experiment_id=message.experiment_id,
        envoy=message.envoy,
        attempt=message.attempt,
        round_number=message.round,
        task=message.task,
        samples=message.samples,
        metrics=dict(message.metrics),
        update=content(message.update) if message.HasField("update") else None,
        manifest=manifest_of(message.manifest) if message.HasField("manifest") else None,
    )


def model_choice(message: experiments_pb2.DownloadModelRequest) -> str | int:
    """Read which model is wanted.

    Raises:
        InvalidArgument: it names none.
    """
    if message.WhichOneof("which") == "number":
        return message.number
    try:
        return CHOICES[message.choice]
    except KeyError:
        raise InvalidArgument("name the model: best, last, initial, or a number") from None


def as_json(value: Any) -> str:
    """Write a document."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
