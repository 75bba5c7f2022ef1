"""The plan of an experiment: rounds, tasks, aggregation rule, quorum, stragglers; checked before anything is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from director.domain.aggregation import RULES
from director.domain.fields import LARGEST, Fields, Reader, choice, duration, each, name, share, text, truth, whole
from director.domain.tasks import Best, Task, best_reader, check_unique, default_best, read_stored_tasks, read_tasks
from director.domain.types import TaskKind
from director.errors import InvalidPlan

PLAN_VERSION = 1
"""The version of the stored form; a higher one was written by a newer director and is not read."""
MOST_ROUNDS = 100_000
MOST_COLLABORATORS = 1_000_000
NOTHING = timedelta(0)
SOMETHING = timedelta.resolution
DEADLINE = timedelta(hours=24)
GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that can be run, if there are enough collaborators (`check_collaborators`)."""

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
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the stored form that this version does not know; they are stored again as they are."""

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
            **self.unknown,
            "version": PLAN_VERSION,
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
    def from_json(cls, stored: object) -> "Plan":
        """Read what `to_json` wrote. Keys that this version does not know are kept; the rule may be one that it lacks.

        Raises:
            InvalidPlan: a newer director wrote it, or it is damaged.
        """
        if not isinstance(stored, Mapping):
            raise InvalidPlan("the stored plan cannot be read: it is not a mapping")
        version = stored.get("version", PLAN_VERSION)
        if version != PLAN_VERSION:
            raise InvalidPlan(f"the stored plan has version {version!r}; this director reads version {PLAN_VERSION}")
        try:
            return read_stored(stored)
        except InvalidPlan as error:
            raise InvalidPlan(f"the stored plan cannot be read: {error}") from error


def read_rule(value: object, path: str) -> str:
    """Read the name of an aggregation rule."""
    return Fields(value, path, ("rule",)).required("rule", choice(*RULES))


def read_required(value: object, path: str) -> tuple[str, ...]:
    """Read the names of the envoys that must contribute to every round."""
    required = each(name, "names of envoys")(value, path)
    check_unique(required, lambda index: f"{path}[{index}]")
    return required


SHARED: Mapping[str, Reader[Any]] = {
    "min_collaborators": whole(1, MOST_COLLABORATORS),
    "required_collaborators": read_required,
    "selection": share,
    "over_selection": whole(0, MOST_COLLABORATORS),
    "percentage": share,
    "cutoff": duration(SOMETHING),
    "round_deadline": duration(SOMETHING),
    "start_deadline": duration(SOMETHING),
    "envoy_grace": duration(NOTHING),
}
"""Keys that the file and the stored form have in common; one that is left out has the default of `Plan`."""
KEYS = ("rounds", "tasks", "aggregation", "best", "review", *SHARED, "on_deadline")
"""The keys of the file."""
STORED = tuple(each.name for each in fields(Plan) if each.name != "unknown")
"""The keys of the stored form, `version` aside."""


def parse(raw: object) -> Plan:
    """Read a plan as a YAML loader returned it.

    Raises:
        InvalidPlan: it cannot be run; the text names the key, and what would be right.
    """
    keys = Fields(raw, "", KEYS)
    tasks = keys.required("tasks", read_tasks)
    rule = keys.optional("aggregation", read_rule, "weighted_average")
    plan = Plan(
        rounds=keys.required("rounds", whole(1, MOST_ROUNDS)),
        tasks=tasks,
        rule=rule,
        rule_version=RULES[rule].version,
        best=keys.optional("best", best_reader(tasks), default_best(tasks)),
        manual_review=keys.optional("review", choice("auto", "manual"), "auto") == "manual",
        wait_past_deadline=keys.optional("on_deadline", choice("fail", "wait"), "fail") == "wait",
        **keys.present(SHARED),
    )
    check_stragglers(plan)
    return plan


def read_stored(stored: Mapping[str, Any]) -> Plan:
    """Read a plan in its stored form, in which every default is filled in."""
    keys = Fields({key: stored[key] for key in STORED if key in stored}, "", STORED)
    tasks = keys.required("tasks", read_stored_tasks)
    return Plan(
        rounds=keys.required("rounds", whole(1, MOST_ROUNDS)),
        tasks=tasks,
        rule=keys.required("rule", text),
        rule_version=keys.required("rule_version", whole(1, LARGEST)),
        best=keys.optional("best", best_reader(tasks), None),
        manual_review=keys.optional("manual_review", truth, False),
        wait_past_deadline=keys.optional("wait_past_deadline", truth, False),
        unknown={key: value for key, value in stored.items() if key not in (*STORED, "version")},
        **keys.present(SHARED),
    )


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
        InvalidPlan: a required one is missing, or there are fewer of them than the plan's minimum.
    """
    given = set(collaborators)
    for index, envoy in enumerate(plan.required_collaborators):
        if envoy not in given:
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
