"""How an experiment ends: one transition for cancel, fail, finish and reject."""

from director.domain.history import DIRECTOR, ENDINGS, EventKind, Occurrence
from director.domain.types import ExperimentId, ExperimentState
from director.store import events, experiment_states, queues, rounds
from director.store.engine.database import Transaction


async def end(
    tx: Transaction,
    experiment_id: ExperimentId,
    state: ExperimentState,
    *,
    reason: str | None = None,
    actor: str = DIRECTOR,
) -> bool:
    """End an experiment: abandon its open round and release its envoys; False if it has ended already.

    The caller holds the experiment's row; an owner holds its fence.
    """
    if not await experiment_states.end(tx, experiment_id, state, reason=reason):
        return False
    abandoned = await rounds.abandon(tx, experiment_id)
    await queues.end_all(tx, experiment_id, finished=state is ExperimentState.FINISHED)
    happened = []
    if abandoned is not None:
        await rounds.release_updates(tx, experiment_id, abandoned)
        happened = [Occurrence(EventKind.ROUND_ABANDONED, details={"round": abandoned})]
    await events.append(tx, experiment_id, *happened, Occurrence(ENDINGS[state], actor, reason))
    return True
