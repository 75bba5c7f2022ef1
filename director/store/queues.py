"""The envoys' queues: each collaborator's row goes waiting → queued → assigned → working → done, failed or released."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, or_, select, update

from director.domain.messages import Event, EventKind
from director.domain.transitions import collaborator_sources
from director.domain.types import AssignmentState, CollaboratorState, ExperimentId, ExperimentState
from director.errors import NotFound, StaleAttempt
from director.store import events
from director.store.engine.database import Transaction
from director.store.envoys import Engagement
from director.store.tables import assignments, collaborators, experiments

C = CollaboratorState
K = collaborators.c
MINE = K.experiment_id == bindparam("experiment")
ITS_OWN = MINE, K.envoy == bindparam("of_envoy")
# Rows for envoys that wait; those that ask anew are offered what they hold already, too.
FOR_THEM = or_(
    and_(K.envoy.in_(bindparam("waiting", expanding=True)), K.state == C.QUEUED),
    and_(K.envoy.in_(bindparam("anew", expanding=True)), K.state.in_((C.QUEUED, C.ASSIGNED, C.WORKING))),
)
ANYTHING = select(K.envoy).where(FOR_THEM).limit(1)
RUNNING = experiments.c.state == ExperimentState.IN_PROGRESS
WANTED = select(experiments.c.id).where(
    experiments.c.id.in_(select(K.experiment_id).where(FOR_THEM).scalar_subquery()), RUNNING
)
LOCK_WANTED = (
    select(experiments.c.id, experiments.c.name)
    .where(experiments.c.id.in_(select(K.experiment_id).where(FOR_THEM).scalar_subquery()), RUNNING)
    .order_by(experiments.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)
HAND_OUT = (
    update(collaborators)
    .where(K.experiment_id.in_(bindparam("experiments", expanding=True)), FOR_THEM)
    .values(state=C.ASSIGNED, attempt=K.attempt + 1, assigned_at=bindparam("instant"))
    .returning(K.experiment_id, K.envoy, K.attempt)
)
ENQUEUE = (
    update(collaborators)
    .where(MINE, K.state == C.WAITING)
    .values(state=C.QUEUED, queued_at=bindparam("instant"))
    .returning(K.envoy)
)
OF_EXPERIMENT = select(K.envoy, K.state, K.attempt, K.error).where(MINE)
ONE = OF_EXPERIMENT.where(K.envoy == bindparam("of_envoy"), K.attempt > 0)
START_WORKING = (
    update(collaborators)
    .where(*ITS_OWN, K.state == C.ASSIGNED)
    .values(state=C.WORKING, working_at=bindparam("instant"))
)
FAIL = (
    update(collaborators)
    .where(*ITS_OWN, K.state.in_(collaborator_sources(C.FAILED)))
    .values(state=C.FAILED, ended_at=bindparam("instant"), error=bindparam("text"))
    .returning(K.envoy)
)
FAIL_ASSIGNMENT = (
    update(assignments)
    .where(
        assignments.c.experiment_id == bindparam("experiment"),
        assignments.c.envoy == bindparam("of_envoy"),
        assignments.c.state == AssignmentState.ASKED,
    )
    .values(state=AssignmentState.FAILED, ended_at=bindparam("instant"))
)
FINISH = (
    update(collaborators)
    .where(MINE, K.state.in_(collaborator_sources(C.DONE)))
    .values(state=C.DONE, ended_at=bindparam("instant"))
)
RELEASE = (
    update(collaborators)
    .where(MINE, K.state.in_(collaborator_sources(C.RELEASED)))
    .values(state=C.RELEASED, ended_at=bindparam("instant"))
)


@dataclass(frozen=True, slots=True)
class Collaborator:
    """An envoy's part in an experiment."""

    envoy: str
    state: CollaboratorState
    attempt: int
    error: str | None


async def add(tx: Transaction, experiment_id: ExperimentId, envoys: Sequence[str]) -> list[Collaborator]:
    """Enter the collaborators of a new experiment, and return them."""
    added = [Collaborator(envoy, C.WAITING, 0, None) for envoy in sorted(envoys)]
    rows = [
        {"experiment_id": experiment_id, "envoy": each.envoy, "state": each.state, "attempt": each.attempt}
        for each in added
    ]
    await tx.add(collaborators, *rows)
    return added


async def enqueue(tx: Transaction, experiment_id: ExperimentId) -> list[str]:
    """Queue an experiment for all its envoys. The caller holds the admission duty and the experiment's row."""
    queued = await tx.execute(ENQUEUE, {"experiment": experiment_id, "instant": await tx.now()})
    envoys = sorted(row.envoy for row in queued)
    tx.wake(*(("envoy", envoy) for envoy in envoys))
    return envoys


async def anything_for(tx: Transaction, envoys: Iterable[str], *, again: Iterable[str]) -> bool:
    """Whether there may be something to hand out; looking costs no lock."""
    return (await tx.execute(ANYTHING, {"waiting": sorted(envoys), "anew": sorted(again)})).first() is not None


async def hand_out(
    tx: Transaction, envoys: Iterable[str], *, again: Iterable[str] = ()
) -> tuple[dict[str, Engagement], bool]:
    """Give the queued experiments to the envoys that wait for them, and to those that ask anew what they hold already.

    Returns what each is given, and whether there was more that somebody else held locked: ask again soon.
    """
    wanted = {"waiting": sorted(envoys), "anew": sorted(again)}
    names = {row.id: row.name for row in await tx.dated(LOCK_WANTED, wanted)}
    given: dict[str, Engagement] = {}
    if names:
        handed = await tx.execute(HAND_OUT, wanted | {"experiments": list(names), "instant": await tx.now()})
        for row in sorted(handed.all(), key=lambda row: (row.experiment_id, row.envoy)):
            given[row.envoy] = Engagement(row.experiment_id, names[row.experiment_id], row.attempt)
    for experiment_id in sorted({each.experiment_id for each in given.values()}):
        happened = [
            Event(EventKind.EXPERIMENT_GIVEN, envoy, details={"attempt": each.attempt})
            for envoy, each in given.items()
            if each.experiment_id == experiment_id
        ]
        await events.append(tx, ExperimentId(experiment_id), *happened)
    # On SQLite nobody else holds anything.
    waiting = set(wanted["waiting"]).difference(given)
    return given, tx.postgresql and bool(waiting) and await left_over(tx, wanted, names)


async def left_over(tx: Transaction, wanted: Mapping[str, Sequence[str]], taken: Iterable[int]) -> bool:
    """Whether something wanted was locked by somebody else."""
    return any(row.id not in taken for row in await tx.execute(WANTED, wanted))


async def of_experiment(tx: Transaction, experiment_id: ExperimentId) -> list[Collaborator]:
    """Return an experiment's collaborators, by name."""
    rows = await tx.execute(OF_EXPERIMENT, {"experiment": experiment_id})
    # Sorted here: an engine may have another opinion about the order of names.
    found = sorted(rows.all(), key=lambda row: str(row.envoy))
    return [Collaborator(row.envoy, row.state, row.attempt, row.error) for row in found]


async def get(tx: Transaction, experiment_id: ExperimentId, envoy: str, *, attempt: int | None = None) -> Collaborator:
    """Return an envoy's part in an experiment.

    Raises:
        NotFound: it has none.
        StaleAttempt: the experiment was handed to it again since this attempt.
    """
    row = (await tx.execute(ONE, {"experiment": experiment_id, "of_envoy": envoy})).first()
    if row is None:
        raise NotFound(f"envoy {envoy!r} does not take part in experiment {experiment_id}")
    if attempt is not None and attempt != row.attempt:
        raise StaleAttempt(
            f"attempt {attempt} of envoy {envoy!r} is over: it was handed the experiment again (attempt {row.attempt})"
        )
    return Collaborator(row.envoy, row.state, row.attempt, row.error)


async def start_working(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Note that an envoy was given tasks. The caller holds the experiment's row."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    await tx.execute(START_WORKING, which | {"instant": await tx.now()})


async def fail(tx: Transaction, experiment_id: ExperimentId, envoy: str, error: str) -> bool:
    """Note that an envoy failed, and free it for others; False if its part had ended. The caller holds the row."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    failed = await tx.execute(FAIL, which | {"instant": await tx.now(), "text": error})
    if failed.first() is None:
        return False
    tx.wake(("admission", 0), ("experiment", experiment_id), ("envoy", envoy))
    return True


async def fail_assignment(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Close the failed envoy's open assignment. One that is complete stays as it is, and counts."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    await tx.execute(FAIL_ASSIGNMENT, which | {"instant": await tx.now()})


async def end_all(tx: Transaction, experiment_id: ExperimentId, *, finished: bool) -> None:
    """Let all envoys go: done if the experiment finished with them, else released. The caller holds the row."""
    which = {"experiment": experiment_id, "instant": await tx.now()}
    if finished:
        await tx.execute(FINISH, which)
    await tx.execute(RELEASE, which)
    tx.wake(("admission", 0), ("experiment", experiment_id))
