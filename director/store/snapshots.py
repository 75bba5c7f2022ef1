"""What an execution loop decides from: everything about one experiment, read in one transaction."""

from collections import Counter
from datetime import timedelta

from sqlalchemy import select

from director.domain.envoys import Liveness
from director.domain.rounds import Member, Snapshot
from director.domain.types import AssignmentState, ExperimentId
from director.store import clock, envoys, experiments, queues, rounds
from director.store.database import Transaction
from director.store.experiments import Experiment
from director.store.tables import assignments, contributions

NEVER_SEEN = Liveness(float("-inf"), 0.0)


async def read(tx: Transaction, experiment: Experiment, *, lease: timedelta) -> Snapshot:
    """Read what the next step of an experiment is chosen from."""
    time = (await clock.read(tx)).time
    current = await rounds.current(tx, experiment.id)
    collaborators = await queues.of_experiment(tx, experiment.id)
    seen = await envoys.liveness(tx, [each.envoy for each in collaborators], lease=lease)
    asked, done = await progress(tx, experiment.id, current.number if current else 0)
    return Snapshot(
        plan=experiment.plan,
        state=experiment.state,
        seed=experiment.seed,
        now=time.now,
        members=[
            Member(
                envoy=each.envoy,
                state=each.state,
                absence=seen.get(each.envoy, NEVER_SEEN).absence(time),
                assignment=asked[each.envoy][0] if each.envoy in asked else None,
                complete=each.envoy in asked and done[each.envoy] >= len(asked[each.envoy][1]),
                error=each.error,
            )
            for each in collaborators
        ],
        round=current,
        review_due=experiment.review_due,
        review_deadline=experiment.review_deadline,
    )


async def progress(
    tx: Transaction, experiment_id: ExperimentId, number: int
) -> tuple[dict[str, tuple[AssignmentState, list[str]]], Counter[str]]:
    """Return each asked envoy's state and tasks, and how many of them have a result."""
    mine = assignments.c.experiment_id == experiment_id, assignments.c.round == number
    rows = await tx.execute(select(assignments.c.envoy, assignments.c.state, assignments.c.tasks).where(*mine))
    asked = {row.envoy: (row.state, row.tasks) for row in rows}
    theirs = contributions.c.experiment_id == experiment_id, contributions.c.round == number
    done = Counter(row.envoy for row in await tx.execute(select(contributions.c.envoy).where(*theirs)))
    return asked, done


async def fresh(tx: Transaction, experiment_id: ExperimentId, *, lease: timedelta) -> tuple[Experiment, Snapshot]:
    """Read an experiment and its snapshot."""
    experiment = await experiments.get(tx, experiment_id)
    return experiment, await read(tx, experiment, lease=lease)
