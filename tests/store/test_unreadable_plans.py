"""A plan that this code cannot read concerns its own experiment only, which can be shown, cancelled and removed."""

from datetime import timedelta

import pytest

from director.domain.types import ExperimentState
from director.errors import ExperimentNotFound, InvalidPlan
from director.facade.dicts import describe, summarize
from director.services import checking
from director.services.process import Process
from director.services.runtime import Caller
from director.store import experiments, pending
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.experiment_rows import ExperimentRow
from tests.store.words import claim, enter, only_sqlite
from tests.tables import changes, experiment_rows
from tests.world import RESEARCHER, World

LEASE = timedelta(seconds=10)
UNREADABLE = {
    "of a newer director": '{"version": 2, "tasks": {"train": {}}}',
    "without its tasks": '{"version": 1, "rounds": 2}',
    "with tasks of another shape": '{"version": 1, "rounds": 2, "tasks": [{"called": "train"}]}',
    "that is a list": "[1, 2]",
    "that is a text": '"rounds: 2"',
    "that is null": "null",
}
unreadable = pytest.mark.parametrize("plan", UNREADABLE.values(), ids=UNREADABLE)


async def odd_and_other(federation: World, plan: str) -> tuple[Database, ExperimentRow, ExperimentRow]:
    """Submit an experiment, replace its plan, and submit another one; return them with a database that knows neither.

    A plan never changes, so that the process which stored it would go on with what it remembers.
    """
    await federation.register("a", "b")
    odd = await federation.submit("odd")
    await changes.replace_plan(federation.db, plan, name="odd")
    other = await federation.submit("other")
    return open_database(federation.db.url), odd, other


@unreadable
async def test_experiment_is_found_listed_and_shown_among_others(federation: World, plan: str) -> None:
    db, odd, other = await odd_and_other(federation, plan)
    async with db.read() as tx:
        found = await experiments.find(tx, "odd", caller="researcher")
        got = await experiments.get(tx, odd.id)
        listed = await experiments.listed(tx, caller=None, before=None, limit=10)
        documents = await experiments.documents(tx, [odd.id, other.id])
    await db.close()

    assert found == got
    assert isinstance(found.constants.plan, InvalidPlan)
    assert found.manifest == odd.manifest
    with pytest.raises(InvalidPlan, match="experiment 'odd': the stored plan"):
        _ = found.plan
    assert [each.uid for _, each in listed] == [other.uid, odd.uid]
    assert documents[odd.id] == found.constants.document
    assert documents[other.id] == other.plan.to_json()


@unreadable
async def test_experiment_keeps_its_place_in_the_queue_and_holds_up_nobody(federation: World, plan: str) -> None:
    db, odd, other = await odd_and_other(federation, plan)
    async with db.write("admission") as tx:
        found = await pending.read(tx, lease=LEASE)
        ahead = await pending.ahead_of(tx, other.id, other.rank)
    await db.close()

    assert [each.id for each in found.pending] == [other.id]
    assert ahead == [odd.id]
    await federation.admit()
    assert await experiment_rows.states(federation.db) == ["pending", "in_progress"]


@unreadable
async def test_nothing_is_wrong_with_the_database_that_holds_it(federation: World, plan: str) -> None:
    db, _, _ = await odd_and_other(federation, plan)

    found = [finding async for finding in checking.findings(db)]

    await db.close()
    assert found == []


@unreadable
async def test_experiment_is_shown_cancelled_and_removed_by_its_owner(federation: World, plan: str) -> None:
    db, _, _ = await odd_and_other(federation, plan)
    process = Process(db, federation.process.runtime.settings)
    shown = await process.experiments.get("odd", RESEARCHER)
    page = await process.experiments.listed(RESEARCHER, plans=True)

    assert shown.waiting_for[0].startswith("a director that can read its plan; this one cannot: the stored plan")
    assert [summarize(each)["tasks_amount"] for each in page.items] == [2, 0]
    assert describe(shown, [])["tasks"] == []
    cancelled = await process.experiments.cancel("odd", RESEARCHER)
    assert cancelled.state is ExperimentState.CANCELLED
    await process.experiments.remove("odd", RESEARCHER)
    with pytest.raises(ExperimentNotFound):
        await process.experiments.get("odd", Caller("operator", operator=True))
    await db.close()


@only_sqlite
@pytest.mark.parametrize("plan", ["", '{"rounds": 2', "\\x00"], ids=["empty", "cut off", "no document"])
async def test_text_that_is_no_document_is_an_unreadable_plan_too(federation: World, plan: str) -> None:
    db, odd, other = await odd_and_other(federation, plan)
    async with db.write("admission") as tx:
        found = await experiments.find(tx, "odd", caller=None)
        documents = await experiments.documents(tx, [odd.id, other.id])
        queue = await pending.read(tx, lease=LEASE)
    await db.close()

    assert isinstance(found.constants.plan, InvalidPlan)
    assert documents == {odd.id: {}, other.id: other.plan.to_json()}
    assert [each.id for each in queue.pending] == [other.id]


async def test_experiment_of_a_newer_director_is_left_to_it(federation: World) -> None:
    await enter(federation.db, "one")
    await federation.register("a", "b", "c", "d")
    await federation.submit("newer", envoys=("a", "b"))
    other = await federation.submit("other", envoys=("c", "d"))
    await federation.admit()
    await changes.raise_plan_version(federation.db, "newer")

    fences, missed = await claim(federation.db, "one")

    assert [fence.experiment_id for fence in fences] == [other.id]
    assert not missed
