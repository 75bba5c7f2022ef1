"""The plan of an experiment: rounds, tasks, aggregation rule, quorum, stragglers; checked before anything is stored."""

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from director.domain.aggregation import RULES
from director.domain.fields import Fields, choice, duration, each, json_object, name, refuse, share, text, whole
from director.domain.types import TaskKind
from director.errors import InvalidPlan

MOST_ROUNDS = 100_000
MOST_COLLABORATORS = 1_000_000
NOTHING = timedelta(0)
SOMETHING = timedelta.resolution
DEADLINE = timedelta(hours=24)
GRACE = timedelta(minutes=5)

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


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that can be run, if there are collaborators enough (`check_collaborators`)."""

    rounds: int
    tasks: tuple[Task, ...]
    rule: str
    rule_version: int
    best: Best | None = None
    manual_review: bool = False
    min_collaborators: int | None = None
    required_collaborators: tuple[str, ...] = ()
    selection: float = 1.0
    over_selection: int = 0
    percentage: float | None = None
    cutoff: timedelta | None = None
    round_deadline: timedelta = DEADLINE
    start_deadline: timedelta = DEADLINE
    envoy_grace: timedelta = GRACE
    wait_past_deadline: bool = False

    @property
    def train_task(self) -> Task:
        """The one task that changes the model."""
        return next(task for task in self.tasks if task.kind is TaskKind.TRAIN)

    @property
    def validate_tasks(self) -> tuple[Task, ...]:
        """The tasks that only measure."""
        return tuple(task for task in self.tasks if task.kind is TaskKind.VALIDATE)

    def to_json(self) -> dict[str, Any]:
        """Return what the database stores; `from_json` reads it.

        Units: seconds.
        """
        best = self.best
        return {
            "rounds": self.rounds,
            "tasks": [
                {"name": task.name, "kind": task.kind.value, "function": task.function, "settings": dict(task.settings)}
                for task in self.tasks
            ],
            "rule": self.rule,
            "rule_version": self.rule_version,
            "best": None if best is None else {"task": best.task, "metric": best.metric, "mode": best.mode},
            "manual_review": self.manual_review,
            "min_collaborators": self.min_collaborators,
            "required_collaborators": list(self.required_collaborators),
            "selection": self.selection,
            "over_selection": self.over_selection,
            "percentage": self.percentage,
            "cutoff": None if self.cutoff is None else self.cutoff.total_seconds(),
            "round_deadline": self.round_deadline.total_seconds(),
            "start_deadline": self.start_deadline.total_seconds(),
            "envoy_grace": self.envoy_grace.total_seconds(),
            "wait_past_deadline": self.wait_past_deadline,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote; its rule may be one that this director does not have."""
        return cls(
            **{
                **stored,
                "tasks": tuple(Task(**{**task, "kind": TaskKind(task["kind"])}) for task in stored["tasks"]),
                "best": None if stored["best"] is None else Best(**stored["best"]),
                "required_collaborators": tuple(stored["required_collaborators"]),
                "cutoff": None if stored["cutoff"] is None else timedelta(seconds=stored["cutoff"]),
                "round_deadline": timedelta(seconds=stored["round_deadline"]),
                "start_deadline": timedelta(seconds=stored["start_deadline"]),
                "envoy_grace": timedelta(seconds=stored["envoy_grace"]),
            }
        )


KEYS = (
    "rounds",
    "tasks",
    "aggregation",
    "best",
    "review",
    "min_collaborators",
    "required_collaborators",
    "selection",
    "over_selection",
    "percentage",
    "cutoff",
    "round_deadline",
    "start_deadline",
    "envoy_grace",
    "on_deadline",
)


def parse(raw: object) -> Plan:
    """Read a plan as a YAML loader returned it.

    Raises:
        InvalidPlan: it cannot be run; the text names the key, and what would be right.
    """
    keys = Fields(raw, "", KEYS)
    tasks = keys.required("tasks", read_tasks)
    rule = keys.optional("aggregation", read_rule, "weighted_average")
    measured = [task.name for task in tasks if task.kind is TaskKind.VALIDATE]
    plan = Plan(
        rounds=keys.required("rounds", whole(1, MOST_ROUNDS)),
        tasks=tasks,
        rule=rule,
        rule_version=RULES[rule].version,
        best=keys.optional("best", lambda value, path: read_best(value, path, measured), default_best(measured)),
        manual_review=keys.optional("review", choice("auto", "manual"), "auto") == "manual",
        min_collaborators=keys.optional("min_collaborators", whole(1, MOST_COLLABORATORS), None),
        required_collaborators=keys.optional("required_collaborators", read_required, ()),
        selection=keys.optional("selection", share, 1.0),
        over_selection=keys.optional("over_selection", whole(0, MOST_COLLABORATORS), 0),
        percentage=keys.optional("percentage", share, None),
        cutoff=keys.optional("cutoff", duration(SOMETHING), None),
        round_deadline=keys.optional("round_deadline", duration(SOMETHING), DEADLINE),
        start_deadline=keys.optional("start_deadline", duration(SOMETHING), DEADLINE),
        envoy_grace=keys.optional("envoy_grace", duration(NOTHING), GRACE),
        wait_past_deadline=keys.optional("on_deadline", choice("fail", "wait"), "fail") == "wait",
    )
    check_stragglers(plan)
    return plan


def read_tasks(value: object, path: str) -> tuple[Task, ...]:
    """Read the tasks: one that trains, any number that validate."""
    tasks = each(read_task, "tasks, one of them of kind train")(value, path)
    check_unique([task.name for task in tasks], lambda index: f"{path}[{index}].name")
    training = [task.name for task in tasks if task.kind is TaskKind.TRAIN]
    if len(training) != 1:
        found = " and ".join(repr(task) for task in training[:2]) or "none"
        raise InvalidPlan(f"{path} should hold exactly one task of kind train, and not {found}")
    return tasks


def read_task(value: object, path: str) -> Task:
    """Read one task."""
    keys = Fields(value, path, ("name", "kind", "function", "settings"))
    return Task(
        name=keys.required("name", name),
        kind=keys.required("kind", choice(*TaskKind)),
        function=keys.required("function", read_function),
        settings=keys.optional("settings", json_object, {}),
    )


def read_function(value: object, path: str) -> str:
    """Read where a task's function is found in the archive."""
    function = text(value, path)
    module, colon, attribute = function.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        refuse(value, path, "module:callable, like digits:train or package.module:train")
    return function


def read_rule(value: object, path: str) -> str:
    """Read the name of an aggregation rule."""
    return Fields(value, path, ("rule",)).required("rule", choice(*RULES))


def default_best(measured: Sequence[str]) -> Best | None:
    """Judge models by the first validate task, where there is one."""
    return Best(measured[0]) if measured else None


def read_best(value: object, path: str, measured: Sequence[str]) -> Best:
    """Read what makes a model the best one."""
    keys = Fields(value, path, ("task", "metric", "mode"))
    if not measured:
        raise InvalidPlan(f"{path} needs a task of kind validate to judge models by; add one, or leave {path} out")
    modes: tuple[Mode, Mode] = ("max", "min")
    return Best(
        task=keys.optional("task", choice(*measured), measured[0]),
        metric=keys.optional("metric", text, None),
        mode=keys.optional("mode", choice(*modes), modes[0]),
    )


def read_required(value: object, path: str) -> tuple[str, ...]:
    """Read the names of the envoys that no round can do without."""
    required = each(name, "names of envoys")(value, path)
    check_unique(required, lambda index: f"{path}[{index}]")
    return required


def check_unique(named: Sequence[str], path_of: Callable[[int], str]) -> None:
    """Refuse a name that occurs twice; `path_of` gives the path of the name at an index."""
    for index, one in enumerate(named):
        if one in named[:index]:
            raise InvalidPlan(f"{path_of(index)} is {one!r} a second time; each name should occur once")


def check_stragglers(plan: Plan) -> None:
    """Refuse policies that contradict each other."""
    if plan.percentage is not None and plan.over_selection:
        raise InvalidPlan("percentage and over_selection both end a round early; leave one of them out")
    if plan.cutoff is not None and plan.cutoff > plan.round_deadline:
        raise InvalidPlan(
            f"cutoff is {plan.cutoff.total_seconds():g} s; it should not be longer than round_deadline, "
            f"{plan.round_deadline.total_seconds():g} s"
        )


def check_collaborators(plan: Plan, collaborators: Sequence[str]) -> None:
    """Refuse a plan that these collaborators can never fulfil.

    Raises:
        InvalidPlan: a required one is not among them, or there are fewer than its minimum.
    """
    for index, envoy in enumerate(plan.required_collaborators):
        if envoy not in collaborators:
            raise InvalidPlan(
                f"required_collaborators[{index}] is {envoy!r}; it should be one of the experiment's collaborators"
            )
    if not collaborators:
        raise InvalidPlan("the experiment has no collaborators; it should have at least one")
    if plan.min_collaborators is not None and plan.min_collaborators > len(collaborators):
        raise InvalidPlan(
            f"min_collaborators is {plan.min_collaborators}; it should not be above {len(collaborators)}, "
            "the number of collaborators"
        )
