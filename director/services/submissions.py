"""Submitting an experiment: checked before its bytes are sent, received part by part, made an experiment once."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from director.domain import plan as plans
from director.domain.messages import Event, EventKind, SubmitExperiment
from director.domain.names import check_name, check_submission_id
from director.domain.plan import Plan
from director.domain.tensors import check_finite
from director.errors import AlreadyExists, DirectorError, Forbidden, InvalidArgument, MessageTooLarge, Unavailable
from director.services import plan_reading, uploads
from director.services.experiment_use_cases import ExperimentView
from director.services.runtime import Caller, Runtime
from director.services.uploads import Chunks
from director.store import clock, envoys, events, experiments, models, queues, stash
from director.store.engine.database import Transaction
from director.store.stash import Upload

MAX_PRIORITY = 100
MAX_COLLABORATORS = 10_000


@dataclass(slots=True)
class Submitting:
    """A submission whose bytes are on their way; its plan is known once the archive has been read."""

    command: SubmitExperiment
    owner: str
    key: str
    archive: Upload
    model: Upload
    plan: Plan | None = None


def key_of(command: SubmitExperiment, caller: Caller) -> str:
    """Return a submission's identity: nobody can meddle with another user's."""
    return f"{caller.name}/{command.submission_id}"


def purpose(key: str, part: str) -> str:
    """What the blob of a part is for."""
    return f"submission/{key}/{part}"


class Submissions:
    """The use cases of submissions, in the order in which they are called."""

    def __init__(self, runtime: Runtime, *, reviewed: bool = False) -> None:
        """Serve; with `reviewed` each submission waits for the review callback."""
        self._runtime = runtime
        self._db = runtime.db
        self._reviewed = reviewed

    async def begin(self, command: SubmitExperiment, caller: Caller) -> ExperimentView | Submitting:
        """Check a submission before its bytes are sent, and begin or go on with its uploads.

        One that was stored already is answered as it is.

        Raises:
            InvalidArgument: a bad name, no or unknown collaborators, a bad priority, a model of the wrong size.
            AlreadyExists: the name is taken, or the id was used for something else.
            MessageTooLarge: the archive or the model is larger than the settings allow.
            DiskFull: there is no room for all that is missing.
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
        uploads.check_digest(command.archive)
        uploads.check_digest(command.model)
        key, disk = key_of(command, caller), self._runtime.disk
        await disk.look()
        async with self._db.write("begin submission") as tx:
            # In this order: what the same submission has entered in between is found as its own.
            taken = await experiments.name_taken(tx, command.name)
            stored = await self._stored(tx, key, command)
            if stored is not None:
                return stored
            if taken:
                raise AlreadyExists(f"an experiment named {command.name!r} exists already; pick another name")
            await check_collaborators(tx, command.collaborators)
            chunk_bytes = self._runtime.settings.chunk_bytes
            archive = await stash.begin(tx, purpose(key, "archive"), command.archive, chunk_bytes=chunk_bytes)
            model = await stash.begin(tx, purpose(key, "model"), command.model, chunk_bytes=chunk_bytes)
            disk.fit(archive.missing_bytes + model.missing_bytes)
        return Submitting(command, caller.name, key, archive, model)

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

    async def _stored(self, tx: Transaction, key: str, command: SubmitExperiment) -> ExperimentView | None:
        found = await experiments.by_submission(tx, key)
        if found is None:
            return None
        if found.removed_at is not None:
            raise AlreadyExists(f"the experiment of submission {command.submission_id!r} was removed; take a new id")
        view = ExperimentView(found, await queues.of_experiment(tx, found.id))
        same = (
            found.name == command.name
            and found.manifest == command.manifest
            and [each.envoy for each in view.collaborators] == sorted(command.collaborators)
            and await experiments.holds(tx, found.id, archive=command.archive, model=command.model)
        )
        if not same:
            raise AlreadyExists(f"submission {command.submission_id!r} was used for another content; take a new id")
        return view

    async def receive_archive(self, submitting: Submitting, chunks: Chunks) -> None:
        """Receive the archive, and read its plan.

        Raises:
            InvalidArchive, InvalidPlan: it holds none that could be run; the upload is given up.
        """
        upload, content = submitting.archive, submitting.command.archive
        if upload.missing != 0:
            await uploads.receive(self._runtime, upload, content, chunks, check=uploads.accept_anything)
            await self._plan(submitting)
            return
        # A small one never leaves memory for its plan, a large one goes by way of a file.
        with tempfile.SpooledTemporaryFile(max_size=upload.chunk_bytes, prefix="director-archive-") as file:

            def copy(start: int, data: bytes) -> None:
                file.seek(start)
                file.write(data)

            await uploads.receive(self._runtime, upload, content, chunks, check=copy)
            await self._plan(submitting, file)

    async def receive_model(self, submitting: Submitting, chunks: Chunks) -> None:
        """Receive the model.

        Raises:
            TensorMismatch: it holds NaN or infinity.
        """
        manifest, model = submitting.command.manifest, submitting.command.model

        def check(start: int, data: bytes) -> None:
            check_finite(manifest, data, start=start)

        await uploads.receive(self._runtime, submitting.model, model, chunks, check=check)

    async def _plan(self, submitting: Submitting, archive: IO[bytes] | None = None) -> Plan:
        """Return the plan, read from the archive's file where it is at hand, and only once."""
        if submitting.plan is not None:
            return submitting.plan
        try:
            plan = await (self._stored_plan(submitting) if archive is None else plan_reading.plan_of_file(archive))
            plans.check_collaborators(plan, submitting.command.collaborators)
        except InvalidArgument:
            await self._refuse(submitting)
            raise
        submitting.plan = plan
        return plan

    async def _stored_plan(self, submitting: Submitting) -> Plan:
        async with self._db.read() as tx:
            blob = await stash.find(tx, purpose(submitting.key, "archive"))
        return await plan_reading.read_plan(self._runtime, blob)

    async def _refuse(self, submitting: Submitting) -> None:
        """Give the uploads of a submission up."""
        async with self._db.write("refuse submission") as tx:
            for part in ("archive", "model"):
                await stash.discard(tx, purpose(submitting.key, part))

    async def accept(self, submitting: Submitting) -> ExperimentView:
        """Make an experiment of a submission whose bytes have all arrived; once, however often it is called.

        Raises:
            AlreadyExists: the name was taken meanwhile; the uploads are given up.
            Unavailable: the bytes are not there any more; send the submission again.
        """
        try:
            return await self._enter(submitting)
        except (AlreadyExists, InvalidArgument, Unavailable) as refusal:
            return await self._entered(submitting, refusal)

    async def _entered(self, submitting: Submitting, refusal: DirectorError) -> ExperimentView:
        """Return what an earlier call of the submission made; else it stays refused.

        Nobody wants its bytes any more, unless it is worth repeating.
        """
        try:
            async with self._db.read() as tx:
                stored = await self._stored(tx, submitting.key, submitting.command)
            if stored is None:
                raise refusal
        except (AlreadyExists, InvalidArgument):
            await self._refuse(submitting)
            raise
        await self._refuse(submitting)
        return stored

    async def _enter(self, submitting: Submitting) -> ExperimentView:
        plan, command = await self._plan(submitting), submitting.command
        review_due = self._reviewed and not plan.manual_review
        async with self._db.write("submit") as tx:
            await check_collaborators(tx, command.collaborators)
            time = await clock.now(tx)
            archive = await stash.take(tx, purpose(submitting.key, "archive"), command.archive)
            model = await stash.take(tx, purpose(submitting.key, "model"), command.model)
            experiment = await experiments.add(
                tx,
                command,
                owner=submitting.owner,
                key=submitting.key,
                plan=plan,
                archive=archive,
                seed=self._runtime.entropy.seed(),
                review_due=review_due,
                review_deadline=time.now + self._runtime.settings.review_deadline.total_seconds()
                if review_due
                else None,
            )
            members = await queues.add(tx, experiment.id, command.collaborators)
            await models.add(tx, experiment.id, 0, model)
            details = {"name": command.name, "rounds": plan.rounds, "collaborators": sorted(command.collaborators)}
            await events.append(
                tx, experiment.id, Event(EventKind.EXPERIMENT_SUBMITTED, submitting.owner, details=details)
            )
            tx.wake(("claim" if review_due else "admission", 0))
            return ExperimentView(experiment, members)

    async def unused_id(self, caller: Caller, stem: str) -> str:
        """Return a submission id that is the same for the same content, until the experiment made of it was removed."""
        async with self._db.read() as tx:
            for number in itertools.count():
                found = await experiments.by_submission(tx, f"{caller.name}/{stem}-{number}")
                if found is None or found.removed_at is None:
                    return f"{stem}-{number}"
        raise AssertionError("numbers do not end")


async def check_collaborators(tx: Transaction, names: Sequence[str]) -> None:
    """Refuse collaborators that are none, too many, twice, or not registered.

    Raises:
        InvalidArgument: the text names them.
    """
    if not names:
        raise InvalidArgument("an experiment needs at least one collaborator")
    if len(names) > MAX_COLLABORATORS:
        raise InvalidArgument(f"{len(names)} collaborators; at most {MAX_COLLABORATORS} take part in an experiment")
    for name in names:
        check_name("a collaborator's name", name)
    if len(set(names)) < len(names):
        raise InvalidArgument("a collaborator is named twice")
    known = await envoys.registered(tx, names)
    if unknown := sorted(set(names) - known):
        raise InvalidArgument(f"no envoy is registered as {', '.join(map(repr, unknown))}")
