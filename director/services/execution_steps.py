"""The steps of an execution loop. Each is one transaction under the fence, and is chosen again before it writes."""

import asyncio
import logging
from dataclasses import replace
from typing import TypeVar

from director.domain.history import EventKind, Measured, Occurrence, named
from director.domain.scoring import AGGREGATOR, better, score
from director.domain.steps import (
    Close,
    Fail,
    Finish,
    Freeze,
    Leave,
    Open,
    OpenRound,
    Review,
    Snapshot,
    Step,
    Wait,
    next_step,
)
from director.domain.types import ExperimentState, RoundKind, RoundState
from director.errors import LeaseLost, NotFound
from director.services import endings, folding, plan_reading, reviewing
from director.services.periodic_jobs import Ticker
from director.services.reviewing import ReviewCallback
from director.services.runtime import Runtime
from director.store import (
    clock,
    contributions,
    events,
    experiment_rows,
    experiment_states,
    experiments,
    leases,
    metrics,
    models,
    rounds,
    snapshots,
    stash,
)
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow
from director.store.leases import Fence

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Step)


class Steps:
    """Looks at one owned experiment and does what comes next."""

    def __init__(self, runtime: Runtime, ticker: Ticker, fence: Fence, *, review: ReviewCallback | None) -> None:
        """Act under a fence."""
        self._runtime = runtime
        self._db = runtime.db
        self._ticker = ticker
        self._fence = fence
        self._callback = review
        self._review: asyncio.Future[bool] | None = None
        self._frozen: tuple[ExperimentRow, Snapshot] | None = None
        """What the last step left, if it froze a round: the fold needs nothing that is not in it."""

    async def next(self) -> float | None:
        """Do one step. Return for how many seconds to wait before the next, or None when the experiment is let go.

        Raises:
            LeaseLost: somebody else owns the experiment.
        """
        frozen, self._frozen = self._frozen, None
        if frozen is not None:
            experiment, snapshot = frozen
        else:
            async with self._db.read() as tx:
                stale = (await clock.read(tx)).stale
                experiment, snapshot = await snapshots.fresh(
                    tx, self._fence.experiment_id, lease=self._runtime.settings.lease
                )
            if stale:
                # After an outage the clock ticks first: deadlines do not count the outage.
                return 0.0 if await self._ticker.tick() else self._runtime.settings.poll.total_seconds()
            self._check(experiment)
        match next_step(snapshot):
            case Leave():
                return None
            case Wait(until):
                return max(until - snapshot.now, 0.0)
            case Review():
                return await self._do_review(experiment)
            case Open():
                await self._open()
            case Freeze():
                await self._freeze()
            case Close(number):
                await self._close(experiment, number)
            case Finish(number):
                return await self._finish(experiment, snapshot, number)
            case Fail():
                return await self._fail()
        return 0.0

    def _check(self, experiment: ExperimentRow) -> None:
        """Stop where another director owns the experiment.

        Raises:
            LeaseLost: another director owns it.
        """
        if (experiment.director_id, experiment.fence) != (self._fence.director_id, self._fence.number):
            raise LeaseLost(f"experiment {experiment.id} has another owner")

    async def _again(self, tx: Transaction, kind: type[Kind]) -> tuple[Kind, ExperimentRow, Snapshot] | None:
        """Take the fence and choose the step again from the rows; None if it is of another kind."""
        states = ExperimentState.PENDING, ExperimentState.IN_PROGRESS
        row = await leases.hold(tx, self._fence, states)
        if (await clock.read(tx)).stale:
            return None
        experiment = await experiment_rows.experiment(tx, row)
        snapshot = await snapshots.read(tx, experiment, lease=self._runtime.settings.lease)
        step = next_step(snapshot)
        return (step, experiment, snapshot) if isinstance(step, kind) else None

    async def _open(self) -> None:
        async with self._db.write("open round") as tx:
            found = await self._again(tx, Open)
            if found is not None:
                step, experiment, _ = found
                await self._open_in(tx, experiment, step)

    async def _open_in(self, tx: Transaction, experiment: ExperimentRow, step: Open) -> None:
        await rounds.open_(tx, experiment.id, step, experiment.plan)
        await experiment_states.set_round(tx, experiment.id, step.number)
        details = {"round": step.number, "kind": step.kind.value, **named("asked", step.envoys)}
        await events.append(tx, experiment.id, Occurrence(EventKind.ROUND_OPENED, details=details))

    async def _freeze(self) -> None:
        async with self._db.write("freeze round") as tx:
            found = await self._again(tx, Freeze)
            if found is None:
                return
            _, experiment, snapshot = found
            current = open_round(snapshot)
            complete = [member.envoy for member in snapshot.members if member.complete]
            await rounds.freeze(tx, experiment.id, current.number, complete=complete)
            if experiment.crashes:
                await experiment_states.reset_crashes(tx, experiment.id)
            details = {"round": current.number, **named("counted", complete)}
            await events.append(tx, experiment.id, Occurrence(EventKind.ROUND_FROZEN, details=details))
        self._frozen = experiment, after(snapshot, RoundState.AGGREGATING)

    async def _close(self, experiment: ExperimentRow, number: int) -> None:
        blob = await self._fold(experiment, number)
        async with self._db.write("close round") as tx:
            found = await self._again(tx, Close)
            if found is not None and found[0].number == number:
                await self._close_in(tx, found[1], found[2], blob)

    async def _fold(self, experiment: ExperimentRow, number: int) -> stash.Blob:
        try:
            return await folding.fold(self._runtime, experiment, self._fence, number)
        except NotFound:
            # Its inputs are gone with the round, if that was ended by somebody else meanwhile.
            async with self._db.read() as tx:
                self._check(await experiments.get(tx, experiment.id))
            raise

    async def _close_in(
        self,
        tx: Transaction,
        experiment: ExperimentRow,
        snapshot: Snapshot,
        blob: stash.Blob | None,
        *,
        last: bool = False,
    ) -> None:
        """Close the aggregated round, begin what comes next, and keep the model and the averages of the metrics.

        In this order, since it is the one in which rows are locked everywhere: round, collaborators, bytes.
        """
        number = open_round(snapshot).number
        counted = await contributions.counted(tx, experiment.id, number)
        averages = await folding.aggregate_metrics(tx, experiment.id, number, counted)
        scored = score(experiment.plan, averages)
        train = experiment.plan.train_task.name
        samples = sum(each.samples for each in counted if each.task == train)
        await rounds.close(tx, experiment.id, number, samples=samples, score=scored)
        details = {"round": number, "model": blob.digest if blob is not None else None, "score": scored}
        await events.append(tx, experiment.id, Occurrence(EventKind.ROUND_CLOSED, details=details))
        if last:
            await endings.end(tx, experiment.id, ExperimentState.FINISHED)
        else:
            await self._go_on(tx, experiment, after(snapshot, RoundState.CLOSED))
        measured = [Measured(number, AGGREGATOR, task, name, value) for (task, name), value in averages.items()]
        await metrics.append(tx, experiment.id, measured)
        if scored is not None:
            await self._judge(tx, experiment, number - 1, scored)
        if blob is not None:
            taken = await stash.take(tx, folding.upload_key(self._fence, number), blob.content)
            await models.add(tx, experiment.id, number, taken)
            await experiment_states.set_last_model(tx, experiment.id, number)
        await rounds.release_updates(tx, experiment.id, number)

    async def _go_on(self, tx: Transaction, experiment: ExperimentRow, snapshot: Snapshot) -> None:
        """Open the next round, or fail where it cannot ask as many as it needs."""
        match next_step(snapshot):
            case Open() as step:
                await self._open_in(tx, experiment, step)
            case Fail(reason):
                await endings.end(tx, experiment.id, ExperimentState.FAILED, reason=reason)
            case _:
                pass

    async def _judge(self, tx: Transaction, experiment: ExperimentRow, model: int, scored: float) -> None:
        """A round's validation scores the model that it began from."""
        await models.set_score(tx, experiment.id, model, scored)
        assert experiment.plan.best is not None, "only a plan that names a metric gives a score"
        if better(scored, experiment.best_score, experiment.plan.best.mode):
            await experiment_states.set_best(tx, experiment.id, model, scored)

    async def _finish(self, experiment: ExperimentRow, snapshot: Snapshot, number: int) -> float | None:
        blob = None
        if open_round(snapshot).kind is RoundKind.TRAIN:
            blob = await self._fold(experiment, number)
        async with self._db.write("finish") as tx:
            found = await self._again(tx, Finish)
            if found is None or found[0].number != number:
                return 0.0
            await self._close_in(tx, found[1], found[2], blob, last=True)
        return None

    async def _fail(self) -> float | None:
        async with self._db.write("fail") as tx:
            found = await self._again(tx, Fail)
            if found is None:
                return 0.0
            await endings.end(tx, self._fence.experiment_id, ExperimentState.FAILED, reason=found[0].reason)
        return None

    async def give_up(self, reason: str) -> None:
        """Fail the experiment, since its step failed again and again."""
        async with self._db.write("give up") as tx:
            await leases.hold(tx, self._fence, (ExperimentState.PENDING, ExperimentState.IN_PROGRESS))
            await endings.end(tx, self._fence.experiment_id, ExperimentState.FAILED, reason=reason)

    async def _do_review(self, experiment: ExperimentRow) -> float | None:
        """Ask the callback in a daemon thread; check for its answer at each poll."""
        if self._review is None:
            async with self._db.read() as tx:
                assert experiment.archive_blob_id is not None, "a pending experiment has its archive"
                archive = await stash.get(tx, experiment.archive_blob_id)
            text = await plan_reading.read_plan_text(self._runtime, archive)
            assert self._callback is not None, "only a director with a callback claims reviews"
            self._review = reviewing.ask(self._callback, experiment.name, text)
        await asyncio.wait([self._review], timeout=self._runtime.settings.poll.total_seconds())
        if not self._review.done():
            return 0.0
        try:
            approved = self._review.result()
        except RuntimeError:
            self._review = None  # the retried step asks again
            raise
        async with self._db.write("review") as tx:
            if await self._again(tx, Review) is None:
                return 0.0
            if approved:
                await experiment_states.approve(tx, experiment.id, priority=experiment.priority)
                await events.append(tx, experiment.id, Occurrence(EventKind.EXPERIMENT_APPROVED))
            else:
                reason = "rejected by the director's review"
                await endings.end(tx, experiment.id, ExperimentState.REJECTED, reason=reason)
        return None


def open_round(snapshot: Snapshot) -> OpenRound:
    """Return the round that a step is about."""
    assert snapshot.round is not None, "the step was chosen from an open round"
    return snapshot.round


def after(snapshot: Snapshot, state: RoundState) -> Snapshot:
    """Return the snapshot with the round's new state; members are as they were read."""
    return replace(snapshot, round=replace(open_round(snapshot), state=state))
