"""What users do with experiments: look, cancel, remove, review, fetch models."""

from dataclasses import replace

from director.domain.experiment import Collaborator, Experiment
from director.domain.history import EventKind, Occurrence
from director.domain.names import check_text
from director.domain.types import ExperimentState
from director.errors import Forbidden, InvalidArgument, InvalidPlan, ModelNotFound, ModelNotReady, PreconditionFailed
from director.services import endings
from director.services.explaining import Explaining
from director.services.paging import Page, page_of, read_token, size_of
from director.services.runtime import Caller, Runtime
from director.store import events, experiment_states, experiments, models, queues, stash
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.models import StoredModel
from director.store.stash import Blob


class Experiments:
    """The use cases of experiments. Each takes an experiment's uid, or its name."""

    def __init__(self, runtime: Runtime, explaining: Explaining) -> None:
        """Serve."""
        self._db = runtime.db
        self._explaining = explaining

    async def archive(self, which: str) -> Blob:
        """Return an experiment's archive, for every caller.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        async with self._db.read() as tx:
            experiment = await experiments.find(tx, which, caller=None)
            assert experiment.archive_blob_id is not None, "only a removed experiment has lost its archive"
            return await stash.get(tx, experiment.archive_blob_id)

    async def get(self, which: str, caller: Caller) -> Experiment:
        """Return an experiment, with its plan and what it waits for.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
        """
        full = await self._explaining.full()
        async with self._db.read() as tx:
            row = await experiments.find(tx, which, caller=caller.scope)
            waiting_for = await self._explaining.why(tx, row, caller, full=full)
            found = await experiments.seen(tx, row)
        return replace(found, waiting_for=tuple(waiting_for), plan=plan_of(row))

    async def listed(
        self, caller: Caller, *, page_size: int = 0, page_token: str = "", plans: bool = False
    ) -> Page[Experiment]:
        """Return a page of the caller's experiments, newest first, with their plans if that is asked for.

        Raises:
            InvalidArgument: the token is not one that was given out.
        """
        size, key = size_of(page_size), read_token(page_token, of="experiments")
        before = id_of(key) if key else None
        async with self._db.read() as tx:
            found = await experiments.listed(tx, caller=caller.scope, before=before, limit=size + 1)
            documents = await experiments.documents(tx, [number for number, _ in found]) if plans else {}
        items = [replace(each, plan=documents.get(number, {})) for number, each in found]
        return page_of(items, [str(number) for number, _ in found], size, of="experiments")

    async def collaborators(
        self, which: str, caller: Caller, *, page_size: int = 0, page_token: str = ""
    ) -> Page[Collaborator]:
        """Return a page of an experiment's collaborators, by name.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
            InvalidArgument: the token is not one that was given out.
        """
        size, after = size_of(page_size), read_token(page_token, of="collaborators")
        async with self._db.read() as tx:
            row = await experiments.find(tx, which, caller=caller.scope)
            found = await queues.page(tx, row.id, after=after, limit=size + 1)
        return page_of(found, [each.envoy for each in found], size, of="collaborators")

    async def cancel(self, which: str, caller: Caller, *, reason: str = "") -> Experiment:
        """Cancel an experiment; one that is cancelled already stays so.

        Raises:
            PreconditionFailed: it has ended otherwise.
        """
        check_text("the reason", reason)
        async with self._db.write("cancel") as tx:
            experiment = await self._own(tx, which, caller)
            text = reason or f"cancelled by {caller.name}"
            ended = await endings.end(tx, experiment.id, ExperimentState.CANCELLED, reason=text, actor=caller.name)
            if not ended and experiment.state is not ExperimentState.CANCELLED:
                raise PreconditionFailed(f"experiment {experiment.name!r} has ended already: it is {experiment.state}")
            return await experiments.seen(tx, await experiments.get(tx, experiment.id))

    async def remove(self, which: str, caller: Caller) -> None:
        """Drop an experiment's bytes and take it from its users' lists; one that runs is cancelled first."""
        async with self._db.write("remove") as tx:
            experiment = await self._own(tx, which, caller)
            reason = f"removed by {caller.name}"
            await endings.end(tx, experiment.id, ExperimentState.CANCELLED, reason=reason, actor=caller.name)
            if await experiment_states.remove(tx, experiment.id):
                await models.drop_all(tx, experiment.id)
                if experiment.archive_blob_id is not None:
                    await stash.drop(tx, experiment.archive_blob_id)
                await events.append(tx, experiment.id, Occurrence(EventKind.EXPERIMENT_REMOVED, caller.name))

    async def _own(self, tx: Transaction, which: str, caller: Caller) -> ExperimentRow:
        """Lock an experiment that the caller may change.

        Its owner and operators may; those with whom it is shared only look.
        """
        found = await experiments.find(tx, which, caller=caller.scope)
        if found.owner != caller.name and not caller.operator:
            raise Forbidden(
                f"experiment {found.name!r} is shared with you; only its owner {found.owner!r} may change it"
            )
        return await experiments.lock(tx, found.id)

    async def review(self, which: str, caller: Caller, *, approve: bool, reason: str = "") -> Experiment:
        """Approve or reject a pending experiment that waits for a manual review.

        Raises:
            Forbidden: the caller is not an operator.
            PreconditionFailed: it waits for none.
        """
        check_text("the reason", reason)
        if not caller.operator:
            raise Forbidden("only operators approve and reject experiments")
        async with self._db.write("review") as tx:
            found = await experiments.find(tx, which, caller=None)
            experiment = await experiments.lock(tx, found.id)
            waits = experiment.state is ExperimentState.PENDING and experiment.plan.manual_review
            if not waits or experiment.eligible_at is not None:
                raise PreconditionFailed(
                    f"experiment {experiment.name!r} waits for no manual review: it is {experiment.state}"
                )
            if approve:
                await experiment_states.approve(tx, experiment.id, priority=experiment.priority)
                approved = Occurrence(EventKind.EXPERIMENT_APPROVED, caller.name, reason or None)
                await events.append(tx, experiment.id, approved)
            else:
                text = reason or f"rejected by {caller.name}"
                await endings.end(tx, experiment.id, ExperimentState.REJECTED, reason=text, actor=caller.name)
            return await experiments.seen(tx, await experiments.get(tx, experiment.id))

    async def model(self, which: str, caller: Caller, model: str | int) -> tuple[ExperimentRow, StoredModel]:
        """Return a model of an experiment: "best", "last", "initial", or a number.

        Raises:
            ModelNotReady: no round has closed yet, or none was scored.
            ModelNotFound: no such number, or it is no longer kept.
        """
        async with self._db.read() as tx:
            experiment = await experiments.find(tx, which, caller=caller.scope)
            number = choose_model(experiment, model)
            return experiment, await models.get(tx, experiment.id, number)


def plan_of(row: ExperimentRow) -> dict[str, object]:
    """Return an experiment's plan as JSON has it; one that this code cannot read as it is stored."""
    plan = row.constants.plan
    return dict(row.constants.document) if isinstance(plan, InvalidPlan) else plan.to_json()


def choose_model(experiment: ExperimentRow, which: str | int) -> int:
    """Return the number of the model that is meant.

    *last* and *best* are results of rounds, so there are none at first.
    """
    if isinstance(which, int):
        if which < 0:
            raise ModelNotFound(f"the experiment has no model {which}")
        return which
    if which == "initial":
        return 0
    if experiment.last_model == 0:
        raise ModelNotReady(f"experiment {experiment.name!r} has no trained model yet: no round has closed")
    if which == "last" or experiment.best_model is None:
        return experiment.last_model
    return experiment.best_model


def id_of(key: str) -> int:
    """Read the key of a page of experiments.

    Raises:
        InvalidArgument: it is not one that was given out.
    """
    if not key.isdecimal() or len(key) > 18:
        raise InvalidArgument("the page token is not one that a director gave out for this list")
    return int(key)
