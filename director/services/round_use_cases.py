"""What a collaborator does inside an experiment: ask for tasks, fetch models, hand in results."""

import asyncio
from dataclasses import dataclass

from director.domain.commands import Contribute
from director.domain.history import EventKind, Measured, Occurrence
from director.domain.limits import MAX_METRICS, MAX_SAMPLES
from director.domain.names import check_name
from director.domain.tasks import Task
from director.domain.tensors import Manifest, check_finite
from director.domain.types import CollaboratorState, ExperimentId, ExperimentState, RoundState, TaskKind
from director.domain.work import Answer, Idle, Quit, Work
from director.errors import InvalidArgument, InvalidPlan, RoundClosed, TensorMismatch, Unavailable
from director.services import uploads
from director.services.runtime import Runtime
from director.services.uploads import Chunks
from director.store import contributions, events, experiments, metrics, models, queues, rounds, stash
from director.store.contributions import Stored
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.experiment_rows import ExperimentRow
from director.store.models import StoredModel
from director.store.rounds import Assignment
from director.store.stash import Blob, Upload


@dataclass(frozen=True, slots=True)
class Offer:
    """Tasks whose handing out is to be recorded first, and whether the envoy's work starts with it."""

    assignment: Assignment
    starts: bool


class Rounds:
    """The use cases of collaborators."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime
        self._db = runtime.db

    async def poll_tasks(self, uid: str, envoy: str, attempt: int, *, seconds: float | None = None) -> Answer:
        """Wait for tasks; Idle if there are none in time.

        Raises:
            NotFound: the envoy takes no part.
            StaleAttempt: the experiment was handed to it again since.
            Unavailable: a newer director drives the experiment; repeat the call there.
        """
        loop = asyncio.get_running_loop()
        settings, wakeups = self._runtime.settings, self._runtime.wakeups
        end = loop.time() + (settings.long_poll.total_seconds() if seconds is None else seconds)
        async with self._db.read() as tx:
            experiment_id = await experiments.id_of(tx, uid)
        with wakeups.listen(Topic.experiment(experiment_id)) as wakeup:
            while True:
                wakeup.clear()
                async with self._db.read() as tx:
                    answer = await self._look(tx, experiment_id, envoy, attempt)
                if isinstance(answer, Offer):
                    answer = await self._give(experiment_id, envoy, attempt)
                remaining = end - loop.time()
                if answer is not None:
                    return answer
                if remaining <= 0 or wakeups.closing:
                    return Idle()
                await wakeup.wait(min(remaining, settings.poll.total_seconds()))

    async def _look(
        self,
        tx: Transaction,
        experiment_id: ExperimentId,
        envoy: str,
        attempt: int,
        *,
        locked: ExperimentRow | None = None,
    ) -> Work | Quit | Offer | None:
        """See what there is to do, in an experiment whose row may be locked already."""
        collaborator = await queues.get(tx, experiment_id, envoy, attempt=attempt)
        experiment = locked or await experiments.get(tx, experiment_id)
        if experiment.state.terminal:
            return Quit(experiment.state.value)
        if not collaborator.state.engaged:
            return Quit(str(collaborator.failure or collaborator.state.value))
        assignment = await rounds.assignment(tx, experiment_id, envoy)
        if assignment is None or not assignment.open or not assignment.todo:
            return None
        starts = collaborator.state is not CollaboratorState.WORKING
        if assignment.given_at is None or starts:
            return Offer(assignment, starts=starts)
        return await work(tx, experiment, assignment)

    async def _give(self, experiment_id: ExperimentId, envoy: str, attempt: int) -> Work | Quit | None:
        async with self._db.write("give tasks") as tx:
            experiment = await experiments.lock(tx, experiment_id)
            answer = await self._look(tx, experiment_id, envoy, attempt, locked=experiment)
            if not isinstance(answer, Offer):
                return answer
            assignment = answer.assignment
            found = await work(tx, experiment, assignment)
            await rounds.give(tx, experiment_id, assignment.round_number, envoy)
            if answer.starts:
                await queues.start_working(tx, experiment_id, envoy)
            details = {"round": assignment.round_number, "tasks": assignment.todo, "attempt": attempt}
            await events.append(tx, experiment_id, Occurrence(EventKind.TASKS_GIVEN, envoy, details=details))
            if assignment.given_at is None:
                tx.wake(Topic.experiment(experiment_id))
            return found

    async def model(self, uid: str, envoy: str, attempt: int, number: int) -> tuple[StoredModel, Manifest]:
        """Return a model of an experiment that the envoy takes part in.

        Raises:
            NotFound, StaleAttempt: as for `poll_tasks`.
            ModelNotFound: no such number, or it is no longer kept.
        """
        async with self._db.read() as tx:
            experiment_id = await experiments.id_of(tx, uid)
            await queues.get(tx, experiment_id, envoy, attempt=attempt)
            experiment = await experiments.get(tx, experiment_id)
            return await models.get(tx, experiment_id, number), experiment.manifest

    async def begin_contribution(self, command: Contribute) -> Stored | Upload | None:
        """Check a contribution before its bytes are sent: held already, to be uploaded, or (None) nothing to upload.

        Raises:
            NotFound, StaleAttempt: as for `poll_tasks`.
            InvalidArgument: not a task of the plan, no samples, bad metrics.
            TensorMismatch: the update is not laid out as the model is.
            RoundClosed: it came late, or the envoy was not asked; recorded in the history.
        """
        async with self._db.read() as tx:
            experiment_id = await experiments.id_of(tx, command.experiment_uid)
            stored = await contributions.find(tx, experiment_id, command)
            if stored is not None:
                return stored
            experiment = await experiments.get(tx, experiment_id)
            assignment = await self._check(tx, experiment_id, command)
        if assignment is None or not assignment.open:
            await self._refuse_late(experiment_id, command)
        check_result(command, experiment)
        if command.update is None:
            return None
        return await uploads.begin(self._runtime, upload_key(experiment_id, command), command.update)

    async def _check(self, tx: Transaction, experiment_id: ExperimentId, command: Contribute) -> Assignment | None:
        await queues.get(tx, experiment_id, command.envoy, attempt=command.attempt)
        assignment = await rounds.assignment(tx, experiment_id, command.envoy, round_number=command.round_number)
        if assignment is not None and command.task not in assignment.tasks:
            asked = ", ".join(assignment.tasks)
            raise InvalidArgument(f"{command.task!r} is not a task of round {command.round_number}; asked were {asked}")
        return assignment

    async def receive_update(self, command: Contribute, upload: Upload, chunks: Chunks) -> None:
        """Receive the update's bytes.

        Raises:
            TensorMismatch: it holds NaN or infinity.
        """
        update = command.update
        assert update is not None, "only an update is uploaded"
        async with self._db.read() as tx:
            experiment_id = await experiments.id_of(tx, command.experiment_uid)
            manifest = (await experiments.get(tx, experiment_id)).manifest

        def check(start: int, data: bytes) -> None:
            check_finite(manifest, data, start=start)

        await uploads.receive(self._runtime, upload, update, chunks, check=check)

    async def contribute(self, command: Contribute) -> Stored:
        """Count a contribution whose bytes have arrived, once; when this returns it is committed.

        Raises:
            As `begin_contribution`.
            Unavailable: the bytes are not there any more; send it again.
        """
        late = False
        async with self._db.write("contribute") as tx:
            experiment_id = await experiments.id_of(tx, command.experiment_uid)
            experiment = await experiments.lock(tx, experiment_id)
            stored = await contributions.find(tx, experiment_id, command)
            if stored is not None:
                return stored
            assignment = await self._check(tx, experiment_id, command)
            if experiment.state is not ExperimentState.IN_PROGRESS or assignment is None or not assignment.open:
                late = True
            else:
                check_result(command, experiment)
                await self._store(tx, experiment, assignment, command)
        if late:
            await self._refuse_late(experiment_id, command)
        return Stored(None if command.update is None else command.update.digest)

    async def _store(
        self, tx: Transaction, experiment: ExperimentRow, assignment: Assignment, command: Contribute
    ) -> None:
        update: Blob | None = None
        if command.update is not None:
            update = await stash.take(tx, upload_key(experiment.id, command), command.update)
        await contributions.add(tx, experiment.id, command, update, given_at=assignment.given_at)
        measured = [
            Measured(command.round_number, command.envoy, command.task, name, value)
            for name, value in sorted(command.metrics.items())
        ]
        await metrics.append(tx, experiment.id, measured)
        details = {"round": command.round_number, "task": command.task, "samples": command.samples}
        await events.append(
            tx, experiment.id, Occurrence(EventKind.CONTRIBUTION_RECEIVED, command.envoy, details=details)
        )
        tx.wake(Topic.experiment(experiment.id))

    async def _refuse_late(self, experiment_id: ExperimentId, command: Contribute) -> None:
        """Record that a result came too late, and say so.

        Raises:
            RoundClosed: always.
        """
        async with self._db.write("late contribution") as tx:
            await experiments.lock(tx, experiment_id)
            assignment = await rounds.assignment(tx, experiment_id, command.envoy, round_number=command.round_number)
            await stash.discard(tx, upload_key(experiment_id, command))
            if assignment is not None:
                details = {"round": command.round_number, "task": command.task}
                await events.append(
                    tx, experiment_id, Occurrence(EventKind.CONTRIBUTION_LATE, command.envoy, details=details)
                )
        asked = f"envoy {command.envoy!r} was not asked in round {command.round_number}"
        raise RoundClosed(asked if assignment is None else f"LATE: {why_late(command, assignment)}")


def why_late(command: Contribute, assignment: Assignment) -> str:
    """Say why a result is not taken any more."""
    if assignment.round_state is RoundState.COLLECTING:
        return f"the assignment of envoy {command.envoy!r} in round {command.round_number} is {assignment.state}"
    return f"round {command.round_number} is {assignment.round_state}; the result of {command.task!r} is not counted"


async def work(tx: Transaction, experiment: ExperimentRow, assignment: Assignment) -> Work:
    """Return the open tasks of an assignment, with the model they start from."""
    base = await models.get(tx, experiment.id, assignment.round_number - 1)
    todo = tuple(task for task in tasks_of(experiment) if task.name in assignment.todo)
    return Work(assignment.round_number, base.number, base.blob.content, experiment.manifest_digest, todo)


def tasks_of(experiment: ExperimentRow) -> tuple[Task, ...]:
    """Return the tasks of an experiment.

    Raises:
        Unavailable: this director cannot read the plan; a newer one, which drives the experiment, answers the call.
    """
    plan = experiment.constants.plan
    if isinstance(plan, InvalidPlan):
        raise Unavailable(f"experiment {experiment.name!r} belongs to a newer director; repeat the call there: {plan}")
    return plan.tasks


def upload_key(experiment_id: ExperimentId, command: Contribute) -> str:
    """Return the upload key of an update; names hold no slash."""
    return f"contribution/{experiment_id}/{command.round_number}/{command.envoy}/{command.task}"


def check_result(command: Contribute, experiment: ExperimentRow) -> None:
    """Refuse a result that its task cannot have.

    Raises:
        InvalidArgument: no samples, bad metrics, an update from a task that makes none.
        TensorMismatch: the update is not laid out as the model is.
    """
    task = next(task for task in tasks_of(experiment) if task.name == command.task)
    if not 1 <= command.samples <= MAX_SAMPLES:
        raise InvalidArgument(f"task {task.name!r}: samples is {command.samples}; it counts at least 1")
    if len(command.metrics) > MAX_METRICS:
        raise InvalidArgument(f"task {task.name!r}: {len(command.metrics)} metrics; at most {MAX_METRICS} are taken")
    for name in command.metrics:
        check_name("a metric's name", name)
    if task.kind is TaskKind.VALIDATE:
        if command.update is not None or command.manifest_digest:
            raise InvalidArgument(f"task {task.name!r} only validates; it hands in no update")
        return
    if command.update is None:
        raise InvalidArgument(f"task {task.name!r} trains; it hands in an update")
    if command.manifest_digest != experiment.manifest_digest:
        raise TensorMismatch(
            f"the update of task {task.name!r} does not fit the model: its manifest has the SHA-256 "
            f"{command.manifest_digest or 'of nothing'}, the model's {experiment.manifest_digest}"
        )
    if command.update.size_bytes != experiment.manifest.size_bytes:
        raise TensorMismatch(
            f"the update has {command.update.size_bytes} bytes, the model's manifest says "
            f"{experiment.manifest.size_bytes}"
        )
