"""Submitting an experiment: checked before its bytes are sent, received part by part, made an experiment once."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import IO, Literal

from director.domain.commands import SubmitExperiment
from director.domain.experiment import Experiment
from director.domain.history import EventKind, Occurrence, named
from director.domain.plan import Plan, check_collaborators
from director.domain.tensors import check_finite
from director.errors import AlreadyExists, DirectorError, InvalidArgument, Later
from director.services import copying, initial_models, plan_reading, submission_checks, uploads
from director.services.initial_models import InitialModel
from director.services.runtime import Caller, Runtime
from director.services.uploads import Chunks
from director.store import clock, events, experiments, models, queues, stash
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.experiment_rows import ExperimentRow
from director.store.stash import Upload

Part = Literal["archive", "model"]


@dataclass(slots=True)
class Submitting:
    """A submission whose bytes are on their way; its plan is known once the archive has been read."""

    command: SubmitExperiment
    owner: str
    key: str
    initial: InitialModel
    archive: Upload
    model: Upload
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of a submission that still misses chunks: "archive" or "model"."""

    part: Part
    upload: Upload


def key_of(command: SubmitExperiment, caller: Caller) -> str:
    """Return a submission's identity: it belongs to one user."""
    return f"{caller.name}/{command.submission_id}"


def upload_key(key: str, part: str) -> str:
    """Return the upload key of a part."""
    return f"submission/{key}/{part}"


class Submissions:
    """The use case of a submission: begin, receive the archive, receive or copy the model, accept."""

    def __init__(self, runtime: Runtime, *, reviewed: bool = False) -> None:
        """Serve; with `reviewed` each submission waits for the review callback."""
        self._runtime = runtime
        self._db = runtime.db
        self._reviewed = reviewed

    async def submit(
        self, command: SubmitExperiment, caller: Caller, chunks_of: Callable[[Wanted], Chunks]
    ) -> AsyncIterator[Wanted | Experiment]:
        """Submit an experiment: yield what is wanted before it is received, and the experiment at the end.

        A submission that was stored already is answered as it is.

        Args:
            command: what is submitted.
            caller: who submits it, and owns it.
            chunks_of: yields the missing chunks of what is wanted.

        Raises:
            InvalidArgument: the text says what is wrong with a name, the archive, the plan, the model or a number.
            AlreadyExists: the name is taken, or the id was used for something else.
            ExperimentNotFound, ModelNotFound: the model that it names is not there, or not the caller's to see.
            TooLarge: the archive or the model is larger than the settings allow.
            DiskFull: there is no room for all that is missing.
            Unavailable: the bytes are no longer there; send the submission again.
        """
        begun = await self.begin(command, caller)
        if isinstance(begun, Submitting):
            archive, model = Wanted("archive", begun.archive), Wanted("model", begun.model)
            if begun.archive.missing is not None:
                yield archive
            await self.receive_archive(begun, chunks_of(archive))
            if begun.initial.source is not None:
                await copying.copy(self._runtime, begun.initial.source, begun.model)
            else:
                if begun.model.missing is not None:
                    yield model
                await self.receive_model(begun, chunks_of(model))
            begun = await self.accept(begun)
        yield begun

    async def begin(self, command: SubmitExperiment, caller: Caller) -> Experiment | Submitting:
        """Check a submission before its bytes are sent, and begin or go on with its uploads."""
        submission_checks.check(command, caller, self._runtime.settings)
        key, disk = key_of(command, caller), self._runtime.disk
        initial = await initial_models.find(self._db, command, caller, key=key)
        submission_checks.check_model(initial.content, initial.manifest, self._runtime.settings)
        await disk.look()
        async with self._db.write("begin submission") as tx:
            # In this order: what the same submission has entered in between is found as its own.
            taken = await experiments.name_taken(tx, command.name)
            stored = await self._stored(tx, key, command, initial)
            if stored is not None:
                return stored
            if taken:
                raise AlreadyExists(f"an experiment named {command.name!r} exists already; pick another name")
            await submission_checks.check_registered(tx, command.collaborators)
            chunk_bytes = self._runtime.settings.chunk_bytes
            archive = await stash.begin(tx, upload_key(key, "archive"), command.archive, chunk_bytes=chunk_bytes)
            if initial.source is not None:
                chunk_bytes = initial.source.chunk_bytes
            model = await stash.begin(tx, upload_key(key, initial.part), initial.content, chunk_bytes=chunk_bytes)
            disk.fit(archive.missing_bytes + model.missing_bytes)
        return Submitting(command, caller.name, key, initial, archive, model)

    async def _stored(
        self, tx: Transaction, key: str, command: SubmitExperiment, initial: InitialModel
    ) -> Experiment | None:
        found = await experiments.by_submission(tx, key)
        if found is None:
            return None
        if found.removed_at is not None:
            raise AlreadyExists(f"the experiment of submission {command.submission_id!r} was removed; take a new id")
        collaborators = [each.envoy for each in await queues.of_experiment(tx, found.id)]
        same = (
            found.name == command.name
            and found.manifest_digest == initial.manifest.digest
            and collaborators == sorted(command.collaborators)
            and await experiments.holds(tx, found.id, archive=command.archive, model=initial.content)
        )
        if not same:
            raise AlreadyExists(f"submission {command.submission_id!r} was used for another content; take a new id")
        return await experiments.seen(tx, found)

    async def receive_archive(self, submitting: Submitting, chunks: Chunks) -> None:
        """Receive the archive, and read its plan.

        Raises:
            InvalidArchive, InvalidPlan: it holds no plan that can be run; the upload is given up.
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
        initial = submitting.initial

        def check(start: int, data: bytes) -> None:
            check_finite(initial.manifest, data, start=start)

        await uploads.receive(self._runtime, submitting.model, initial.content, chunks, check=check)

    async def _plan(self, submitting: Submitting, archive: IO[bytes] | None = None) -> Plan:
        """Return the plan, read once, from the archive's file where it is at hand."""
        if submitting.plan is not None:
            return submitting.plan
        try:
            plan = await (self._stored_plan(submitting) if archive is None else plan_reading.plan_of_file(archive))
            check_collaborators(plan, submitting.command.collaborators)
        except InvalidArgument:
            await self._refuse(submitting)
            raise
        submitting.plan = plan
        return plan

    async def _stored_plan(self, submitting: Submitting) -> Plan:
        async with self._db.read() as tx:
            blob = await stash.find(tx, upload_key(submitting.key, "archive"))
        return await plan_reading.read_plan(self._runtime, blob)

    async def _refuse(self, submitting: Submitting) -> None:
        """Give the uploads of a submission up."""
        async with self._db.write("refuse submission") as tx:
            for part in ("archive", submitting.initial.part):
                await stash.discard(tx, upload_key(submitting.key, part))

    async def accept(self, submitting: Submitting) -> Experiment:
        """Make an experiment of a submission whose bytes have all arrived; once, however often it is called.

        Raises:
            AlreadyExists: the name was taken meanwhile; the uploads are given up.
            Unavailable: the bytes are no longer there; send the submission again.
        """
        try:
            return await self._enter(submitting)
        except (AlreadyExists, InvalidArgument, Later) as refusal:
            return await self._entered(submitting, refusal)

    async def _entered(self, submitting: Submitting, refusal: DirectorError) -> Experiment:
        """Return what an earlier call of the submission made; else it stays refused.

        Its bytes are given up, unless the refusal is worth repeating.
        """
        try:
            async with self._db.read() as tx:
                stored = await self._stored(tx, submitting.key, submitting.command, submitting.initial)
            if stored is None:
                raise refusal
        except (AlreadyExists, InvalidArgument):
            await self._refuse(submitting)
            raise
        await self._refuse(submitting)
        return stored

    async def _enter(self, submitting: Submitting) -> Experiment:
        plan, command = await self._plan(submitting), submitting.command
        async with self._db.write("submit") as tx:
            await submission_checks.check_registered(tx, command.collaborators)
            experiment = await self._add(tx, submitting, plan)
            members = await queues.add(tx, experiment.id, command.collaborators)
            details = {"name": command.name, "rounds": plan.rounds, **named("collaborators", command.collaborators)}
            submitted = Occurrence(EventKind.EXPERIMENT_SUBMITTED, submitting.owner, details=details)
            await events.append(tx, experiment.id, submitted)
            tx.wake(Topic.claim() if experiment.review_due else Topic.admission())
            return experiments.described(experiment, {members[0].state: len(members)})

    async def _add(self, tx: Transaction, submitting: Submitting, plan: Plan) -> ExperimentRow:
        """Enter the experiment, with its archive and its initial model."""
        command, initial, entropy = submitting.command, submitting.initial, self._runtime.entropy
        review_due = self._reviewed and not plan.manual_review
        time = await clock.now(tx)
        deadline = time.now + self._runtime.settings.review_deadline.total_seconds()
        archive = await stash.take(tx, upload_key(submitting.key, "archive"), command.archive)
        model = await stash.take(tx, upload_key(submitting.key, initial.part), initial.content)
        experiment = await experiments.add(
            tx,
            command,
            owner=submitting.owner,
            key=submitting.key,
            uid=entropy.token(),
            plan=plan,
            manifest=initial.manifest,
            archive=archive,
            seed=entropy.seed(),
            review_due=review_due,
            review_deadline=deadline if review_due else None,
        )
        await models.add(tx, experiment.id, 0, model)
        return experiment

    async def unused_id(self, caller: Caller, stem: str) -> str:
        """Return a submission id that is the same for the same content, until the experiment made of it was removed."""
        async with self._db.read() as tx:
            for number in itertools.count():
                found = await experiments.by_submission(tx, f"{caller.name}/{stem}-{number}")
                if found is None or found.removed_at is None:
                    return f"{stem}-{number}"
        raise AssertionError("numbers do not end")
