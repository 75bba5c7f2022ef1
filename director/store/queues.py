"""The envoys' queues: each collaborator's row goes waiting → queued → assigned → working → done, failed or released."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, or_, select, update

from director.domain.experiments import collaborator_sources
from director.domain.messages import Event, EventKind
from director.domain.types import AssignmentState, CollaboratorState, ExperimentId, ExperimentState
from director.errors import NotFound, StaleAttempt
from director.store import events
from director.store.database import Transaction
from director.store.envoys import Engagement
from director.store.tables import assignments, collaborators, experiments

C = CollaboratorState


@dataclass(frozen=True, slots=True)
class Collaborator:
    """An envoy's part in an experiment."""

    envoy: str
    state: CollaboratorState
    attempt: int
    error: str | None


async def add(tx: Transaction, experiment_id: ExperimentId, envoys: Sequence[str]) -> None:
    """Enter the collaborators of a new experiment."""
    rows = [
        {"experiment_id": experiment_id, "envoy": envoy, "state": C.WAITING, "attempt": 0} for envoy in sorted(envoys)
    ]
    await tx.execute(tx.insert(collaborators), rows)


async def enqueue(tx: Transaction, experiment_id: ExperimentId) -> list[str]:
    """Queue an experiment for all its envoys. The caller holds the admission duty and the experiment's row."""
    queued = await tx.execute(
        update(collaborators)
        .where(collaborators.c.experiment_id == experiment_id, collaborators.c.state == C.WAITING)
        .values(state=C.QUEUED, queued_at=await tx.now())
        .returning(collaborators.c.envoy)
    )
    envoys = sorted(row.envoy for row in queued)
    tx.wake(*(("envoy", envoy) for envoy in envoys))
    return envoys


def wanted_by(envoys: Iterable[str], anew: Iterable[str]) -> ColumnElement[bool]:
    """Say which rows are for envoys that wait; those that ask anew are offered what they hold already, too."""
    return or_(
        and_(collaborators.c.envoy.in_(sorted(envoys)), collaborators.c.state == C.QUEUED),
        and_(collaborators.c.envoy.in_(sorted(anew)), collaborators.c.state.in_((C.QUEUED, C.ASSIGNED, C.WORKING))),
    )


async def anything_for(tx: Transaction, envoys: Iterable[str], *, again: Iterable[str]) -> bool:
    """Whether there may be something to hand out; looking costs no lock."""
    return (
        await tx.execute(select(collaborators.c.envoy).where(wanted_by(envoys, again)).limit(1))
    ).first() is not None


async def hand_out(
    tx: Transaction, envoys: Iterable[str], *, again: Iterable[str] = ()
) -> tuple[dict[str, Engagement], bool]:
    """Give the queued experiments to the envoys that wait for them, and to those that ask anew what they hold already.

    Returns what each is given, and whether there was more that somebody else held locked: ask again soon.
    """
    wanted = wanted_by(envoys, again)
    theirs = and_(collaborators.c.experiment_id == experiments.c.id, wanted)
    running = experiments.c.state == ExperimentState.IN_PROGRESS
    candidates = select(experiments.c.id).where(select(collaborators.c.envoy).where(theirs).exists(), running)
    locked = await tx.execute(
        select(experiments.c.id, experiments.c.name)
        .where(experiments.c.id.in_(candidates.scalar_subquery()), running)
        .order_by(experiments.c.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    names = {row.id: row.name for row in locked}
    given: dict[str, Engagement] = {}
    if names:
        handed = await tx.execute(
            update(collaborators)
            .where(collaborators.c.experiment_id.in_(names), wanted)
            .values(state=C.ASSIGNED, attempt=collaborators.c.attempt + 1, assigned_at=await tx.now())
            .returning(collaborators.c.experiment_id, collaborators.c.envoy, collaborators.c.attempt)
        )
        for row in sorted(handed.all(), key=lambda row: (row.experiment_id, row.envoy)):
            given[row.envoy] = Engagement(row.experiment_id, names[row.experiment_id], row.attempt)
    for experiment_id in sorted({each.experiment_id for each in given.values()}):
        happened = [
            Event(EventKind.EXPERIMENT_GIVEN, envoy, details={"attempt": each.attempt})
            for envoy, each in given.items()
            if each.experiment_id == experiment_id
        ]
        await events.append(tx, ExperimentId(experiment_id), *happened)
    skipped = tx.postgresql and (await tx.execute(candidates.where(experiments.c.id.not_in(names)))).first() is not None
    return given, skipped


async def of_experiment(tx: Transaction, experiment_id: ExperimentId) -> list[Collaborator]:
    """Return an experiment's collaborators, by name."""
    found = select(collaborators).where(collaborators.c.experiment_id == experiment_id).order_by(collaborators.c.envoy)
    return [Collaborator(row.envoy, row.state, row.attempt, row.error) for row in (await tx.execute(found)).all()]


async def get(tx: Transaction, experiment_id: ExperimentId, envoy: str, *, attempt: int | None = None) -> Collaborator:
    """Return an envoy's part in an experiment.

    Raises:
        NotFound: it has none.
        StaleAttempt: the experiment was handed to it again since this attempt.
    """
    found = select(collaborators).where(
        collaborators.c.experiment_id == experiment_id, collaborators.c.envoy == envoy, collaborators.c.attempt > 0
    )
    row = (await tx.execute(found)).first()
    if row is None:
        raise NotFound(f"envoy {envoy!r} does not take part in experiment {experiment_id}")
    if attempt is not None and attempt != row.attempt:
        raise StaleAttempt(
            f"attempt {attempt} of envoy {envoy!r} is over: it was handed the experiment again (attempt {row.attempt})"
        )
    return Collaborator(row.envoy, row.state, row.attempt, row.error)


async def start_working(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Note that an envoy was given tasks. The caller holds the experiment's row."""
    await tx.execute(
        update(collaborators)
        .where(
            collaborators.c.experiment_id == experiment_id,
            collaborators.c.envoy == envoy,
            collaborators.c.state == C.ASSIGNED,
        )
        .values(state=C.WORKING, working_at=await tx.now())
    )


async def fail(tx: Transaction, experiment_id: ExperimentId, envoy: str, error: str) -> bool:
    """Note that an envoy failed, and free it for others; False if its part had ended. The caller holds the row."""
    now = await tx.now()
    failed = await tx.execute(
        update(collaborators)
        .where(
            collaborators.c.experiment_id == experiment_id,
            collaborators.c.envoy == envoy,
            collaborators.c.state.in_(collaborator_sources(C.FAILED)),
        )
        .values(state=C.FAILED, ended_at=now, error=error)
        .returning(collaborators.c.envoy)
    )
    if failed.first() is None:
        return False
    tx.wake(("admission", 0), ("experiment", experiment_id), ("envoy", envoy))
    return True


async def fail_assignment(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Close the failed envoy's open assignment. One that is complete stays as it is, and counts."""
    await tx.execute(
        update(assignments)
        .where(
            assignments.c.experiment_id == experiment_id,
            assignments.c.envoy == envoy,
            assignments.c.state == AssignmentState.ASKED,
        )
        .values(state=AssignmentState.FAILED, ended_at=await tx.now())
    )


async def end_all(tx: Transaction, experiment_id: ExperimentId, *, finished: bool) -> None:
    """Let all envoys go: done if the experiment finished with them, else released. The caller holds the row."""
    now = await tx.now()
    mine = collaborators.c.experiment_id == experiment_id
    if finished:
        await tx.execute(
            update(collaborators)
            .where(mine, collaborators.c.state.in_(collaborator_sources(C.DONE)))
            .values(state=C.DONE, ended_at=now)
        )
    await tx.execute(
        update(collaborators)
        .where(mine, collaborators.c.state.in_(collaborator_sources(C.RELEASED)))
        .values(state=C.RELEASED, ended_at=now)
    )
    tx.wake(("admission", 0), ("experiment", experiment_id))
