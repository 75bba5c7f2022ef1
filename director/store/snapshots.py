"""What an execution loop decides from: everything about one experiment, read in one transaction."""

from collections import Counter
from datetime import timedelta

from sqlalchemy import bindparam, select

from director.domain.liveness import Liveness
from director.domain.steps import Member, Snapshot
from director.domain.types import AssignmentState, ExperimentId
from director.store import clock, envoys, experiments, queues, rounds
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.tables import assignments, contributions

ASKED = select(assignments.c.envoy, assignments.c.state, assignments.c.tasks).where(
    assignments.c.experiment_id == bindparam("of_experiment"), assignments.c.round == bindparam("of_round")
)
DONE = select(contributions.c.envoy).where(
    contributions.c.experiment_id == bindparam("of_experiment"), contributions.c.round == bindparam("of_round")
)
NEVER_SEEN = Liveness(float("-inf"), 0.0)


async def read(tx: Transaction, experiment: ExperimentRow, *, lease: timedelta) -> Snapshot:
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
                failure=each.failure,
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
    which = {"of_experiment": experiment_id, "of_round": number}
    asked = {row.envoy: (row.state, row.tasks) for row in await tx.execute(ASKED, which)}
    done = Counter(row.envoy for row in await tx.execute(DONE, which))
    return asked, done


async def fresh(tx: Transaction, experiment_id: ExperimentId, *, lease: timedelta) -> tuple[ExperimentRow, Snapshot]:
    """Read an experiment and its snapshot."""
    experiment = await experiments.get(tx, experiment_id)
    return experiment, await read(tx, experiment, lease=lease)
