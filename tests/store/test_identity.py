"""An experiment's uid is its own for ever; its name belongs to another experiment once it was removed."""

import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.names import is_uid
from director.errors import ExperimentNotFound
from director.store import experiments
from director.store.engine.database import Database
from director.store.experiment_rows import ExperimentRow
from tests.tables import changes
from tests.world import RESEARCHER, World


async def find(db: Database, which: str, *, caller: str | None = None) -> ExperimentRow:
    async with db.read() as tx:
        return await experiments.find(tx, which, caller=caller)


@pytest.fixture
async def first(federation: World) -> ExperimentRow:
    """A pending experiment."""
    await federation.register("a", "b")
    return await federation.submit()


async def test_experiment_is_found_by_its_name_and_by_its_uid(federation: World, first: ExperimentRow) -> None:
    other = await federation.submit("other")

    assert is_uid(first.uid)
    assert first.uid != other.uid
    for which in (first.uid, first.uid.upper(), "experiment"):
        assert await find(federation.db, which) == first
    assert await find(federation.db, other.uid) == other


async def test_unknown_uid_is_not_found(federation: World, first: ExperimentRow) -> None:
    with pytest.raises(ExperimentNotFound):
        await find(federation.db, first.uid[::-1])
    async with federation.db.read() as tx:
        with pytest.raises(ExperimentNotFound):
            await experiments.id_of(tx, first.uid[::-1])


async def test_two_experiments_cannot_have_one_uid(federation: World, first: ExperimentRow) -> None:
    await changes.clone(federation.db, first.id, "twin")

    with pytest.raises(IntegrityError):
        await changes.set_uid(federation.db, "twin", first.uid)


async def test_uid_of_a_removed_experiment_leads_to_nothing_else_though_its_name_is_used_again(
    federation: World, first: ExperimentRow
) -> None:
    await federation.process.experiments.remove(first.uid, RESEARCHER)
    second = await federation.submit(submission_id="another-one")

    assert second.uid != first.uid
    assert await find(federation.db, "experiment") == second
    with pytest.raises(ExperimentNotFound):
        await find(federation.db, first.uid)
    async with federation.db.read() as tx:
        assert await experiments.id_of(tx, first.uid) == first.id
        assert await experiments.id_of(tx, second.uid) == second.id


async def test_identities_are_those_of_what_the_caller_sees(federation: World, first: ExperimentRow) -> None:
    other = await federation.submit("other", users=("friend",))
    removed = await federation.submit("removed")
    await federation.process.experiments.remove("removed", RESEARCHER)
    ids = [first.id, other.id, removed.id, 999]

    async with federation.db.read() as tx:
        own = await experiments.identities(tx, ids, caller="researcher")
        shared = await experiments.identities(tx, ids, caller="friend")
        none = await experiments.identities(tx, [], caller=None)

    assert own == {first.id: (first.uid, "experiment"), other.id: (other.uid, "other")}
    assert shared == {other.id: (other.uid, "other")}
    assert none == {}


async def test_documents_are_the_plans_as_they_are_stored(federation: World, first: ExperimentRow) -> None:
    other = await federation.submit("other")
    await changes.replace_plan(federation.db, '{"version": 2, "new": [1]}', name="other")

    async with federation.db.read() as tx:
        found = await experiments.documents(tx, [first.id, other.id])
        one = await experiments.documents(tx, [first.id])

    assert found == {first.id: first.plan.to_json(), other.id: {"version": 2, "new": [1]}}
    assert one == {first.id: first.plan.to_json()}
