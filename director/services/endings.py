"""How an experiment ends, whoever ends it: one transition for cancel, fail, finish and reject."""

from director.domain.messages import DIRECTOR, ENDINGS, Event, EventKind
from director.domain.types import ExperimentId, ExperimentState
from director.store import events, experiments, queues, rounds
from director.store.engine.database import Transaction


async def end(
    tx: Transaction,
    experiment_id: ExperimentId,
    state: ExperimentState,
    *,
    reason: str | None = None,
    actor: str = DIRECTOR,
) -> bool:
    """End an experiment, give up its open round and let its envoys go; False if it has ended already.

    The caller holds the experiment's row; an owner holds its fence.
    """
    if not await experiments.end(tx, experiment_id, state, reason=reason):
        return False
    abandoned = await rounds.abandon(tx, experiment_id)
    await queues.end_all(tx, experiment_id, finished=state is ExperimentState.FINISHED)
    happened = []
    if abandoned is not None:
        await rounds.release_updates(tx, experiment_id, abandoned)
        happened = [Event(EventKind.ROUND_ABANDONED, details={"round": abandoned})]
    await events.append(tx, experiment_id, *happened, Event(ENDINGS[state], actor, reason))
    return True
