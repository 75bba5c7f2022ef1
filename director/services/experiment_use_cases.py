"""What users do with experiments: look, cancel, remove, review, fetch models."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from director.domain.messages import Event, EventKind
from director.domain.names import check_text
from director.domain.types import ExperimentState
from director.errors import (
    Forbidden,
    InvalidArgument,
    ModelNotFound,
    ModelNotReady,
    PreconditionFailed,
)
from director.services import endings
from director.services.runtime import Caller, Runtime
from director.store import events, experiments, models, queues, stash
from director.store.engine.database import Transaction
from director.store.experiments import Experiment
from director.store.models import StoredModel
from director.store.queues import Collaborator
from director.store.stash import Blob

MAX_PAGE = 1000
DEFAULT_PAGE = 100


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment and its collaborators, as users see them."""

    experiment: Experiment
    collaborators: Sequence[Collaborator]


class Experiments:
    """The use cases of experiments."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._db = runtime.db

    async def archive(self, tx: Transaction, name: str) -> Blob:
        """Return an experiment's archive, whoever asks.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        experiment = await experiments.find(tx, name, caller=None)
        assert experiment.archive_blob_id is not None, "only a removed experiment has lost its archive"
        return await stash.get(tx, experiment.archive_blob_id)

    async def get(self, name: str, caller: Caller) -> ExperimentView:
        """Return an experiment.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
        """
        async with self._db.read() as tx:
            return await view(tx, await experiments.find(tx, name, caller=caller.scope))

    async def listed(
        self, caller: Caller, *, page_size: int = 0, page_token: str = ""
    ) -> tuple[list[ExperimentView], str]:
        """Return a page of the caller's experiments, newest first, and the token of the next page.

        Raises:
            InvalidArgument: the token is not one that was given out.
        """
        if page_size < 0:
            raise InvalidArgument("page_size is negative; 0 asks for the default")
        limit = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        before = read_token(page_token) if page_token else None
        async with self._db.read() as tx:
            found = await experiments.listed(tx, caller=caller.scope, before=before, limit=limit + 1)
            views = [await view(tx, each) for each in found[:limit]]
        token = write_token(found[limit - 1].id) if len(found) > limit else ""
        return views, token

    async def cancel(self, name: str, caller: Caller, *, reason: str = "") -> ExperimentView:
        """Cancel an experiment; one that is cancelled already stays so.

        Raises:
            PreconditionFailed: it has ended otherwise.
        """
        check_text("the reason", reason)
        async with self._db.write("cancel") as tx:
            experiment = await self._own(tx, name, caller)
            text = reason or f"cancelled by {caller.name}"
            ended = await endings.end(tx, experiment.id, ExperimentState.CANCELLED, reason=text, actor=caller.name)
            if not ended and experiment.state is not ExperimentState.CANCELLED:
                raise PreconditionFailed(f"experiment {name!r} has ended already: it is {experiment.state}")
            return await view(tx, await experiments.get(tx, experiment.id))

    async def remove(self, name: str, caller: Caller) -> None:
        """Drop an experiment's bytes and take it from its users' lists; one that runs is cancelled first."""
        async with self._db.write("remove") as tx:
            experiment = await self._own(tx, name, caller)
            reason = f"removed by {caller.name}"
            await endings.end(tx, experiment.id, ExperimentState.CANCELLED, reason=reason, actor=caller.name)
            if await experiments.remove(tx, experiment.id):
                await models.drop_all(tx, experiment.id)
                if experiment.archive_blob_id is not None:
                    await stash.drop(tx, experiment.archive_blob_id)
                await events.append(tx, experiment.id, Event(EventKind.EXPERIMENT_REMOVED, caller.name))

    async def _own(self, tx: Transaction, name: str, caller: Caller) -> Experiment:
        """Lock an experiment that the caller may change.

        Its owner and operators may, those it is shared with only look.
        """
        found = await experiments.find(tx, name, caller=caller.scope)
        if found.owner != caller.name and not caller.operator:
            raise Forbidden(f"experiment {name!r} is shared with you; only its owner {found.owner!r} may change it")
        return await experiments.lock(tx, found.id)

    async def review(self, name: str, caller: Caller, *, approve: bool, reason: str = "") -> ExperimentView:
        """Approve or reject a pending experiment that waits for a manual review.

        Raises:
            Forbidden: the caller is not an operator.
            PreconditionFailed: it waits for none.
        """
        check_text("the reason", reason)
        if not caller.operator:
            raise Forbidden("only operators approve and reject experiments")
        async with self._db.write("review") as tx:
            found = await experiments.find(tx, name, caller=None)
            experiment = await experiments.lock(tx, found.id)
            waits = experiment.state is ExperimentState.PENDING and experiment.plan.manual_review
            if not waits or experiment.eligible_at is not None:
                raise PreconditionFailed(f"experiment {name!r} waits for no manual review: it is {experiment.state}")
            if approve:
                await experiments.approve(tx, experiment.id, priority=experiment.priority)
                await events.append(
                    tx, experiment.id, Event(EventKind.EXPERIMENT_APPROVED, caller.name, reason or None)
                )
            else:
                text = reason or f"rejected by {caller.name}"
                await endings.end(tx, experiment.id, ExperimentState.REJECTED, reason=text, actor=caller.name)
            return await view(tx, await experiments.get(tx, experiment.id))

    async def model(self, name: str, caller: Caller, which: str | int) -> tuple[Experiment, StoredModel]:
        """Return a model of an experiment: "best", "last", "initial", or a number.

        Raises:
            ModelNotReady: no round has closed yet, or none was scored.
            ModelNotFound: no such number, or kept no longer.
        """
        async with self._db.read() as tx:
            experiment = await experiments.find(tx, name, caller=caller.scope)
            number = choose_model(experiment, which)
            return experiment, await models.get(tx, experiment.id, number)


def choose_model(experiment: Experiment, which: str | int) -> int:
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


async def view(tx: Transaction, experiment: Experiment) -> ExperimentView:
    """Read what users see of an experiment."""
    return ExperimentView(experiment, await queues.of_experiment(tx, experiment.id))


def write_token(before: int) -> str:
    """Return the token of a page that begins before an id."""
    return base64.urlsafe_b64encode(f"before:{before}".encode()).decode()


def read_token(token: str) -> int:
    """Return the id that a page begins before.

    Raises:
        InvalidArgument: the token was not given out by a director.
    """
    try:
        word, _, number = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(":")
        if word == "before":
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise InvalidArgument("the page token is not one that a director gave out")
