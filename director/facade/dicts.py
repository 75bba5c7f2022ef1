"""What the facade takes and gives as dicts, in the keys that the director's users have always known."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from director.domain.envoys import Shard
from director.domain.types import ExperimentState
from director.errors import InvalidArgument
from director.services.experiment_use_cases import ExperimentView
from director.store.envoys import Envoy
from director.store.metrics import Recorded


def as_shape(shape: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """Read a shape, whose lengths some clients write as text.

    Raises:
        InvalidArgument: a length is no whole number.
    """
    if shape is None:
        return None
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise InvalidArgument(f"the shape {shape!r} is not a list of whole numbers")
    return tuple(as_whole(length, f"the shape {shape!r} is not a list of whole numbers") for length in shape)


def as_whole(value: int | str, wrong: str) -> int:
    """Read a whole number, which some clients write as text.

    Raises:
        InvalidArgument: it is none; the text is the one given.
    """
    try:
        return int(value) if isinstance(value, str) else index(value)
    except (TypeError, ValueError):
        raise InvalidArgument(wrong) from None


def read_shard(shard_info: Mapping[str, Any]) -> Shard:
    """Read a shard from a dict.

    Raises:
        InvalidArgument: it names no envoy, or a text, a shape or a number is none.
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


def write_shard(shard: Shard) -> dict[str, Any]:
    """Write a shard as a dict."""
    return {
        "node_info": {"name": shard.envoy},
        "shard_description": shard.description,
        "n_samples": shard.samples,
        "sample_shape": list(shard.sample_shape),
        "target_shape": list(shard.target_shape),
    }


def write_envoy(view: Envoy) -> dict[str, Any]:
    """Write an envoy as a dict."""
    return {
        "shard_info": write_shard(view.shard),
        "is_online": view.is_online,
        "is_experiment_running": view.is_experiment_running,
        "last_updated": view.seen_at.timestamp(),
        "valid_duration": 2 * view.period.total_seconds(),
        "experiment_name": view.experiment_name,
    }


def write_metric(metric: Recorded) -> dict[str, Any]:
    """Write a metric as a dict."""
    return {
        "metric_origin": metric.origin,
        "task_name": metric.task,
        "metric_name": metric.name,
        "metric_value": metric.value,
        "round": metric.round_number,
    }


def status(state: ExperimentState) -> str:
    """Return a state under the name that the world knows: it has no word for cancelled."""
    return ExperimentState.FAILED.value if state is ExperimentState.CANCELLED else state.value


def progress(view: ExperimentView) -> float:
    """Return which share of its rounds an experiment has done."""
    return view.experiment.last_model / view.experiment.plan.rounds


def summarize(view: ExperimentView) -> dict[str, Any]:
    """Write an experiment as a dict, in short."""
    return {
        "name": view.experiment.name,
        "status": status(view.experiment.state),
        "collaborators_amount": len(view.collaborators),
        "tasks_amount": len({task.function for task in view.experiment.plan.tasks}),
        "progress": progress(view),
    }


def describe(view: ExperimentView) -> dict[str, Any]:
    """Write an experiment as a dict."""
    experiment = view.experiment
    trained = "ready" if experiment.last_model else "pending"
    return {
        "name": experiment.name,
        "status": status(experiment.state),
        "progress": progress(view),
        "current_round": experiment.round,
        "total_rounds": experiment.plan.rounds,
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
                "progress": progress(view),
                "round": experiment.round,
                "current_task": "",
                "next_task": "",
            }
            for each in view.collaborators
        ],
        "tasks": [{"name": task.name, "description": task.function} for task in experiment.plan.tasks],
    }
