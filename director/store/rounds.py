"""Rounds and their assignments: collecting → aggregating → closed, or abandoned; asked → counted, missed or failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ScalarSelect, and_, bindparam, func, select, update

from director.domain.plan import Plan
from director.domain.steps import Open, OpenRound
from director.domain.types import AssignmentState, BlobId, ExperimentId, RoundKind, RoundState
from director.store import clock, stash
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import assignments, contributions, rounds

R = rounds.c
A = assignments.c
OPEN = (RoundState.COLLECTING, RoundState.AGGREGATING)
OF_EXPERIMENT = R.experiment_id == bindparam("experiment")
THE_ROUND = OF_EXPERIMENT, R.number == bindparam("of_round")
ITS_ASSIGNMENTS = A.experiment_id == bindparam("experiment"), A.round == bindparam("of_round")
ITS_RESULTS = (
    contributions.c.experiment_id == bindparam("experiment"),
    contributions.c.round == bindparam("of_round"),
)
NEWEST = select(rounds).where(OF_EXPERIMENT).order_by(R.number.desc()).limit(1)
ASSIGNMENT = (
    select(assignments, R.kind, R.state.label("round_state"))
    .join(rounds, and_(R.experiment_id == A.experiment_id, R.number == A.round))
    .where(A.experiment_id == bindparam("experiment"), A.envoy == bindparam("of_envoy"))
)
COLLECTING_ASSIGNMENT = ASSIGNMENT.where(R.state == RoundState.COLLECTING)
ASSIGNMENT_IN = ASSIGNMENT.where(R.number == bindparam("of_round"))
DONE = select(contributions.c.task).where(*ITS_RESULTS, contributions.c.envoy == bindparam("of_envoy"))
FIRST_TASKS = (
    update(rounds).where(*THE_ROUND, R.first_task_service.is_(None)).values(first_task_service=bindparam("service"))
)
GIVE = (
    update(assignments)
    .where(*ITS_ASSIGNMENTS, A.envoy == bindparam("of_envoy"), A.given_at.is_(None))
    .values(given_at=bindparam("instant"))
)
FREEZE = (
    update(rounds)
    .where(*THE_ROUND, R.state == RoundState.COLLECTING)
    .values(state=RoundState.AGGREGATING, frozen_at=bindparam("instant"))
    .returning(R.opened_at)
)
COUNT = (
    update(assignments)
    .where(*ITS_ASSIGNMENTS, A.envoy.in_(bindparam("complete", expanding=True)))
    .values(state=AssignmentState.COUNTED, ended_at=bindparam("instant"))
)
MISS = (
    update(assignments)
    .where(*ITS_ASSIGNMENTS, A.state == AssignmentState.ASKED)
    .values(state=AssignmentState.MISSED, ended_at=bindparam("instant"))
)


def number_of(state: AssignmentState) -> ScalarSelect[int]:
    """Count a round's assignments in a state."""
    return select(func.count()).where(*ITS_ASSIGNMENTS, A.state == state).scalar_subquery()


TALLY = (
    update(rounds)
    .where(*THE_ROUND)
    .values(
        counted=number_of(AssignmentState.COUNTED),
        missed=number_of(AssignmentState.MISSED),
        failed=number_of(AssignmentState.FAILED),
    )
)
TALLY_FROZEN = TALLY.values(collecting_seconds=bindparam("length"))
TALLY_ABANDONED = TALLY.values(round_seconds=bindparam("length"))
CLOSE = (
    update(rounds)
    .where(*THE_ROUND, R.state == RoundState.AGGREGATING)
    .values(
        state=RoundState.CLOSED, closed_at=bindparam("instant"), samples=bindparam("total"), score=bindparam("measured")
    )
    .returning(R.opened_at)
)
LENGTH = update(rounds).where(*THE_ROUND).values(round_seconds=bindparam("length"))
ABANDON = (
    update(rounds)
    .where(OF_EXPERIMENT, R.state.in_(OPEN))
    .values(state=RoundState.ABANDONED, closed_at=bindparam("instant"))
    .returning(R.number, R.opened_at)
)
HELD_UPDATES = select(contributions.c.blob_id).where(*ITS_RESULTS, contributions.c.blob_id.is_not(None))
RELEASE_UPDATES = update(contributions).where(*ITS_RESULTS).values(blob_id=None)


async def current(tx: Transaction, experiment_id: ExperimentId) -> OpenRound | None:
    """Return the newest round, or None before the first."""
    row = (await tx.execute(NEWEST, {"experiment": experiment_id})).first()
    if row is None:
        return None
    return OpenRound(row.number, row.kind, row.state, row.deadline_service, row.first_task_service)


async def open_(tx: Transaction, experiment_id: ExperimentId, step: Open, plan: Plan) -> None:
    """Open a round and ask its envoys. The caller holds the experiment's fence."""
    now = await tx.now()
    tasks = [task.name for task in (plan.tasks if step.kind is RoundKind.TRAIN else plan.validate_tasks)]
    row = {
        "experiment_id": experiment_id,
        "number": step.number,
        "kind": step.kind,
        "state": RoundState.COLLECTING,
        "deadline_service": step.deadline,
        "opened_at": now,
        "asked": len(step.envoys),
    }
    await tx.add(rounds, row)
    asked = [
        {
            "experiment_id": experiment_id,
            "round": step.number,
            "envoy": envoy,
            "tasks": tasks,
            "state": AssignmentState.ASKED,
            "asked_at": now,
        }
        for envoy in step.envoys
    ]
    await tx.add(assignments, *asked)
    tx.wake(Topic.experiment(experiment_id))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an envoy was asked in a round, and what of it is done."""

    round_number: int
    kind: RoundKind
    round_state: RoundState
    tasks: Sequence[str]
    done: frozenset[str]
    state: AssignmentState
    given_at: datetime | None

    @property
    def open(self) -> bool:
        """Whether results are still taken."""
        return self.round_state is RoundState.COLLECTING and self.state is AssignmentState.ASKED

    @property
    def todo(self) -> list[str]:
        """The tasks without a result, in the plan's order."""
        return [task for task in self.tasks if task not in self.done]


async def assignment(
    tx: Transaction, experiment_id: ExperimentId, envoy: str, *, round_number: int | None = None
) -> Assignment | None:
    """Return an envoy's assignment in a round, by default in the one that is collecting."""
    which: dict[str, Any] = {"experiment": experiment_id, "of_envoy": envoy}
    if round_number is None:
        found = await tx.execute(COLLECTING_ASSIGNMENT, which)
    else:
        found = await tx.execute(ASSIGNMENT_IN, which | {"of_round": round_number})
    row = found.first()
    if row is None:
        return None
    done = await tx.execute(DONE, which | {"of_round": row.round})
    tasks = frozenset(each.task for each in done)
    return Assignment(row.round, row.kind, row.round_state, row.tasks, tasks, row.state, row.given_at)


async def give(tx: Transaction, experiment_id: ExperimentId, round_number: int, envoy: str) -> None:
    """Note that tasks were handed out; the first ones of a round start its cutoff. The caller holds the row."""
    which = {"experiment": experiment_id, "of_round": round_number}
    await tx.execute(FIRST_TASKS, which | {"service": (await clock.now(tx)).now})
    await tx.execute(GIVE, which | {"of_envoy": envoy, "instant": await tx.now()})


async def freeze(tx: Transaction, experiment_id: ExperimentId, number: int, *, complete: Sequence[str]) -> bool:
    """Decide who counts: the complete ones, and no one after; False if it was frozen. The caller holds the fence."""
    which = {"experiment": experiment_id, "of_round": number, "instant": await tx.now()}
    row = (await tx.execute(FREEZE, which)).first()
    if row is None:
        return False
    await tx.execute(COUNT, which | {"complete": list(complete)})
    await tx.execute(MISS, which)
    await tx.execute(TALLY_FROZEN, which | {"length": (which["instant"] - row.opened_at).total_seconds()})
    return True


async def close(
    tx: Transaction, experiment_id: ExperimentId, number: int, *, samples: int, score: float | None
) -> bool:
    """Close a round that was aggregated; False if it is not being aggregated. The caller holds the fence."""
    which = {"experiment": experiment_id, "of_round": number, "instant": await tx.now()}
    row = (await tx.execute(CLOSE, which | {"total": samples, "measured": score})).first()
    if row is None:
        return False
    await tx.execute(LENGTH, which | {"length": (which["instant"] - row.opened_at).total_seconds()})
    return True


async def abandon(tx: Transaction, experiment_id: ExperimentId) -> int | None:
    """Give up the open round, if there is one, and return its number. The caller holds the experiment's row.

    It lets the round's updates go too, later: bytes come last in the order of locks.
    """
    now = await tx.now()
    row = (await tx.execute(ABANDON, {"experiment": experiment_id, "instant": now})).first()
    if row is None:
        return None
    which = {"experiment": experiment_id, "of_round": row.number}
    await tx.execute(MISS, which | {"instant": now})
    await tx.execute(TALLY_ABANDONED, which | {"length": (now - row.opened_at).total_seconds()})
    return int(row.number)


async def release_updates(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Let the updates of a round go; their digests stay. The caller holds the experiment's row."""
    which = {"experiment": experiment_id, "of_round": number}
    blob_ids = [BlobId(row.blob_id) for row in await tx.execute(HELD_UPDATES, which)]
    await tx.execute(RELEASE_UPDATES, which)
    await stash.drop(tx, *blob_ids)
