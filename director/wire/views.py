"""What the services answer, as messages."""

from collections.abc import Sequence

from director.domain.plan import Task
from director.services.experiment_use_cases import ExperimentView
from director.services.round_use_cases import Idle, Quit, Work
from director.store import events, metrics
from director.store.envoys import Engagement, Envoy
from director.v1 import envoys_pb2, experiments_pb2, rounds_pb2
from director.wire import codec
from director.wire.chunks import manifest_message


def experiment(
    view: ExperimentView, *, waiting_for: Sequence[str] = (), plan: bool = False
) -> experiments_pb2.Experiment:
    """Write an experiment."""
    found = view.experiment
    return experiments_pb2.Experiment(
        id=found.id,
        name=found.name,
        owner=found.owner,
        state=codec.STATES[found.state],
        reason=found.reason or "",
        round=found.round,
        rounds_total=found.plan.rounds,
        collaborators=[
            experiments_pb2.Collaborator(
                envoy=each.envoy, state=each.state.value, attempt=each.attempt, error=each.error or ""
            )
            for each in view.collaborators
        ],
        best_model=found.best_model,
        best_score=found.best_score,
        last_model=found.last_model,
        priority=found.priority,
        submit_time=codec.timestamp(found.submitted_at),
        start_time=codec.timestamp(found.started_at),
        finish_time=codec.timestamp(found.finished_at),
        waiting_for=waiting_for,
        plan_json=codec.as_json(found.plan.to_json()) if plan else "",
    )


def engagement(given: Engagement | None) -> envoys_pb2.Engagement | None:
    """Write what an envoy is given; None stays absent."""
    if given is None:
        return None
    return envoys_pb2.Engagement(
        experiment_id=given.experiment_id, experiment_name=given.experiment_name, attempt=given.attempt
    )


def envoy(found: Envoy) -> experiments_pb2.EnvoyInfo:
    """Write an envoy."""
    return experiments_pb2.EnvoyInfo(
        shard=codec.shard_message(found.shard),
        is_online=found.is_online,
        is_experiment_running=found.is_experiment_running,
        last_seen_time=codec.timestamp(found.seen_at),
        heartbeat_period=codec.duration(found.period),
        experiment_name=found.experiment_name or "",
        devices=[
            envoys_pb2.Device(
                index=each.get("index", 0),
                name=each.get("name", ""),
                memory_total_bytes=each.get("memory_total_bytes", 0),
                memory_used_bytes=each.get("memory_used_bytes", 0),
            )
            for each in found.devices
        ],
    )


def metric(recorded: metrics.Recorded, epoch: str) -> experiments_pb2.Metric:
    """Write a metric."""
    return experiments_pb2.Metric(
        seq=recorded.seq,
        origin=recorded.origin,
        task=recorded.task,
        name=recorded.name,
        value=recorded.value,
        round=recorded.round_number,
        record_time=codec.timestamp(recorded.at),
        epoch=epoch,
    )


def event(recorded: events.Recorded, epoch: str) -> experiments_pb2.Event:
    """Write an event."""
    return experiments_pb2.Event(
        seq=recorded.seq,
        event_time=codec.timestamp(recorded.at),
        actor=recorded.actor,
        kind=recorded.kind,
        reason=recorded.reason or "",
        details_json=codec.as_json(recorded.details),
        epoch=epoch,
    )


def tasks(answer: Work | Idle | Quit) -> rounds_pb2.GetTasksResponse:
    """Write what a collaborator shall do."""
    match answer:
        case Quit(reason):
            return rounds_pb2.GetTasksResponse(quit=rounds_pb2.Quit(reason=reason))
        case Idle():
            return rounds_pb2.GetTasksResponse(idle=rounds_pb2.Idle())
        case Work():
            work = rounds_pb2.Work(
                round=answer.round_number,
                base_model=answer.base.number,
                model=codec.blob(answer.base.blob.content),
                manifest=manifest_message(answer.manifest),
                tasks=[task(each) for each in answer.tasks],
            )
            return rounds_pb2.GetTasksResponse(work=work)


def task(found: Task) -> rounds_pb2.Task:
    """Write a task."""
    return rounds_pb2.Task(
        name=found.name,
        kind=found.kind.value,
        function=found.function,
        settings_json=codec.as_json(dict(found.settings)),
    )
