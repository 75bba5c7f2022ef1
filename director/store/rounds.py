"""Rounds and their assignments: collecting → aggregating → closed, or abandoned; asked → counted, missed or failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select, update

from director.domain.plan import Plan
from director.domain.rounds import Open, OpenRound
from director.domain.types import AssignmentState, BlobId, ExperimentId, RoundKind, RoundState
from director.store import clock, stash
from director.store.database import Transaction
from director.store.tables import assignments, contributions, rounds

R = rounds.c
A = assignments.c
OPEN = (RoundState.COLLECTING, RoundState.AGGREGATING)


async def current(tx: Transaction, experiment_id: ExperimentId) -> OpenRound | None:
    """Return the newest round, or None before the first."""
    newest = select(rounds).where(R.experiment_id == experiment_id).order_by(R.number.desc()).limit(1)
    row = (await tx.execute(newest)).first()
    if row is None:
        return None
    return OpenRound(row.number, row.kind, row.state, row.deadline_service, row.first_task_service)


async def open_(tx: Transaction, experiment_id: ExperimentId, step: Open, plan: Plan) -> None:
    """Open a round and ask its envoys. The caller holds the experiment's fence."""
    now = await tx.now()
    tasks = [task.name for task in (plan.tasks if step.kind is RoundKind.TRAIN else plan.validate_tasks)]
    await tx.execute(
        tx.insert(rounds).values(
            experiment_id=experiment_id,
            number=step.number,
            kind=step.kind,
            state=RoundState.COLLECTING,
            deadline_service=step.deadline,
            opened_at=now,
            asked=len(step.envoys),
        )
    )
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
    if asked:
        await tx.execute(tx.insert(assignments), asked)
    tx.wake(("experiment", experiment_id))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an envoy was asked in a round, and what of it is done."""

    round_number: int
    kind: RoundKind
    round_state: RoundState
    tasks: Sequence[str]
    done: frozenset[str]
    state: AssignmentState
    given: bool

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
    which = R.state == RoundState.COLLECTING if round_number is None else R.number == round_number
    found = (
        select(assignments, R.kind, R.state.label("round_state"))
        .join(rounds, and_(R.experiment_id == A.experiment_id, R.number == A.round))
        .where(A.experiment_id == experiment_id, A.envoy == envoy, which)
    )
    row = (await tx.execute(found)).first()
    if row is None:
        return None
    done = select(contributions.c.task).where(
        contributions.c.experiment_id == experiment_id,
        contributions.c.round == row.round,
        contributions.c.envoy == envoy,
    )
    tasks = frozenset(each.task for each in await tx.execute(done))
    return Assignment(row.round, row.kind, row.round_state, row.tasks, tasks, row.state, row.given_at is not None)


async def give(tx: Transaction, experiment_id: ExperimentId, round_number: int, envoy: str) -> None:
    """Note that tasks were handed out; the first ones of a round start its cutoff. The caller holds the row."""
    time = await clock.now(tx)
    await tx.execute(
        update(rounds)
        .where(R.experiment_id == experiment_id, R.number == round_number, R.first_task_service.is_(None))
        .values(first_task_service=time.now)
    )
    mine = A.experiment_id == experiment_id, A.round == round_number, A.envoy == envoy
    await tx.execute(update(assignments).where(*mine, A.given_at.is_(None)).values(given_at=await tx.now()))


async def freeze(tx: Transaction, experiment_id: ExperimentId, number: int, *, complete: Sequence[str]) -> bool:
    """Decide who counts: the complete ones, and no one after; False if it was frozen. The caller holds the fence."""
    now = await tx.now()
    mine = A.experiment_id == experiment_id, A.round == number
    frozen = await tx.execute(
        update(rounds)
        .where(R.experiment_id == experiment_id, R.number == number, R.state == RoundState.COLLECTING)
        .values(state=RoundState.AGGREGATING, frozen_at=now)
        .returning(R.opened_at)
    )
    row = frozen.first()
    if row is None:
        return False
    counted = update(assignments).where(*mine, A.envoy.in_(complete))
    await tx.execute(counted.values(state=AssignmentState.COUNTED, ended_at=now))
    missed = update(assignments).where(*mine, A.state == AssignmentState.ASKED)
    await tx.execute(missed.values(state=AssignmentState.MISSED, ended_at=now))
    await tx.execute(
        update(rounds)
        .where(R.experiment_id == experiment_id, R.number == number)
        .values(collecting_seconds=(now - row.opened_at).total_seconds(), **await tally(tx, experiment_id, number))
    )
    return True


async def tally(tx: Transaction, experiment_id: ExperimentId, number: int) -> dict[str, int]:
    """Count what became of a round's assignments."""
    counted = select(A.state, func.count().label("number")).where(A.experiment_id == experiment_id, A.round == number)
    found = {row.state: row.number for row in await tx.execute(counted.group_by(A.state))}
    states = AssignmentState.COUNTED, AssignmentState.MISSED, AssignmentState.FAILED
    return {state.value: found.get(state, 0) for state in states}


async def close(
    tx: Transaction, experiment_id: ExperimentId, number: int, *, samples: int, score: float | None
) -> bool:
    """Close a round that was aggregated; False if it is not being aggregated. The caller holds the fence."""
    ended = await end(tx, experiment_id, RoundState.CLOSED, only=RoundState.AGGREGATING)
    if ended != number:
        return False
    values: dict[str, Any] = {"samples": samples, "score": score}
    await tx.execute(update(rounds).where(R.experiment_id == experiment_id, R.number == number).values(values))
    return True


async def abandon(tx: Transaction, experiment_id: ExperimentId) -> int | None:
    """Give up the open round, if there is one, and let its updates go. The caller holds the experiment's row."""
    number = await end(tx, experiment_id, RoundState.ABANDONED, only=None)
    if number is not None:
        mine = A.experiment_id == experiment_id, A.round == number, A.state == AssignmentState.ASKED
        missed = {"state": AssignmentState.MISSED, "ended_at": await tx.now()}
        await tx.execute(update(assignments).where(*mine).values(missed))
        tallied = await tally(tx, experiment_id, number)
        await tx.execute(update(rounds).where(R.experiment_id == experiment_id, R.number == number).values(**tallied))
        await release_updates(tx, experiment_id, number)
    return number


async def end(
    tx: Transaction, experiment_id: ExperimentId, state: RoundState, *, only: RoundState | None
) -> int | None:
    """Make the open round end, and return its number."""
    now = await tx.now()
    ended = await tx.execute(
        update(rounds)
        .where(R.experiment_id == experiment_id, R.state.in_(OPEN if only is None else (only,)))
        .values(state=state, closed_at=now)
        .returning(R.number, R.opened_at)
    )
    row = ended.first()
    if row is None:
        return None
    length = (now - row.opened_at).total_seconds()
    mine = R.experiment_id == experiment_id, R.number == row.number
    await tx.execute(update(rounds).where(*mine).values(round_seconds=length))
    return int(row.number)


async def release_updates(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Let the updates of a round go; their digests stay. The caller holds the experiment's row."""
    mine = contributions.c.experiment_id == experiment_id, contributions.c.round == number
    held = select(contributions.c.blob_id).where(*mine, contributions.c.blob_id.is_not(None))
    blob_ids = [BlobId(row.blob_id) for row in await tx.execute(held)]
    await tx.execute(update(contributions).where(*mine).values(blob_id=None))
    await stash.drop(tx, *blob_ids)
