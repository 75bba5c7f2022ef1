"""Tasks, work and contributions."""

from typing import assert_never

from director.domain.commands import Contribute
from director.domain.tasks import Task
from director.domain.types import TaskKind
from director.domain.work import Answer, Idle, Quit, Work
from director.v1 import rounds_pb2 as pb
from director.wire.codec.basics import read_content, read_enum, read_json, write_content, write_enum, write_json


def write_task(task: Task) -> pb.Task:
    """Write a task."""
    return pb.Task(
        name=task.name,
        kind=write_enum(pb.Task.Kind, task.kind),
        function=task.function,
        settings_json=write_json(dict(task.settings)),
    )


def read_task(message: pb.Task) -> Task:
    """Read a task."""
    kind = read_enum(pb.Task.Kind, TaskKind, message.kind)
    return Task(message.name, kind, message.function, read_json(message.settings_json))


def write_work(work: Work) -> pb.Work:
    """Write what is to be done."""
    return pb.Work(
        round=work.round_number,
        base_model=work.base_model,
        model=write_content(work.model),
        manifest_sha256=bytes.fromhex(work.manifest_digest),
        tasks=map(write_task, work.tasks),
    )


def read_work(message: pb.Work) -> Work:
    """Read what is to be done."""
    return Work(
        round_number=message.round,
        base_model=message.base_model,
        model=read_content(message.model),
        manifest_digest=message.manifest_sha256.hex(),
        tasks=tuple(map(read_task, message.tasks)),
    )


def write_answer(answer: Answer) -> pb.PollTasksResponse:
    """Write what a collaborator is told."""
    match answer:
        case Work():
            return pb.PollTasksResponse(work=write_work(answer))
        case Idle():
            return pb.PollTasksResponse(idle=pb.Idle())
        case Quit(reason):
            return pb.PollTasksResponse(quit=pb.Quit(reason=reason))
        case _:
            assert_never(answer)


def read_answer(message: pb.PollTasksResponse) -> Answer:
    """Read what a collaborator is told; an answer that this version does not know is taken for Idle."""
    match message.WhichOneof("answer"):
        case "work":
            return read_work(message.work)
        case "quit":
            return Quit(message.quit.reason)
        case _:
            return Idle()


def write_contribution(command: Contribute) -> pb.Contribution:
    """Write a contribution."""
    return pb.Contribution(
        experiment_uid=command.experiment_uid,
        envoy=command.envoy,
        attempt=command.attempt,
        round=command.round_number,
        task=command.task,
        samples=command.samples,
        metrics=command.metrics,
        update=None if command.update is None else write_content(command.update),
        manifest_sha256=bytes.fromhex(command.manifest_digest),
    )


def read_contribution(message: pb.Contribution) -> Contribute:
    """Read a contribution.

    Raises:
        InvalidArgument: the update is not announced by its length and its digest.
    """
    return Contribute(
        experiment_uid=message.experiment_uid,
        envoy=message.envoy,
        attempt=message.attempt,
        round_number=message.round,
        task=message.task,
        samples=message.samples,
        metrics=dict(message.metrics),
        update=read_content(message.update) if message.HasField("update") else None,
        manifest_digest=message.manifest_sha256.hex(),
    )
