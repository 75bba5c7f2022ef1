"""The tasks of a plan, and what makes a model the best one: the values, and how they are read."""

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from director.domain.fields import Fields, Reader, choice, each, json_object, mapping, name, refuse, text
from director.domain.types import TaskKind
from director.errors import InvalidPlan

TASKS = "tasks, one of them of kind train"

Mode = Literal["max", "min"]


@dataclass(frozen=True, slots=True)
class Task:
    """One function that each collaborator runs in a round; `function` is `module:callable` in the archive."""

    name: str
    kind: TaskKind
    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Best:
    """What makes a model the best one; without a metric it is the task's first one in name order."""

    task: str
    metric: str | None = None
    mode: Mode = "max"


def read_tasks(value: object, path: str) -> tuple[Task, ...]:
    """Read the tasks: one that trains, any number that validate."""
    return check_tasks(each(task_reader(json_object), TASKS)(value, path), path)


def read_stored_tasks(value: object, path: str) -> tuple[Task, ...]:
    """Read stored tasks. Their settings are not checked again: PostgreSQL gives 1e22 back as a whole number."""
    return check_tasks(each(task_reader(mapping), TASKS)(value, path), path)


def task_reader(read_settings: Reader[dict[str, Any]]) -> Reader[Task]:
    """Return a reader of one task, given the reader of its settings."""

    def read(value: object, path: str) -> Task:
        keys = Fields(value, path, ("name", "kind", "function", "settings"))
        return Task(
            name=keys.required("name", name),
            kind=keys.required("kind", choice(*TaskKind)),
            function=keys.required("function", read_function),
            settings=keys.optional("settings", read_settings, {}),
        )

    return read


def check_tasks(tasks: tuple[Task, ...], path: str) -> tuple[Task, ...]:
    """Return the tasks, or refuse them: a name twice, or not exactly one that trains."""
    check_unique([task.name for task in tasks], lambda index: f"{path}[{index}].name")
    training = [task.name for task in tasks if task.kind is TaskKind.TRAIN]
    if len(training) != 1:
        found = " and ".join(repr(task) for task in training[:2]) or "none"
        raise InvalidPlan(f"{path} should hold exactly one task of kind train, and not {found}")
    return tasks


def read_function(value: object, path: str) -> str:
    """Read where a task's function is found in the archive."""
    function = text(value, path)
    module, colon, attribute = function.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        refuse(value, path, "module:callable, like digits:train or package.module:train")
    return function


def measuring(tasks: Sequence[Task]) -> list[str]:
    """Return the names of the tasks that only measure."""
    return [task.name for task in tasks if task.kind is TaskKind.VALIDATE]


def default_best(tasks: Sequence[Task]) -> Best | None:
    """Judge models by the first validate task, where there is one."""
    measured = measuring(tasks)
    return Best(measured[0]) if measured else None


def best_reader(tasks: Sequence[Task]) -> Reader[Best]:
    """Return a reader of what makes a model the best one of these tasks."""
    measured = measuring(tasks)
    modes: tuple[Mode, Mode] = ("max", "min")

    def read(value: object, path: str) -> Best:
        keys = Fields(value, path, ("task", "metric", "mode"))
        if not measured:
            raise InvalidPlan(f"{path} needs a task of kind validate to judge models by; add one, or leave {path} out")
        return Best(
            task=keys.optional("task", choice(*measured), measured[0]),
            metric=keys.optional("metric", text, None),
            mode=keys.optional("mode", choice(*modes), modes[0]),
        )

    return read


def check_unique(named: Sequence[str], path_of: Callable[[int], str]) -> None:
    """Refuse a name that occurs twice; `path_of` gives the path of the name at an index."""
    seen = set()
    for index, one in enumerate(named):
        if one in seen:
            raise InvalidPlan(f"{path_of(index)} is {one!r} a second time; each name should occur once")
        seen.add(one)
