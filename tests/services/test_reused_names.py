"""A name that is used again names another experiment; the uid of the removed one leads to nothing of the new one."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from director.domain.commands import Contribute
from director.domain.history import Cursor
from director.domain.types import ExperimentState
from director.domain.work import Quit
from director.errors import ExperimentNotFound, InvalidArgument, RoundClosed
from tests.services.words import OPERATOR, Collecting, collecting, fail, finished, state_of
from tests.store.words import owned
from tests.tables import round_rows
from tests.tables.everything import contents
from tests.world import MODEL, PLAN, RESEARCHER, World, archive_of

OTHER = archive_of(PLAN, **{"note.txt": "another experiment"})
FIFTH = 4


async def places(federation: World, stream: str, which: str, **how: Any) -> list[Cursor]:
    """Return the cursors of what a reader sees."""
    read = getattr(federation.process.streams, stream)
    return [each.cursor async for page in read(which, RESEARCHER, **how) for each in page]


async def again(federation: World) -> str:
    """Remove the experiment, run another one of its name to its first round, and return the uid of the new one."""
    await federation.process.experiments.remove("experiment", RESEARCHER)
    fence = await owned(federation, archive=OTHER, submission_id="another-one")
    await federation.drive(fence)
    return (await federation.row("experiment")).uid


@pytest.mark.parametrize("stream", ["metrics", "events"])
async def test_reader_that_comes_back_with_a_cursor_of_the_removed_experiment_is_refused(
    federation: World, stream: str
) -> None:
    await finished(federation)
    old = await federation.row("experiment")
    cursor = (await places(federation, stream, "experiment"))[FIFTH]
    await federation.process.experiments.remove("experiment", RESEARCHER)
    await federation.submit(submission_id="another-one")

    with pytest.raises(InvalidArgument, match="the cursor is of the stream"):
        await places(federation, stream, "experiment", after=cursor)
    with pytest.raises(ExperimentNotFound):
        await places(federation, stream, old.uid, after=cursor)


async def test_reader_that_follows_the_removed_experiment_sees_nothing_of_the_new_one(federation: World) -> None:
    await collecting(federation)
    stream = federation.process.streams.events("experiment", RESEARCHER, follow=True)
    seen = list(await anext(stream))

    await again(federation)
    seen += [event async for page in stream for event in page]

    assert [event.cursor.seq for event in seen] == [*range(1, len(seen) + 1)]
    assert {event.cursor.stream for event in seen} == {seen[0].cursor.stream}
    assert [event.kind for event in seen][-1] == "experiment_removed"


Call = Callable[[World, str], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get": lambda world, uid: world.process.experiments.get(uid, RESEARCHER),
    "collaborators": lambda world, uid: world.process.experiments.collaborators(uid, RESEARCHER),
    "model": lambda world, uid: world.process.experiments.model(uid, RESEARCHER, "initial"),
    "archive": lambda world, uid: world.process.experiments.archive(uid),
    "cancel": lambda world, uid: world.process.experiments.cancel(uid, RESEARCHER),
    "remove": lambda world, uid: world.process.experiments.remove(uid, RESEARCHER),
    "approve": lambda world, uid: world.process.experiments.review(uid, OPERATOR, approve=True),
    "reject": lambda world, uid: world.process.experiments.review(uid, OPERATOR, approve=False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_uid_of_the_removed_experiment_is_not_found_and_touches_nothing_of_the_new_one(
    federation: World, call: Call
) -> None:
    await federation.register("a", "b")
    old = await federation.submit()
    await federation.process.experiments.remove(old.uid, RESEARCHER)
    new = await federation.submit(submission_id="another-one", plan=PLAN + "review: manual\n")
    before = await contents(federation.db)

    with pytest.raises(ExperimentNotFound):
        await call(federation, old.uid)

    assert await contents(federation.db) == before
    assert (await federation.process.experiments.get("experiment", RESEARCHER)).uid == new.uid


async def test_name_leads_to_the_new_experiment_and_so_does_its_uid(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit()
    await federation.process.experiments.remove("experiment", RESEARCHER)
    new = await federation.submit(submission_id="another-one")

    cancelled = await federation.process.experiments.cancel("experiment", RESEARCHER)

    assert cancelled.uid == new.uid
    assert (await federation.process.experiments.get(new.uid, RESEARCHER)).state is ExperimentState.CANCELLED


async def removed_and_replaced(federation: World) -> Collecting:
    """Let an experiment collect, remove it, and let another one of its name collect with the same envoys."""
    begun = await collecting(federation)
    new = await again(federation)
    assert new != begun.uid
    for envoy in ("a", "b"):
        given = await federation.wait(envoy)
        assert given.experiment_uid == new
        await federation.work(given, envoy)
    return begun


async def test_envoy_that_still_works_for_the_removed_experiment_is_told_that_it_is_over(federation: World) -> None:
    begun = await removed_and_replaced(federation)

    told = await federation.process.rounds.poll_tasks(begun.uid, "a", begun.given["a"].attempt, seconds=0)

    assert told == Quit("cancelled")


async def test_result_for_the_removed_experiment_does_not_count_in_the_new_one(federation: World) -> None:
    begun = await removed_and_replaced(federation)

    with pytest.raises(RoundClosed):
        await federation.contribute(begun.given["a"], "a", "train", round_number=1, update=MODEL)

    command = Contribute((await federation.row("experiment")).uid, "a", 1, 1, "validate", 10, {})
    assert await federation.process.rounds.begin_contribution(command) is None  # the new one has nothing yet


async def test_failure_reported_for_the_removed_experiment_takes_nobody_out_of_the_new_one(federation: World) -> None:
    begun = await removed_and_replaced(federation)

    await fail(federation, "a", begun.uid)

    assert await state_of(federation) is ExperimentState.IN_PROGRESS
    new = await federation.row("experiment")
    assert await round_rows.collaborator_states(federation.db, new.id) == ["working", "working"]


@pytest.mark.parametrize("name", ["0123456789abcdef" * 2, "0123456789ABCDEF" * 2, "0" * 32])
async def test_name_that_could_be_taken_for_a_uid_is_refused(federation: World, name: str) -> None:
    await federation.register("a", "b")
    before = await contents(federation.db)

    with pytest.raises(InvalidArgument, match="looks like a uid"):
        await federation.submit(name)

    assert await contents(federation.db) == before


@pytest.mark.parametrize("name", ["0" * 31, "0" * 33, "g" * 32])
async def test_name_that_could_not_be_taken_for_one_is_not_refused(federation: World, name: str) -> None:
    await federation.register("a", "b")

    assert (await federation.submit(name)).name == name
