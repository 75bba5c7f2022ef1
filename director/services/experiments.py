"""What users do with experiments: submit, look, cancel, remove, review."""

import base64
import binascii
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from director.domain import plan as plans
from director.domain.messages import Event, EventKind, SubmitExperiment
from director.domain.names import check_name, check_submission_id
from director.domain.plan import Plan
from director.domain.tensors import check_finite
from director.domain.types import ExperimentState
from director.errors import (
    AlreadyExists,
    Forbidden,
    InvalidArgument,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    PreconditionFailed,
)
from director.services import archives, endings, uploads
from director.services.runtime import Caller, Runtime
from director.services.uploads import Chunks
from director.store import clock, envoys, events, experiments, models, queues, stash
from director.store.database import Transaction
from director.store.experiments import Experiment
from director.store.models import StoredModel
from director.store.queues import Collaborator
from director.store.stash import Blob, Upload

MAX_PRIORITY = 100
MAX_PAGE = 1000
DEFAULT_PAGE = 100


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment and its collaborators, as users see them."""

    experiment: Experiment
    collaborators: Sequence[Collaborator]


@dataclass(slots=True)
class Submitting:
    """A submission in progress, of one caller; its plan is known once the archive has been read."""

    command: SubmitExperiment
    caller: Caller
    plan: Plan | None = None

    @property
    def key(self) -> str:
        """The submission's identity: nobody can meddle with another user's."""
        return f"{self.caller.name}/{self.command.submission_id}"

    def purpose(self, part: str) -> str:
        """What the blob of a part is for."""
        return f"submission/{self.key}/{part}"


class Experiments:
    """The use cases of experiments."""

    def __init__(self, runtime: Runtime, *, reviewed: bool = False) -> None:
        """Serve; with `reviewed` each submission waits for the review callback."""
        self._runtime = runtime
        self._db = runtime.db
        self._reviewed = reviewed

    async def begin_submission(self, command: SubmitExperiment, caller: Caller) -> ExperimentView | Submitting:
        """Check a submission before its bytes are sent; one that was stored already is answered as it is.

        Raises:
            InvalidArgument: a bad name, no or unknown collaborators, a bad priority, a model of the wrong size.
            AlreadyExists: the name is taken, or the id was used for something else.
            MessageTooLarge: the archive or the model is larger than the settings allow.
        """
        check_submission_id(command.submission_id)
        check_name("the experiment's name", command.name)
        check_name("the caller's name", caller.name)
        for user in command.users:
            check_name("a user's name", user)
        self._check_sizes(command)
        if abs(command.priority) > MAX_PRIORITY:
            raise InvalidArgument(f"priority {command.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}")
        if command.priority > 0 and not caller.operator:
            raise Forbidden("only operators submit with a priority above 0")
        submitting = Submitting(command, caller)
        async with self._db.read() as tx:
            stored = await self._stored(tx, submitting)
            if stored is not None:
                return stored
            if await experiments.name_taken(tx, command.name):
                raise AlreadyExists(f"an experiment named {command.name!r} exists already; pick another name")
            await check_collaborators(tx, command.collaborators)
        return submitting

    def _check_sizes(self, command: SubmitExperiment) -> None:
        settings = self._runtime.settings
        for what, size, limit in (
            ("archive", command.archive.size_bytes, settings.max_archive_bytes),
            ("model", command.model.size_bytes, settings.max_model_bytes),
        ):
            if size > limit:
                raise MessageTooLarge(f"the {what} has {size} bytes; this director takes at most {limit}")
        if command.archive.size_bytes == 0:
            raise InvalidArgument("the archive is empty; send a zip file with plan/plan.yaml")
        if command.model.size_bytes != command.manifest.size_bytes:
            raise InvalidArgument(
                f"the model has {command.model.size_bytes} bytes, its manifest says {command.manifest.size_bytes}"
            )

    async def _stored(self, tx: Transaction, submitting: Submitting) -> ExperimentView | None:
        found = await experiments.by_submission(tx, submitting.key)
        if found is None:
            return None
        if found.removed_at is not None:
            raise AlreadyExists(
                f"the experiment of submission {submitting.command.submission_id!r} was removed; take a new id"
            )
        view = ExperimentView(found, await queues.of_experiment(tx, found.id))
        command = submitting.command
        same = (
            found.name == command.name
            and found.manifest == command.manifest
            and [each.envoy for each in view.collaborators] == sorted(command.collaborators)
            and await experiments.holds(tx, found.id, archive=command.archive, model=command.model)
        )
        if not same:
            raise AlreadyExists(f"submission {command.submission_id!r} was used for another content; take a new id")
        return view

    async def begin_archive(self, submitting: Submitting) -> Upload:
        """Begin, or go on with, the upload of the archive."""
        return await uploads.begin(self._runtime, submitting.purpose("archive"), submitting.command.archive)

    async def receive_archive(self, submitting: Submitting, upload: Upload, chunks: Chunks) -> None:
        """Receive the archive."""
        content = submitting.command.archive
        await uploads.receive(self._runtime, upload, content, chunks, check=uploads.accept_anything)

    async def begin_model(self, submitting: Submitting) -> Upload:
        """Begin, or go on with, the upload of the model; the archive has arrived and holds a good plan.

        Raises:
            InvalidArchive, InvalidPlan: it does not; the upload is given up.
        """
        await self._plan(submitting)
        return await uploads.begin(self._runtime, submitting.purpose("model"), submitting.command.model)

    async def receive_model(self, submitting: Submitting, upload: Upload, chunks: Chunks) -> None:
        """Receive the model.

        Raises:
            TensorMismatch: it holds NaN or infinity.
        """
        manifest = submitting.command.manifest

        def check(start: int, data: bytes) -> None:
            check_finite(manifest, data, start=start)

        await uploads.receive(self._runtime, upload, submitting.command.model, chunks, check=check)

    async def _plan(self, submitting: Submitting) -> Plan:
        if submitting.plan is not None:
            return submitting.plan
        async with self._db.read() as tx:
            archive = await stash.find(tx, submitting.purpose("archive"))
        try:
            plan = await archives.read_plan(self._runtime, archive)
            plans.check_collaborators(plan, submitting.command.collaborators)
        except InvalidArgument:
            async with self._db.write("refuse submission") as tx:
                await stash.give_up(tx, archive.id)
            raise
        submitting.plan = plan
        return plan

    async def accept(self, submitting: Submitting) -> ExperimentView:
        """Make an experiment of a submission whose bytes have all arrived; once, however often it is called.

        Raises:
            AlreadyExists: the name was taken meanwhile.
            Unavailable: the bytes are not there any more; send the submission again.
        """
        plan, command = await self._plan(submitting), submitting.command
        review_due = self._reviewed and not plan.manual_review
        async with self._db.write("submit") as tx:
            stored = await self._stored(tx, submitting)
            if stored is not None:
                return stored
            await check_collaborators(tx, command.collaborators)
            time = await clock.now(tx)
            archive = await stash.take(tx, submitting.purpose("archive"), command.archive)
            model = await stash.take(tx, submitting.purpose("model"), command.model)
            experiment_id = await experiments.add(
                tx,
                command,
                owner=submitting.caller.name,
                key=submitting.key,
                plan=plan,
                archive=archive,
                seed=self._runtime.entropy.seed(),
                review_due=review_due,
                review_deadline=time.now + self._runtime.settings.review_deadline.total_seconds()
                if review_due
                else None,
            )
            await queues.add(tx, experiment_id, command.collaborators)
            await models.add(tx, experiment_id, 0, model)
            details = {"name": command.name, "rounds": plan.rounds, "collaborators": sorted(command.collaborators)}
            await events.append(
                tx, experiment_id, Event(EventKind.EXPERIMENT_SUBMITTED, submitting.caller.name, details=details)
            )
            tx.wake(("claim" if review_due else "admission", 0))
            return await view(tx, await experiments.get(tx, experiment_id))

    async def unused_id(self, caller: Caller, stem: str) -> str:
        """Return a submission id that is the same for the same content, until the experiment made of it was removed."""
        async with self._db.read() as tx:
            for number in itertools.count():
                found = await experiments.by_submission(tx, f"{caller.name}/{stem}-{number}")
                if found is None or found.removed_at is None:
                    return f"{stem}-{number}"
        raise AssertionError("numbers do not end")

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


async def check_collaborators(tx: Transaction, names: Sequence[str]) -> None:
    """Refuse collaborators that are none, twice, or not registered.

    Raises:
        InvalidArgument: the text names them.
    """
    if not names:
        raise InvalidArgument("an experiment needs at least one collaborator")
    for name in names:
        check_name("a collaborator's name", name)
    if len(set(names)) < len(names):
        raise InvalidArgument("a collaborator is named twice")
    known = await envoys.registered(tx, names)
    if unknown := sorted(set(names) - known):
        raise InvalidArgument(f"no envoy is registered under the name {', '.join(map(repr, unknown))}")


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
