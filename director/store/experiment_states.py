"""An experiment's guarded changes of state. The caller of each function holds the experiment's row."""

from datetime import datetime

from sqlalchemy import bindparam, delete, update

from director.domain.transitions import rank, sources
from director.domain.types import ExperimentId, ExperimentState
from director.store import clock
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import experiment_users, experiments

E = experiments.c
THE_ONE = E.id == bindparam("wanted")
START = (
    update(experiments)
    .where(THE_ONE, E.state.in_(sources(ExperimentState.IN_PROGRESS)), E.eligible_at.is_not(None))
    .values(state=ExperimentState.IN_PROGRESS, started_at=bindparam("instant"), queued_seconds=bindparam("length"))
    .returning(E.id)
)
END = (
    update(experiments)
    .where(THE_ONE, E.state.in_(bindparam("states", expanding=True)))
    .values(
        state=bindparam("to"),
        reason=bindparam("why"),
        finished_at=bindparam("instant"),
        review_due=False,
        director_id=None,
        fence=E.fence + 1,
    )
    .returning(E.started_at)
)
RAN = update(experiments).where(THE_ONE).values(running_seconds=bindparam("length"))
SET_ROUND = update(experiments).where(THE_ONE).values(round=bindparam("number"), crashes=0)
SET_LAST_MODEL = update(experiments).where(THE_ONE).values(last_model=bindparam("model"), crashes=0)
SET_BEST = update(experiments).where(THE_ONE).values(best_model=bindparam("model"), best_score=bindparam("score"))
RESET_CRASHES = update(experiments).where(THE_ONE).values(crashes=0)


async def start(tx: Transaction, experiment_id: ExperimentId, *, eligible_at: datetime) -> bool:
    """Make a pending experiment run; False if it is not pending any more."""
    now = await tx.now()
    starting = {"wanted": experiment_id, "instant": now, "length": (now - eligible_at).total_seconds()}
    if (await tx.execute(START, starting)).first() is None:
        return False
    tx.wake(Topic.experiment(experiment_id), Topic.claim())
    return True


async def end(tx: Transaction, experiment_id: ExperimentId, state: ExperimentState, *, reason: str | None) -> bool:
    """Make an experiment end; False if it has ended already. Its owner loses it."""
    now = await tx.now()
    ended = {"wanted": experiment_id, "to": state, "why": reason, "instant": now, "states": sources(state)}
    row = (await tx.execute(END, ended)).first()
    if row is None:
        return False
    if row.started_at is not None:
        await tx.execute(RAN, {"wanted": experiment_id, "length": (now - row.started_at).total_seconds()})
    tx.wake(Topic.experiment(experiment_id), Topic.admission())
    return True


async def approve(tx: Transaction, experiment_id: ExperimentId, *, priority: int) -> bool:
    """Make a pending experiment eligible; False if it waits for no review."""
    now, time = await tx.now(), await clock.now(tx)
    approved = await tx.execute(
        update(experiments)
        .where(E.id == experiment_id, E.state == ExperimentState.PENDING, E.eligible_at.is_(None))
        .values(
            review_due=False,
            director_id=None,
            eligible_at=now,
            eligible_service=time.now,
            rank=rank(now.timestamp(), priority),
        )
        .returning(E.id)
    )
    if approved.first() is None:
        return False
    tx.wake(Topic.experiment(experiment_id), Topic.admission())
    return True


async def set_round(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Store the round that is open now."""
    await tx.execute(SET_ROUND, {"wanted": experiment_id, "number": number})


async def set_last_model(tx: Transaction, experiment_id: ExperimentId, number: int) -> None:
    """Store the newest model."""
    await tx.execute(SET_LAST_MODEL, {"wanted": experiment_id, "model": number})


async def reset_crashes(tx: Transaction, experiment_id: ExperimentId) -> None:
    """Reset the number of crashes: a round was frozen."""
    await tx.execute(RESET_CRASHES, {"wanted": experiment_id})


async def set_best(tx: Transaction, experiment_id: ExperimentId, model: int, score: float) -> None:
    """Store which model is best."""
    await tx.execute(SET_BEST, {"wanted": experiment_id, "model": model, "score": score})


async def remove(tx: Transaction, experiment_id: ExperimentId) -> bool:
    """Take an ended experiment from its users' lists; its history stays."""
    removed = await tx.execute(
        update(experiments)
        .where(E.id == experiment_id, E.finished_at.is_not(None), E.removed_at.is_(None))
        .values(removed_at=await tx.now(), archive_blob_id=None)
        .returning(E.id)
    )
    if removed.first() is None:
        return False
    await tx.execute(delete(experiment_users).where(experiment_users.c.experiment_id == experiment_id))
    return True
