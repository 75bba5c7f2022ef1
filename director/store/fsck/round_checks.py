"""Rounds: each with its assignments, contributions and metrics, which belong together and are read in one snapshot."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, Row, Select, and_, bindparam, select

from director.domain.scoring import AGGREGATOR, Measurement, score, weighted_metrics
from director.domain.types import AssignmentState, ExperimentState, RoundKind, RoundState, TaskKind
from director.errors import InvalidPlan
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.fsck.findings import A_PAGE, Check, Finding, FindingsPage, subject
from director.store.tables import assignments, contributions, metrics, models, rounds

PAGE = 16

BEHIND = (
    select(rounds, models.c.score.label("base_score"))
    .join(
        models,
        and_(models.c.experiment_id == rounds.c.experiment_id, models.c.number == rounds.c.number - 1),
        isouter=True,
    )
    .where(rounds.c.experiment_id == bindparam("experiment"), rounds.c.number > bindparam("after"))
    .order_by(rounds.c.number)
    .limit(A_PAGE)
)


def of_rounds(table: Any) -> Select[Any]:
    """Select a table's rows that belong to some rounds of an experiment."""
    number = table.c.round.between(bindparam("first", type_=Integer), bindparam("last", type_=Integer))
    return select(table).where(table.c.experiment_id == bindparam("experiment"), number)


ASSIGNMENTS, CONTRIBUTIONS, METRICS = map(of_rounds, (assignments, contributions, metrics))


@dataclass(frozen=True, slots=True)
class Round:
    """A round and all that belongs to it."""

    experiment: ExperimentRow
    row: Row[Any]
    assignments: Sequence[Row[Any]]
    contributions: Sequence[Row[Any]]
    metrics: Sequence[Row[Any]]

    @property
    def counted(self) -> list[Row[Any]]:
        """The contributions of those who count."""
        who = {each.envoy for each in self.assignments if each.state is AssignmentState.COUNTED}
        return [each for each in self.contributions if each.envoy in who]

    @property
    def averages(self) -> Mapping[tuple[str, str], float]:
        """What its averages should be."""
        reported: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for each in self.metrics:
            reported[each.origin, each.task][each.name] = number(each.value)
        return weighted_metrics(
            Measurement(each.envoy, each.task, each.samples, reported[each.envoy, each.task])
            for each in sorted(self.counted, key=lambda row: (row.envoy, row.task))
        )


def number(value: float | None) -> float:
    """Read a number that is stored; NULL is NaN."""
    return math.nan if value is None else value


async def all_of(tx: Transaction, experiment: ExperimentRow, after: int | None) -> FindingsPage:
    """Check some rounds of an experiment, in order; those of a plan that this code cannot read are passed over."""
    if isinstance(experiment.constants.plan, InvalidPlan):
        return FindingsPage([])
    which = {"experiment": experiment.id}
    rows = (await tx.execute(BEHIND, which | {"after": after or 0, "page": PAGE})).all()
    findings = list(numbered(experiment, [row.number for row in rows], after or 0))
    if rows:
        within = which | {"first": rows[0].number, "last": rows[-1].number}
        asked, given, measured = [
            by_round((await tx.execute(query, within)).all()) for query in (ASSIGNMENTS, CONTRIBUTIONS, METRICS)
        ]
        for row in rows:
            each = Round(experiment, row, asked[row.number], given[row.number], measured[row.number])
            findings += check(each)
    return FindingsPage(findings, rows[-1].number if len(rows) == PAGE else None)


def by_round(rows: Iterable[Row[Any]]) -> defaultdict[int, list[Row[Any]]]:
    """Sort rows by their rounds."""
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.round].append(row)
    return found


def numbered(experiment: ExperimentRow, numbers: list[int], after: int) -> Iterator[Finding]:
    """Check that the rounds behind a number follow each other, up to the experiment's."""
    last = after + len(numbers) if len(numbers) == PAGE else max(experiment.round, after)
    if numbers != list(range(after + 1, last + 1)):
        there = ", ".join(map(str, numbers)) or "none"
        text = f"rounds {after + 1} to {last} are expected; there are {there}"
        yield Finding(Check.ROUND_NUMBERS, f"{subject(experiment)}: {text}")


def check(each: Round) -> Iterator[Finding]:
    """Check one round."""
    for what, texts in CHECKS:
        for text in texts(each):
            yield Finding(what, f"{subject(each.experiment)}, round {each.row.number}: {text}")


def state(each: Round) -> Iterator[str]:
    """Check that the round's kind and state are possible, and whether it still asks."""
    row, experiment = each.row, each.experiment
    kind = RoundKind.TRAIN if row.number <= experiment.plan.rounds else RoundKind.FINAL
    if row.kind is not kind or row.number > experiment.plan.rounds + 1:
        yield f"it is a {row.kind} round; the plan has {experiment.plan.rounds} rounds"
    if row.number < experiment.round and row.state is not RoundState.CLOSED:
        yield f"it is {row.state}, but round {experiment.round} was opened after it"
    if row.state is RoundState.ABANDONED and experiment.state in (
        ExperimentState.IN_PROGRESS,
        ExperimentState.FINISHED,
    ):
        yield f"it is abandoned, but its experiment is {experiment.state}"
    if row.state is not RoundState.COLLECTING:
        for assignment in each.assignments:
            if assignment.state is AssignmentState.ASKED:
                yield f"it is {row.state}, but envoy {assignment.envoy!r} is still asked"


def tally(each: Round) -> Iterator[str]:
    """Compare the round's numbers with its rows."""
    row = each.row
    expected = {"asked": len(each.assignments)}
    if row.state is not RoundState.COLLECTING:
        found = Counter(assignment.state for assignment in each.assignments)
        states = AssignmentState.COUNTED, AssignmentState.MISSED, AssignmentState.FAILED
        expected |= {state.value: found[state] for state in states}
    if row.state is RoundState.CLOSED:
        train = each.experiment.plan.train_task.name
        expected["samples"] = sum(one.samples for one in each.counted if one.task == train)
    for name, value in expected.items():
        if getattr(row, name) != value:
            yield f"{name} is {getattr(row, name)}, its rows say {value}"


def complete(each: Round) -> Iterator[str]:
    """Check that those who count did all they were asked."""
    done = {(one.envoy, one.task) for one in each.contributions}
    for assignment in each.assignments:
        if assignment.state is AssignmentState.COUNTED:
            for task in assignment.tasks:
                if (assignment.envoy, task) not in done:
                    yield f"envoy {assignment.envoy!r} counts, but did not contribute to {task!r}"


def asked(each: Round) -> Iterator[str]:
    """Check that nobody did what it was not asked."""
    tasks = {(assignment.envoy, task) for assignment in each.assignments for task in assignment.tasks}
    for one in each.contributions:
        if (one.envoy, one.task) not in tasks:
            yield f"envoy {one.envoy!r} contributed to {one.task!r}, which it was not asked"


def once(each: Round) -> Iterator[str]:
    """Check that each metric is one of a contribution, and recorded once."""
    done = {(one.envoy, one.task) for one in each.contributions}
    times = Counter((one.origin, one.task, one.name) for one in each.metrics)
    for (origin, task, name), count in times.items():
        if count > 1:
            yield f"the metric {name!r} of {origin!r} in {task!r} is recorded {count} times"
        if origin != AGGREGATOR and (origin, task) not in done:
            yield f"the metric {name!r} of {origin!r} is recorded, but not its contribution to {task!r}"


def update_bytes(each: Round) -> Iterator[str]:
    """Check that an update's bytes are there as long as they are needed, and not longer."""
    opened = each.row.state in (RoundState.COLLECTING, RoundState.AGGREGATING)
    trains = {task.name for task in each.experiment.plan.tasks if task.kind is TaskKind.TRAIN}
    for one in each.contributions:
        if (one.digest is not None) is not (one.task in trains):
            yield f"the contribution of envoy {one.envoy!r} to {one.task!r} has {'an' if one.digest else 'no'} update"
        elif one.digest is not None and (one.blob_id is not None) is not opened:
            held = "held" if one.blob_id is not None else "not held"
            yield f"it is {each.row.state}, but the update of envoy {one.envoy!r} is {held}"


def averages(each: Round) -> Iterator[str]:
    """Compare the recorded averages with those of the contributions that count."""
    expected = each.averages if each.row.state is RoundState.CLOSED else {}
    found = {(one.task, one.name): number(one.value) for one in each.metrics if one.origin == AGGREGATOR}
    for key in sorted(expected.keys() | found.keys()):
        if key not in found or key not in expected or not same(found[key], expected[key]):
            task, name = key
            values = f"{found.get(key, 'not recorded')}, by its contributions {expected.get(key, 'there is none')}"
            yield f"the average of {name!r} in {task!r} is {values}"


def scores(each: Round) -> Iterator[str]:
    """Compare the round's score with its averages, and with the score of the model that it began from."""
    if each.row.state is not RoundState.CLOSED:
        return
    expected = score(each.experiment.plan, each.averages)
    for what, found in (
        ("its score", each.row.score),
        (f"the score of model {each.row.number - 1}", each.row.base_score),
    ):
        if not same(number(found), number(expected)):
            yield f"{what} is {found}, by its contributions {expected}"


def same(one: float, other: float) -> bool:
    """Whether two numbers are the same but for the rounding of another version's arithmetic; NaN is NaN."""
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9)


CHECKS: Sequence[tuple[Check, Callable[[Round], Iterator[str]]]] = (
    (Check.ROUND_STATE, state),
    (Check.TALLY, tally),
    (Check.COUNTED_COMPLETE, complete),
    (Check.CONTRIBUTION_ASKED, asked),
    (Check.CONTRIBUTION_ONCE, once),
    (Check.UPDATE_BYTES, update_bytes),
    (Check.AVERAGE, averages),
    (Check.SCORE, scores),
)
