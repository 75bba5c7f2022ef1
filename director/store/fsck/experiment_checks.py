"""Experiments as a whole: how they end, their collaborators, their models, what they still hold."""

from sqlalchemy import bindparam, func, select

from director.domain.history import ENDINGS, EventKind
from director.domain.types import CollaboratorState, ExperimentState, RoundKind, RoundState
from director.errors import InvalidPlan
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.fsck.findings import A_PAGE, Check, Finding, FindingsPage, subject
from director.store.rounds import OPEN
from director.store.tables import collaborators, contributions, events, experiments, models, rounds

PAGE = 500
S, C = ExperimentState, CollaboratorState

RELEASED = frozenset({C.FAILED, C.RELEASED})
FITTING = {
    S.PENDING: frozenset({C.WAITING, C.FAILED}),
    S.IN_PROGRESS: frozenset({C.QUEUED, C.ASSIGNED, C.WORKING, C.FAILED}),
    S.FINISHED: RELEASED | {C.DONE},
    S.FAILED: RELEASED,
    S.CANCELLED: RELEASED,
    S.REJECTED: RELEASED,
}
"""The states of collaborators that go with each state of their experiment."""

IDS = select(experiments.c.id).where(experiments.c.id > bindparam("after")).order_by(experiments.c.id).limit(A_PAGE)
ROUNDS = rounds.c.experiment_id == bindparam("experiment")
OPEN_ROUNDS = select(rounds.c.number, rounds.c.state).where(ROUNDS, rounds.c.state.in_(OPEN))
ALL_ROUNDS = select(func.count()).select_from(rounds).where(ROUNDS)
RESULTS = ALL_ROUNDS.where(rounds.c.kind == RoundKind.TRAIN, rounds.c.state == RoundState.CLOSED)
MEMBERS = (
    select(collaborators.c.envoy, collaborators.c.state)
    .where(collaborators.c.experiment_id == bindparam("experiment"))
    .order_by(collaborators.c.envoy)
)
OF_KIND = (events.c.stream == bindparam("experiment"), events.c.kind.in_(bindparam("kinds", expanding=True)))
HAPPENED = select(events.c.kind).where(*OF_KIND).order_by(events.c.seq)
RECEIVED = select(func.count()).where(*OF_KIND)
CONTRIBUTED = (
    select(func.count()).select_from(contributions).where(contributions.c.experiment_id == bindparam("experiment"))
)
MODELS = models.c.experiment_id == bindparam("experiment")
NUMBERS = select(
    func.count().label("models"), func.min(models.c.number).label("first"), func.max(models.c.number).label("newest")
).where(MODELS)
SCORED = select(models.c.number, models.c.score).where(MODELS, models.c.score.is_not(None)).limit(1)
HIGHEST = SCORED.order_by(models.c.score.desc(), models.c.number)
LOWEST = SCORED.order_by(models.c.score, models.c.number)
KEPT = select(models.c.number).where(
    MODELS, models.c.payload_blob_id.is_not(None) | models.c.state_blob_id.is_not(None)
)
KEPT_OF = KEPT.where(models.c.number.in_(bindparam("numbers", expanding=True)))


async def ids(tx: Transaction, after: int) -> list[int]:
    """Return the next experiments."""
    return [row.id for row in (await tx.execute(IDS, {"after": after, "page": PAGE})).all()]


async def ended(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Check that what has ended goes on nowhere, and what is pending has not begun."""
    state, wrong = experiment.state, []
    which = {"experiment": experiment.id}
    if state.terminal:
        if experiment.director_id is not None:
            wrong.append(f"director {experiment.director_id} owns it")
        wrong += [f"round {row.number} is {row.state}" for row in await tx.execute(OPEN_ROUNDS, which)]
    elif state is S.PENDING and (number := (await tx.execute(ALL_ROUNDS, which)).scalar_one()):
        wrong.append(f"it has {number} rounds")
    text = f"{subject(experiment)}: it is {state}, but"
    return FindingsPage([Finding(Check.ENDED, f"{text} {each}") for each in wrong])


async def collaborator_states(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Check that the collaborators' states go with the experiment's."""
    unfit = [
        f"envoy {row.envoy!r} is {row.state} in it"
        for row in await tx.execute(MEMBERS, {"experiment": experiment.id})
        if row.state not in FITTING[experiment.state]
    ]
    text = f"{subject(experiment)}: it is {experiment.state}, but"
    return FindingsPage([Finding(Check.COLLABORATOR_STATE, f"{text} {each}") for each in unfit])


async def ended_once(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Compare the experiment's state with what its events say about its end."""
    kinds = {"experiment": experiment.id, "kinds": [kind.value for kind in ENDINGS.values()]}
    found = [row.kind for row in await tx.execute(HAPPENED, kinds)]
    expected = [ENDINGS[experiment.state].value] if experiment.state.terminal else []
    if found == expected:
        return FindingsPage([])
    told = ", ".join(found) or "of no end"
    return FindingsPage(
        [Finding(Check.ENDED_ONCE, f"{subject(experiment)}: it is {experiment.state}, its events tell {told}")]
    )


async def received_once(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Compare the number of contributions with the number of events about them."""
    of_kind = {"experiment": experiment.id, "kinds": [EventKind.CONTRIBUTION_RECEIVED.value]}
    told = (await tx.execute(RECEIVED, of_kind)).scalar_one()
    held = (await tx.execute(CONTRIBUTED, {"experiment": experiment.id})).scalar_one()
    if told == held:
        return FindingsPage([])
    text = f"{subject(experiment)}: it holds {held} contributions, its events tell of {told}"
    return FindingsPage([Finding(Check.CONTRIBUTION_ONCE, text)])


async def model_numbers(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Check that there is a model of each closed train round, and the initial one."""
    which, last = {"experiment": experiment.id}, experiment.last_model
    found = (await tx.execute(NUMBERS, which)).one()
    made = (await tx.execute(RESULTS, which)).scalar_one()
    wrong = None
    if (found.models, found.first, found.newest) != (last + 1, 0, last):
        there = f"{found.models}, numbered {found.first} to {found.newest}" if found.models else "none"
        wrong = f"models 0 to {last} are expected; there are {there}"
    elif made != last:
        wrong = f"its last model is {last}, but {made} train rounds are closed"
    return FindingsPage([] if wrong is None else [Finding(Check.MODELS, f"{subject(experiment)}: {wrong}")])


async def best_model(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Compare the best model with the scores of all."""
    if isinstance(experiment.constants.plan, InvalidPlan):
        return FindingsPage([])
    best = experiment.plan.best
    row = None
    if best is not None:
        query = HIGHEST if best.mode == "max" else LOWEST
        row = (await tx.execute(query, {"experiment": experiment.id})).first()
    expected = (None, None) if row is None else (row.number, row.score)
    if (experiment.best_model, experiment.best_score) == expected:
        return FindingsPage([])
    text = f"its best model is {experiment.best_model} ({experiment.best_score}), by the scores it is {expected[0]}"
    return FindingsPage([Finding(Check.BEST_MODEL, f"{subject(experiment)}: {text} ({expected[1]})")])


async def bytes_kept(tx: Transaction, experiment: ExperimentRow, _after: None) -> FindingsPage:
    """Check that what users may still ask for is there, and that a removed experiment holds nothing."""
    which, wrong = {"experiment": experiment.id}, []
    if experiment.removed_at is not None:
        if experiment.archive_blob_id is not None:
            wrong.append("it is removed, but its archive is kept")
        wrong += [f"it is removed, but model {row.number} is kept" for row in await tx.execute(KEPT, which)]
    else:
        if experiment.archive_blob_id is None:
            wrong.append("its archive is gone")
        wanted = {0, experiment.last_model, experiment.best_model or 0}
        kept = {row.number for row in await tx.execute(KEPT_OF, which | {"numbers": sorted(wanted)})}
        wrong += [f"model {number} is kept no longer" for number in sorted(wanted - kept)]
    return FindingsPage([Finding(Check.BYTES_KEPT, f"{subject(experiment)}: {each}") for each in wrong])
