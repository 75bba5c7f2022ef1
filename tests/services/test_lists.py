"""Lists cost the same number of statements whatever their length, and one experiment costs what is its own."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from director.domain.experiment import Collaborator, Experiment
from director.domain.types import CollaboratorState, ExperimentId
from director.errors import ExperimentNotFound, InvalidArgument
from director.services.paging import DEFAULT_PAGE, MAX_PAGE, Page, size_of
from director.services.runtime import Caller
from director.store.envoy_lists import Filter
from tests.services.words import collecting, rows_read
from tests.store.words import recorded_statements
from tests.tables import changes, crowds
from tests.world import PLAN, RESEARCHER, World

SITES = [f"site-{number:03}" for number in range(250)]
FEW, MANY = 3, 100
OTHERS = 300

Ask = Callable[..., Awaitable[Page[Any]]]


async def multiply(federation: World, original: ExperimentId, numbers: range) -> None:
    """Have experiments like one, under these numbers."""
    async with federation.db.write("multiply") as tx:
        for each in numbers:
            await changes.clone(tx, original, f"like it {each}")


async def all_pages(ask: Ask, **how: Any) -> list[list[Any]]:
    """Return the items of all pages of a list."""
    pages, token = [], ""
    while True:
        page = await ask(RESEARCHER, page_token=token, **how)
        pages.append(list(page.items))
        if not (token := page.next_token):
            return pages


async def statements_of(work: Callable[[], Awaitable[object]]) -> int:
    """Count the statements of something that was done once before, so that what is remembered is there."""
    await work()
    with recorded_statements() as statements:
        await work()
    return len(statements)


@pytest.mark.parametrize("plans", [False, True])
async def test_page_of_experiments_takes_as_many_statements_however_long_it_is(federation: World, plans: bool) -> None:
    await federation.register("a", "b")
    first = await federation.submit()
    experiments = federation.process.experiments

    async def ask() -> Page[Experiment]:
        return await experiments.listed(RESEARCHER, plans=plans)

    await multiply(federation, first.id, range(1, FEW))
    few = await statements_of(ask)
    await multiply(federation, first.id, range(FEW, MANY))

    assert len((await ask()).items) == MANY
    assert await statements_of(ask) == few


async def test_list_counts_the_collaborators_of_each_experiment_by_state(federation: World) -> None:
    begun = await collecting(federation, "one", ("a", "b", "c"), plan=PLAN)
    await federation.register("d")
    await federation.submit("two", envoys=("a", "d"))

    [two, one] = (await federation.process.experiments.listed(RESEARCHER)).items

    assert (one.uid, one.collaborators) == (begun.uid, {CollaboratorState.WORKING: 1, CollaboratorState.ASSIGNED: 2})
    assert (two.collaborators, two.collaborators_count) == ({CollaboratorState.WAITING: 2}, 2)


async def test_pages_of_experiments_hold_each_once_newest_first(federation: World) -> None:
    await federation.register("a", "b")
    await multiply(federation, (await federation.submit()).id, range(1, 7))

    pages = await all_pages(federation.process.experiments.listed, page_size=3)

    expected = [f"like it {each}" for each in reversed(range(1, 7))] + ["experiment"]
    assert [[each.name for each in page] for page in pages] == [expected[:3], expected[3:6], expected[6:]]


async def test_last_page_that_is_full_has_no_next_one(federation: World) -> None:
    await federation.register("a", "b")
    await multiply(federation, (await federation.submit()).id, range(1, 4))

    assert [len(page) for page in await all_pages(federation.process.experiments.listed, page_size=2)] == [2, 2]


@pytest.mark.parametrize(("asked", "given"), [(0, DEFAULT_PAGE), (1, 1), (120, 120), (MAX_PAGE, 250)])
async def test_page_has_the_size_asked_for_within_its_limits(federation: World, asked: int, given: int) -> None:
    await crowds.add_envoys(federation.db, SITES)

    page = await federation.process.federation.envoys(RESEARCHER, page_size=asked)

    assert [each.name for each in page.items] == SITES[:given]
    assert bool(page.next_token) is (given < len(SITES))


def test_page_is_never_longer_than_the_longest() -> None:
    assert [size_of(asked) for asked in (MAX_PAGE - 1, MAX_PAGE, MAX_PAGE + 1)] == [MAX_PAGE - 1, MAX_PAGE, MAX_PAGE]


async def test_negative_page_size_is_refused(federation: World) -> None:
    with pytest.raises(InvalidArgument, match="page_size is negative"):
        await federation.process.experiments.listed(RESEARCHER, page_size=-1)


async def test_pages_of_collaborators_hold_each_once_by_name(federation: World) -> None:
    await crowds.add_envoys(federation.db, SITES)
    uid = (await federation.submit(envoys=SITES[::-1])).uid
    experiments = federation.process.experiments

    async def ask(caller: Caller, **how: Any) -> Page[Collaborator]:
        return await experiments.collaborators(uid, caller, **how)

    pages = await all_pages(ask, page_size=100)

    assert [len(page) for page in pages] == [100, 100, 50]
    assert [each.envoy for page in pages for each in page] == SITES
    with pytest.raises(ExperimentNotFound):
        await experiments.collaborators(uid, Caller("stranger"))


async def test_pages_of_envoys_hold_each_once_by_name(federation: World) -> None:
    await crowds.add_envoys(federation.db, SITES, offline=SITES[::2], retired=SITES[1::50])
    envoys = federation.process.federation.envoys

    pages = await all_pages(envoys, page_size=100)
    online = await all_pages(envoys, wanted=Filter(online=True), page_size=100)

    present = [each for number, each in enumerate(SITES) if number % 50 != 1]
    assert [each.name for page in pages for each in page] == present
    assert [each.name for page in online for each in page] == [each for each in present if each not in SITES[::2]]


async def test_page_of_envoys_takes_as_many_statements_however_long_it_is(federation: World) -> None:
    await crowds.add_envoys(federation.db, SITES)
    envoys = federation.process.federation.envoys

    few = await statements_of(lambda: envoys(RESEARCHER, page_size=FEW))

    assert await statements_of(lambda: envoys(RESEARCHER, page_size=len(SITES))) == few


async def test_envoys_experiment_is_named_only_to_those_who_may_see_it(federation: World) -> None:
    begun = await collecting(federation)

    own = (await federation.process.federation.envoys(RESEARCHER)).items
    others = (await federation.process.federation.envoys(Caller("stranger"))).items

    assert {(each.experiment_uid, each.experiment_name) for each in own} == {(begun.uid, "experiment")}
    assert {(each.experiment_uid, each.experiment_name) for each in others} == {("", "")}


async def test_token_of_another_list_is_refused(federation: World) -> None:
    await federation.register("a", "b")
    uid = (await federation.submit()).uid
    await federation.submit("another")
    process = federation.process
    lists: dict[str, Ask] = {
        "experiments": process.experiments.listed,
        "collaborators": lambda caller, **how: process.experiments.collaborators(uid, caller, **how),
        "envoys": process.federation.envoys,
    }
    tokens = {name: (await ask(RESEARCHER, page_size=1)).next_token for name, ask in lists.items()}

    assert len(set(tokens.values())) == 3
    for name, ask in lists.items():
        assert len((await ask(RESEARCHER, page_token=tokens[name])).items) == 1
        for other, token in tokens.items():
            if other != name:
                with pytest.raises(InvalidArgument, match="page token"):
                    await ask(RESEARCHER, page_token=token)


@pytest.mark.parametrize("running", [False, True], ids=["pending", "running"])
async def test_experiment_and_what_it_waits_for_cost_what_is_its_own(federation: World, running: bool) -> None:
    if running:
        await collecting(federation)
    else:
        await federation.register("a", "b")
        await federation.submit()
    experiments = federation.process.experiments
    alone = await statements_of(lambda: experiments.get("experiment", RESEARCHER))
    with rows_read() as read_alone:
        expected = await experiments.get("experiment", RESEARCHER)

    others = [f"other-{number:03}" for number in range(OTHERS)]
    await crowds.add_envoys(federation.db, others)
    await federation.submit("others", envoys=others)

    assert await statements_of(lambda: experiments.get("experiment", RESEARCHER)) == alone
    with rows_read() as read:
        found = await experiments.get("experiment", RESEARCHER)
    assert read == read_alone
    assert len(found.waiting_for) == len(expected.waiting_for)
