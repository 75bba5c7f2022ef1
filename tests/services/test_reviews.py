"""Reviews: by an operator, or by the director's callback, before an experiment may start."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import ExperimentNotFound, LeaseLost, PreconditionFailed
from director.services import endings
from director.store import experiments
from tests.services.words import OPERATOR, history, reason_of, state_of
from tests.store.words import live, only_postgresql, waits
from tests.tables import changes, experiment_rows, round_rows
from tests.tables.everything import contents
from tests.world import PLAN, RESEARCHER, World, world

MANUAL = PLAN + "review: manual\n"
QUICK = timedelta(milliseconds=10)


# By an operator


async def test_experiment_that_waits_for_an_operator_does_not_start_before(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit(plan=MANUAL)
    await federation.admit()

    assert await federation.claim() == []
    assert await state_of(federation) is ExperimentState.PENDING
    await federation.process.experiments.review("experiment", OPERATOR, approve=True, reason="looks fine")
    await federation.admit()

    assert await state_of(federation) is ExperimentState.IN_PROGRESS
    approved = next(event for event in await history(federation, 1) if event.kind == "experiment_approved")
    assert (approved.actor, approved.reason) == ("operator", "looks fine")


async def test_place_in_the_queue_counts_from_the_approval(timed: World, clock: ManualClock) -> None:
    await timed.register("a", "b")
    await timed.submit("reviewed", plan=MANUAL)
    clock.advance(timedelta(seconds=1))
    await timed.submit("not reviewed")
    clock.advance(timedelta(seconds=1))

    await timed.process.experiments.review("reviewed", OPERATOR, approve=True)
    await timed.admit()

    assert await state_of(timed, "not reviewed") is ExperimentState.IN_PROGRESS
    assert await state_of(timed, "reviewed") is ExperimentState.PENDING


async def test_rejected_experiment_stays_so_and_says_why(federation: World) -> None:
    await federation.register("a", "b")
    view = await federation.submit("one", plan=MANUAL)
    await federation.submit("two", plan=MANUAL)

    await federation.process.experiments.review("one", OPERATOR, approve=False, reason="too many rounds")
    await federation.process.experiments.review("two", OPERATOR, approve=False)

    assert await state_of(federation, "one") is ExperimentState.REJECTED
    assert await reason_of(federation, "one") == "too many rounds"
    assert await reason_of(federation, "two") == "rejected by operator"
    assert await round_rows.collaborator_states(federation.db, view.id) == ["released", "released"]


async def test_only_what_waits_for_a_manual_review_can_be_reviewed(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit("approved", plan=MANUAL)
    await federation.process.experiments.review("approved", OPERATOR, approve=True)
    await federation.submit("automatic")
    await federation.submit("cancelled", plan=MANUAL)
    await federation.process.experiments.cancel("cancelled", RESEARCHER)
    before = await contents(federation.db)

    for name in ("approved", "automatic", "cancelled"):
        with pytest.raises(PreconditionFailed, match="waits for no manual review"):
            await federation.process.experiments.review(name, OPERATOR, approve=False)
    with pytest.raises(ExperimentNotFound):
        await federation.process.experiments.review("nothing", OPERATOR, approve=True)

    assert await contents(federation.db) == before


@only_postgresql
async def test_review_that_waits_for_a_cancellation_finds_nothing_to_review(federation: World) -> None:
    await federation.register("a", "b")
    experiment_id = (await federation.submit(plan=MANUAL)).id
    async with federation.db.write("cancel") as tx:
        await experiments.lock(tx, experiment_id)
        reviewing = federation.process.experiments.review("experiment", OPERATOR, approve=True)
        late = asyncio.create_task(reviewing)
        assert await waits(late)
        await endings.end(tx, experiment_id, ExperimentState.CANCELLED)

    with pytest.raises(PreconditionFailed, match="it is cancelled"):
        await late

    kinds = [event.kind for event in await history(federation, experiment_id)]
    assert kinds[-1] == "experiment_cancelled"


async def test_operator_does_not_answer_in_place_of_the_callback(migrated_url: str) -> None:
    async with world(migrated_url, review=lambda _name, _plan: False) as federation:
        await federation.register("a", "b")
        await federation.submit()

        with pytest.raises(PreconditionFailed, match="waits for no manual review"):
            await federation.process.experiments.review("experiment", OPERATOR, approve=True)

        assert await experiment_rows.waits_for_review(federation.db)


# By the callback


@asynccontextmanager
async def reviewing(url: str, review: Callable[[str, Path], bool]) -> AsyncIterator[World]:
    """Run a federation whose director asks, with one submission; only its execution runs."""
    async with world(url, review=review, poll=QUICK) as federation:
        await federation.register("a", "b")
        await federation.submit()
        running = asyncio.create_task(federation.process.execution.run(lambda: None))
        yield federation
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def reviewed(federation: World) -> None:
    """Wait until the review is over."""
    async with asyncio.timeout(30):
        while await experiment_rows.waits_for_review(federation.db):
            await asyncio.sleep(0.01)


async def test_approved_experiment_is_let_go_for_admission(migrated_url: str) -> None:
    async with reviewing(migrated_url, lambda _name, _plan: True) as federation:
        await reviewed(federation)

        assert await experiment_rows.states(federation.db) == ["pending"]
        assert await experiment_rows.owned(federation.db) == []
        assert await experiment_rows.are_eligible(federation.db) == [True]
        await federation.admit()
        assert await state_of(federation) is ExperimentState.IN_PROGRESS


async def test_callback_that_raises_is_asked_again(migrated_url: str) -> None:
    asked = []

    def review(name: str, plan: Path) -> bool:
        asked.append((name, plan.read_text()))
        if len(asked) < 3:
            raise ConnectionError("the review board is away")
        return False

    async with reviewing(migrated_url, review) as federation:
        await reviewed(federation)

        assert asked == [("experiment", PLAN)] * 3
        assert await state_of(federation) is ExperimentState.REJECTED
        assert await reason_of(federation) == "rejected by the director's review"


@pytest.mark.parametrize("error", [ValueError("no licence"), SystemExit(3), StopIteration()])
async def test_callback_that_only_raises_fails_the_experiment_with_its_error(
    migrated_url: str, error: BaseException
) -> None:
    def review(_name: str, _plan: Path) -> bool:
        raise error

    async with reviewing(migrated_url, review) as federation:
        await reviewed(federation)

        assert await state_of(federation) is ExperimentState.FAILED
        wrong = f"the review callback raised {type(error).__name__}: {error}"
        assert await reason_of(federation) == f"the director could not go on: RuntimeError: {wrong}"


async def test_callback_that_is_silent_past_its_deadline_fails_the_experiment(
    migrated_url: str, clock: ManualClock
) -> None:
    silence = threading.Event()

    def review(_name: str, _plan: Path) -> bool:
        return silence.wait(30)

    half_a_minute = timedelta(seconds=30)
    async with world(migrated_url, clock=clock, review=review, poll=QUICK, review_deadline=half_a_minute) as federation:
        await federation.register("a", "b")
        await federation.submit()
        [fence] = await federation.claim()
        steps = federation.steps(fence, review=review)

        assert await steps.next() == 0.0
        await live(federation, clock, 29)
        assert await steps.next() == 0.0
        await live(federation, clock, 2)
        assert await steps.next() is None

        assert await state_of(federation) is ExperimentState.FAILED
        assert await reason_of(federation) == "the review was not answered in time"
        silence.set()


@pytest.mark.parametrize("approved", [True, False])
async def test_answer_that_comes_after_the_experiment_was_taken_away_changes_nothing(
    migrated_url: str, approved: bool
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def review(_name: str, _plan: Path) -> bool:
        asked.set()
        answered.wait(30)
        return approved

    async with world(migrated_url, review=review, poll=timedelta(minutes=1)) as federation:
        await federation.register("a", "b")
        await federation.submit()
        [fence] = await federation.claim()
        reviewing = asyncio.create_task(federation.steps(fence, review=review).next())
        assert await asyncio.to_thread(asked.wait, 30)
        await changes.raise_fences(federation.db)
        before = await contents(federation.db)

        answered.set()
        with pytest.raises(LeaseLost):
            await reviewing

        assert await contents(federation.db) == before


async def test_manual_review_is_not_asked_of_the_callback(migrated_url: str) -> None:
    async with world(migrated_url, review=lambda _name, _plan: False) as federation:
        await federation.register("a", "b")
        await federation.submit(plan=MANUAL)

        assert await federation.claim() == []
