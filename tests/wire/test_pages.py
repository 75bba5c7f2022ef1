"""Lists of experiments and collaborators, page by page; and tokens that belong to one list."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from director.domain.experiment import Failure
from director.domain.types import ExperimentState
from director.errors import ExperimentNotFound, InvalidArgument
from director.v1 import experiments_pb2, federation_pb2
from tests.store.words import owned
from tests.tables import changes, crowds
from tests.wire.calls import Client, on_both_engines, refused
from tests.world import RESEARCHER, World

Ask = Callable[..., Any]
LONG = "ä" * 60_000


async def pages(ask: Ask, **wanted: Any) -> list[Any]:
    """Return all pages of a list."""
    found, token = [], ""
    for _ in count():
        found.append(await ask(page_token=token, **wanted))
        if not (token := found[-1].next_page_token):
            return found
    raise AssertionError


def experiments(client: Client) -> Ask:
    """Ask for a page of a caller's experiments."""
    return lambda **wanted: client.experiments.ListExperiments(experiments_pb2.ListExperimentsRequest(**wanted))


def collaborators(client: Client, uid: str) -> Ask:
    """Ask for a page of an experiment's collaborators."""
    return lambda **wanted: client.experiments.ListCollaborators(
        experiments_pb2.ListCollaboratorsRequest(experiment_uid=uid, **wanted)
    )


def envoys(client: Client) -> Ask:
    """Ask for a page of the envoys."""
    return lambda **wanted: client.federation.ListEnvoys(federation_pb2.ListEnvoysRequest(**wanted))


def names(found: list[experiments_pb2.ListExperimentsResponse]) -> list[list[str]]:
    return [[each.name for each in page.experiments] for page in found]


@pytest.fixture
async def seven(federation: World) -> list[str]:
    """Seven experiments, newest first."""
    await federation.register("a", "b")
    first = await federation.submit("number 0")
    for number in range(1, 7):
        await changes.clone(federation.db, first.id, f"number {number}")
    return [f"number {number}" for number in range(7)][::-1]


@on_both_engines
async def test_experiments_are_listed_newest_first_over_as_many_pages_as_it_takes(seven, clients):
    ask = experiments(clients("researcher"))

    assert names(await pages(ask, page_size=3)) == [seven[:3], seven[3:6], seven[6:]]
    assert names(await pages(ask, page_size=7)) == [seven]
    assert names(await pages(ask)) == [seven]


async def test_page_has_a_hundred_experiments_unless_another_size_is_asked_for_up_to_a_thousand(federation, clients):
    await federation.register("a", "b")
    first = await federation.submit("number 0")
    async with federation.db.write("clone") as tx:
        for number in range(1, 1100):
            await changes.clone(tx, first.id, f"number {number}")
    ask = experiments(clients("researcher"))

    sizes = [len((await ask(page_size=size)).experiments) for size in (0, 500, 1000, 5000)]

    assert sizes == [100, 500, 1000, 1000]
    with refused(InvalidArgument, "page_size is negative"):
        await ask(page_size=-1)


async def test_list_says_how_many_collaborators_there_are_and_not_what_only_one_experiment_says(federation, clients):
    await federation.drive(await owned(federation))
    await federation.wait("a")

    [page] = await pages(experiments(clients("researcher")))

    [listed] = page.experiments
    assert listed.collaborator_counts == experiments_pb2.CollaboratorCounts(queued=1, assigned=1)
    assert (list(listed.waiting_for), listed.plan_json) == ([], "")


async def test_experiments_that_come_and_go_meanwhile_move_no_others(federation, seven, clients):
    ask = experiments(clients("researcher"))

    first = await ask(page_size=3)
    await federation.submit("newer")
    await federation.process.experiments.remove("number 4", RESEARCHER)  # the last one of the first page
    await federation.process.experiments.remove("number 2", RESEARCHER)
    rest = [page async for page in following(ask, first, page_size=3)]

    assert names([first, *rest]) == [["number 6", "number 5", "number 4"], ["number 3", "number 1", "number 0"]]


async def following(ask: Ask, page: Any, **wanted: Any) -> Any:
    """Yield the pages behind one."""
    while page.next_page_token:
        page = await ask(page_token=page.next_page_token, **wanted)
        yield page


async def test_page_ends_early_at_a_mebibyte_and_loses_nothing(federation, seven, clients):
    for name in seven:
        await federation.process.experiments.cancel(name, RESEARCHER, reason=LONG)
    first = await federation.row("number 0")
    for number in range(7, 25):
        await changes.clone(federation.db, first.id, f"number {number}", state=ExperimentState.CANCELLED)

    found = await pages(experiments(clients("researcher")))

    assert [name for page in names(found) for name in page] == [f"number {number}" for number in range(25)][::-1]
    assert [len(page.experiments) for page in found] == [8, 8, 8, 1]
    assert all(page.ByteSize() <= 1 << 20 for page in found)


@on_both_engines
async def test_collaborators_are_listed_by_name_whatever_their_number(federation, clients):
    site = [f"site-{number:04}" for number in range(2500)]
    await crowds.add_envoys(federation.db, site)
    submitted = await federation.submit(envoys=site[::-1])

    found = await pages(collaborators(clients("researcher"), submitted.uid), page_size=1000)

    assert [len(page.collaborators) for page in found] == [1000, 1000, 500]
    assert [each.envoy for page in found for each in page.collaborators] == site
    assert {each.state for page in found for each in page.collaborators} == {experiments_pb2.Collaborator.WAITING}


async def test_collaborator_that_failed_says_why_in_four_kibibytes(federation, clients):
    await federation.drive(await owned(federation))
    given = await federation.wait("a")
    failure = Failure(f"{LONG}\nValueError: no data", task="train", error_type="ValueError")
    await federation.process.envoys.report_failure("a", given.experiment_uid, attempt=1, failure=failure)

    [page] = await pages(collaborators(clients("researcher"), given.experiment_uid))

    failed, other = page.collaborators
    assert (failed.envoy, failed.state, failed.attempt) == ("a", experiments_pb2.Collaborator.FAILED, 1)
    assert (failed.failure.task, failed.failure.error_type) == ("train", "ValueError")
    assert failed.failure.message.endswith("ä\nValueError: no data")
    assert 4000 < len(failed.failure.message.encode()) <= 4096
    assert not other.HasField("failure")


async def test_collaborators_are_for_those_who_may_see_the_experiment(federation, clients):
    await federation.register("a", "b")
    submitted = await federation.submit(users=["colleague"])

    for caller in ("colleague", "operator"):
        assert len((await collaborators(clients(caller), submitted.uid)()).collaborators) == 2
    with refused(ExperimentNotFound):
        await collaborators(clients("stranger"), submitted.uid)()


TOKENS = ["x", "ZXhwZXJpbWVudHM6", "ZXhwZXJpbWVudHM6eA", "bm90aGluZw==", "ä" * 10, "=" * 1000]
"""Nothing, no key, half of a byte, another word, other characters, padding alone."""


@pytest.mark.parametrize("token", TOKENS)
async def test_token_that_no_director_gave_is_refused(federation, seven, clients, token):
    client, uid = clients("researcher"), (await federation.row("number 0")).uid

    for ask in (experiments(client), collaborators(client, uid), envoys(client)):
        with refused(InvalidArgument, "page token"):
            await ask(page_token=token)


async def test_token_of_one_list_is_refused_in_another(federation, seven, clients):
    client, uid = clients("researcher"), (await federation.row("number 0")).uid
    lists = [experiments(client), collaborators(client, uid), envoys(client)]
    tokens = [(await ask(page_size=1)).next_page_token for ask in lists]

    assert all(tokens)
    for ask in lists:
        for token in tokens:
            if token != tokens[lists.index(ask)]:
                with refused(InvalidArgument, "page token"):
                    await ask(page_token=token)
