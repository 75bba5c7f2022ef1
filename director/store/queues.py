"""The envoys' queues: each collaborator's row goes waiting → queued → assigned → working → done, failed or released."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Integer, Row, and_, bindparam, or_, select, update

from director.domain.envoy import Engagement
from director.domain.experiment import Collaborator, Failure
from director.domain.history import EventKind, Occurrence
from director.domain.names import LONGEST
from director.domain.transitions import collaborator_sources
from director.domain.types import AssignmentState, CollaboratorState, ExperimentId, ExperimentState
from director.errors import NotFound, StaleAttempt
from director.store import events
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import assignments, collaborators, experiments

C = CollaboratorState
K = collaborators.c
MINE = K.experiment_id == bindparam("experiment")
ITS_OWN = MINE, K.envoy == bindparam("of_envoy")
# Rows for envoys that wait. Envoys that begin to wait are also offered what they hold already.
FOR_THEM = or_(
    and_(K.envoy.in_(bindparam("waiting", expanding=True)), K.state == C.QUEUED),
    and_(K.envoy.in_(bindparam("new", expanding=True)), K.state.in_((C.QUEUED, C.ASSIGNED, C.WORKING))),
)
ANYTHING = select(K.envoy).where(FOR_THEM).limit(1)
RUNNING = experiments.c.state == ExperimentState.IN_PROGRESS
WANTED = select(experiments.c.id).where(
    experiments.c.id.in_(select(K.experiment_id).where(FOR_THEM).scalar_subquery()), RUNNING
)
LOCK_WANTED = (
    select(experiments.c.id, experiments.c.uid, experiments.c.name)
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
OF_EXPERIMENT = select(K.envoy, K.state, K.attempt, K.failed_task, K.error_type, K.error).where(MINE)
PAGE = OF_EXPERIMENT.where(K.envoy > bindparam("cursor")).order_by(K.envoy).limit(bindparam("page", type_=Integer))
ONE = OF_EXPERIMENT.where(K.envoy == bindparam("of_envoy"), K.attempt > 0)
START_WORKING = (
    update(collaborators)
    .where(*ITS_OWN, K.state == C.ASSIGNED)
    .values(state=C.WORKING, working_at=bindparam("instant"))
)
FAIL = (
    update(collaborators)
    .where(*ITS_OWN, K.state.in_(collaborator_sources(C.FAILED)))
    .values(
        state=C.FAILED,
        ended_at=bindparam("instant"),
        failed_task=bindparam("task"),
        error_type=bindparam("kind"),
        error=bindparam("text"),
    )
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


async def add(tx: Transaction, experiment_id: ExperimentId, envoys: Sequence[str]) -> list[Collaborator]:
    """Enter the collaborators of a new experiment, and return them."""
    added = [Collaborator(envoy, C.WAITING, 0) for envoy in sorted(envoys)]
    rows = [
        {"experiment_id": experiment_id, "envoy": each.envoy, "state": each.state, "attempt": each.attempt}
        for each in added
    ]
    await tx.add(collaborators, *rows)
    return added


async def enqueue(tx: Transaction, experiment_id: ExperimentId) -> list[str]:
    """Queue an experiment for all its envoys. The caller holds the rows of the admission job and the experiment."""
    queued = await tx.execute(ENQUEUE, {"experiment": experiment_id, "instant": await tx.now()})
    envoys = sorted(row.envoy for row in queued)
    tx.wake(*(Topic.envoy(envoy) for envoy in envoys))
    return envoys


async def anything_for(tx: Transaction, envoys: Iterable[str], *, again: Iterable[str]) -> bool:
    """Whether there may be something to hand out; looking costs no lock."""
    return (await tx.execute(ANYTHING, {"waiting": sorted(envoys), "new": sorted(again)})).first() is not None


async def hand_out(
    tx: Transaction, envoys: Iterable[str], *, again: Iterable[str] = ()
) -> tuple[dict[str, Engagement], bool]:
    """Give the queued experiments to the envoys that wait for them, and offer new waiters what they hold already.

    Returns what each is given, and whether there was more that somebody else held locked: ask again soon.
    """
    wanted = {"waiting": sorted(envoys), "new": sorted(again)}
    names = {row.id: (row.uid, row.name) for row in await tx.dated(LOCK_WANTED, wanted)}
    given: dict[str, Engagement] = {}
    happened: defaultdict[int, list[Occurrence]] = defaultdict(list)
    if names:
        handed = await tx.execute(HAND_OUT, wanted | {"experiments": list(names), "instant": await tx.now()})
        for row in sorted(handed.all(), key=lambda row: (row.experiment_id, row.envoy)):
            given[row.envoy] = Engagement(*names[row.experiment_id], row.attempt)
            details = {"attempt": row.attempt}
            happened[row.experiment_id].append(Occurrence(EventKind.EXPERIMENT_GIVEN, row.envoy, details=details))
    for experiment_id in sorted(happened):
        await events.append(tx, ExperimentId(experiment_id), *happened[experiment_id])
    # On SQLite nobody else holds anything.
    waiting = set(wanted["waiting"]).difference(given)
    return given, tx.postgresql and bool(waiting) and await left_over(tx, wanted, names)


async def left_over(tx: Transaction, wanted: Mapping[str, Sequence[str]], taken: Iterable[int]) -> bool:
    """Whether something wanted was locked by somebody else."""
    return any(row.id not in taken for row in await tx.execute(WANTED, wanted))


async def of_experiment(tx: Transaction, experiment_id: ExperimentId) -> list[Collaborator]:
    """Return an experiment's collaborators, by name."""
    rows = await tx.execute(OF_EXPERIMENT, {"experiment": experiment_id})
    # Sorted here: the order of names differs between engines and collations.
    found = sorted(rows.all(), key=lambda row: str(row.envoy))
    return [collaborator(row) for row in found]


def collaborator(row: Row[Any]) -> Collaborator:
    """Read a row."""
    failure = None
    if row.error is not None:
        failure = Failure(row.error, task=row.failed_task or "", error_type=row.error_type or "")
    return Collaborator(row.envoy, row.state, row.attempt, failure)


async def page(tx: Transaction, experiment_id: ExperimentId, *, after: str, limit: int) -> list[Collaborator]:
    """Return the next collaborators of an experiment, in the engine's own order of names."""
    rows = await tx.execute(PAGE, {"experiment": experiment_id, "cursor": after, "page": limit})
    return [collaborator(row) for row in rows]


async def get(tx: Transaction, experiment_id: ExperimentId, envoy: str, *, attempt: int | None = None) -> Collaborator:
    """Return an envoy's part in an experiment.

    Raises:
        NotFound: it has none.
        StaleAttempt: the experiment was handed to it again since this attempt.
    """
    row = (await tx.execute(ONE, {"experiment": experiment_id, "of_envoy": envoy})).first()
    if row is None:
        raise NotFound(f"envoy {envoy!r} does not take part in this experiment")
    if attempt is not None and attempt != row.attempt:
        raise StaleAttempt(
            f"attempt {attempt} of envoy {envoy!r} is over: it was handed the experiment again (attempt {row.attempt})"
        )
    return collaborator(row)


async def start_working(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Note that an envoy was given tasks. The caller holds the experiment's row."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    await tx.execute(START_WORKING, which | {"instant": await tx.now()})


async def fail(tx: Transaction, experiment_id: ExperimentId, envoy: str, failure: Failure) -> bool:
    """Note that an envoy failed, and free it for others; False if its part had ended. The caller holds the row."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    why = {"task": failure.task[:LONGEST], "kind": failure.error_type[:LONGEST], "text": failure.message}
    failed = await tx.execute(FAIL, which | why | {"instant": await tx.now()})
    if failed.first() is None:
        return False
    tx.wake(Topic.admission(), Topic.experiment(experiment_id), Topic.envoy(envoy))
    return True


async def fail_assignment(tx: Transaction, experiment_id: ExperimentId, envoy: str) -> None:
    """Close the failed envoy's open assignment. One that is complete stays as it is, and counts."""
    which = {"experiment": experiment_id, "of_envoy": envoy}
    await tx.execute(FAIL_ASSIGNMENT, which | {"instant": await tx.now()})


async def end_all(tx: Transaction, experiment_id: ExperimentId, *, finished: bool) -> None:
    """Release all envoys: done if the experiment finished with them, else released. The caller holds the row."""
    which = {"experiment": experiment_id, "instant": await tx.now()}
    if finished:
        await tx.execute(FINISH, which)
    await tx.execute(RELEASE, which)
    tx.wake(Topic.admission(), Topic.experiment(experiment_id))
