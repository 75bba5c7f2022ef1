"""What the facade takes and gives as dicts, in the keys that the director's users have always known."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from director.domain.envoy import Device, Envoy, Shard
from director.domain.experiment import Collaborator, Experiment
from director.domain.plan import Plan
from director.domain.tasks import Task
from director.domain.types import ExperimentState
from director.errors import InvalidArgument, InvalidPlan


def as_shape(shape: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """Read a shape, whose lengths some clients write as text.

    Raises:
        InvalidArgument: a length is not a whole number.
    """
    if shape is None:
        return None
    wrong = f"the shape {shape!r} is not a list of whole numbers"
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise InvalidArgument(wrong)
    return tuple(as_whole(length, wrong) for length in shape)


def as_whole(value: Any, wrong: str) -> int:
    """Read a whole number, which some clients write as text.

    Raises:
        InvalidArgument: it is something else; the text is the one given.
    """
    try:
        return int(value) if isinstance(value, str) else index(value)
    except (TypeError, ValueError):
        raise InvalidArgument(wrong) from None


def read_shard(shard_info: Mapping[str, Any]) -> Shard:
    """Read a shard from a dict.

    Raises:
        InvalidArgument: it names no envoy, or a text, a shape or a number is something else.
    """
    match shard_info:
        case {"node_info": {"name": str(name)}}:
            pass
        case _:
            raise InvalidArgument("shard_info has no name at node_info.name")
    description, samples = shard_info.get("shard_description", ""), shard_info.get("n_samples", 0)
    if not isinstance(description, str):
        raise InvalidArgument("shard_info's shard_description is not a text")
    return Shard(
        envoy=name,
        description=description,
        samples=as_whole(samples, f"shard_info's n_samples is {samples!r}, not a whole number"),
        sample_shape=as_shape(shard_info.get("sample_shape", ())) or (),
        target_shape=as_shape(shard_info.get("target_shape", ())) or (),
    )


def read_devices(cuda_devices_status: Sequence[Mapping[str, Any]] | None) -> tuple[Device, ...]:
    """Read devices from dicts; numbers that are missing are 0.

    Raises:
        InvalidArgument: a device is not a dict.
    """
    devices = cuda_devices_status or ()
    if not all(isinstance(each, Mapping) for each in devices):
        raise InvalidArgument("cuda_devices_status is not a list of dicts")
    return tuple(
        Device(
            index=as_whole(each.get("index", 0), "a device's index is not a whole number"),
            name=str(each.get("name", "")),
            memory_total_bytes=as_whole(each.get("memory_total", 0), "a device's memory is not a whole number"),
            memory_used_bytes=as_whole(each.get("memory_utilized", 0), "a device's memory is not a whole number"),
            driver_version=str(each.get("cuda_driver_version", "")),
        )
        for each in devices
    )


def write_shard(shard: Shard) -> dict[str, Any]:
    """Write a shard as a dict."""
    return {
        "node_info": {"name": shard.envoy},
        "shard_description": shard.description,
        "n_samples": shard.samples,
        "sample_shape": list(shard.sample_shape),
        "target_shape": list(shard.target_shape),
    }


def write_envoy(envoy: Envoy) -> dict[str, Any]:
    """Write an envoy as a dict."""
    return {
        "shard_info": write_shard(envoy.shard),
        "is_online": envoy.online,
        "is_experiment_running": envoy.experiment_running,
        "last_updated": envoy.last_seen_at.timestamp(),
        "valid_duration": 2 * envoy.heartbeat_period.total_seconds(),
        "experiment_name": envoy.experiment_name or None,
    }


def status(state: ExperimentState) -> str:
    """Return a state under the name that the world knows: it has no word for cancelled."""
    return ExperimentState.FAILED.value if state is ExperimentState.CANCELLED else state.value


def progress(experiment: Experiment) -> float:
    """Return which share of its rounds an experiment has done."""
    return experiment.last_model / experiment.rounds_total


def tasks_of(experiment: Experiment) -> Sequence[Task]:
    """Return the tasks of an experiment; of a plan that this code cannot read there are none."""
    try:
        return Plan.from_json(experiment.plan).tasks
    except InvalidPlan:
        return ()


def summarize(experiment: Experiment) -> dict[str, Any]:
    """Write an experiment as a dict, in short."""
    return {
        "name": experiment.name,
        "status": status(experiment.state),
        "collaborators_amount": experiment.collaborators_count,
        "tasks_amount": len({task.function for task in tasks_of(experiment)}),
        "progress": progress(experiment),
    }


def describe(experiment: Experiment, collaborators: Sequence[Collaborator]) -> dict[str, Any]:
    """Write an experiment as a dict."""
    trained = "ready" if experiment.last_model else "pending"
    done = progress(experiment)
    return {
        "name": experiment.name,
        "status": status(experiment.state),
        "progress": done,
        "current_round": experiment.round,
        "total_rounds": experiment.rounds_total,
        "download_statuses": {
            "models": [
                {"name": "best", "status": trained},
                {"name": "last", "status": trained},
                {"name": "init", "status": "ready"},
            ],
            "logs": [{"name": "aggregator", "status": "ready"}],
        },
        "collaborators": [
            {
                "name": each.envoy,
                "status": each.state.value,
                "progress": done,
                "round": experiment.round,
                "current_task": "",
                "next_task": "",
            }
            for each in collaborators
        ],
        "tasks": [{"name": task.name, "description": task.function} for task in tasks_of(experiment)],
    }
