"""A name that is used again: a reader, a handle and an envoy of the removed experiment never reach the new one."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from director.cli.main import run
from director.client import ExperimentHandle, ExperimentState, Federation
from director.domain.envoy import Engagement
from director.errors import ExperimentNotFound, InvalidArgument, RoundClosed
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, rounds_pb2
from tests.store.words import owned
from tests.tables import result_rows
from tests.wire.calls import Client, gather, on_both_engines, refused, until
from tests.world import MODEL, RESEARCHER, World

# Over the wire


@dataclass
class Reused:
    """Two experiments of one name: a removed one, which was read up to its fifth metric, and one that runs."""

    old: Engagement
    new: Engagement
    fifth: common_pb2.Cursor


async def started(federation: World, submission_id: str) -> Engagement:
    """Have an experiment do two rounds; return what envoy "a" was given."""
    fence = await owned(federation, submission_id=submission_id)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    for _ in range(2):
        await federation.finish_round(given)
        await federation.drive(fence)
    return given["a"]


@pytest.fixture
async def reused(federation: World, researcher: Client) -> Reused:
    old = await started(federation, "the-first-one")
    fifth = (await metrics(researcher, old))[4].cursor
    await federation.process.experiments.remove(old.experiment_uid, RESEARCHER)
    return Reused(old, await started(federation, "the-second-one"), fifth)


@pytest.fixture
def researcher(clients: Any) -> Client:
    client: Client = clients("researcher")
    return client


async def metrics(client: Client, of: Engagement, **more: Any) -> list[experiments_pb2.Metric]:
    request = experiments_pb2.StreamMetricsRequest(experiment_uid=of.experiment_uid, **more)
    return [metric for batch in await gather(client.experiments.StreamMetrics(request)) for metric in batch.metrics]


async def get(client: Client, **which: str) -> experiments_pb2.Experiment:
    return await client.experiments.GetExperiment(experiments_pb2.GetExperimentRequest(**which))


@on_both_engines
async def test_reader_of_the_removed_experiment_never_reads_the_new_one(researcher, reused):
    assert reused.fifth.seq == 5
    assert reused.new.experiment_name == reused.old.experiment_name

    with refused(ExperimentNotFound):
        await metrics(researcher, reused.old, after=reused.fifth)
    with refused(InvalidArgument, "of the stream"):
        await metrics(researcher, reused.new, after=reused.fifth)

    assert [metric.cursor.seq for metric in await metrics(researcher, reused.new)][:6] == [1, 2, 3, 4, 5, 6]


async def test_name_leads_to_the_new_experiment_and_each_uid_to_its_own(researcher, reused):
    by_name = await get(researcher, experiment_name="experiment")

    assert by_name.uid == reused.new.experiment_uid != reused.old.experiment_uid
    assert by_name == await get(researcher, experiment_uid=reused.new.experiment_uid)
    with refused(ExperimentNotFound):
        await get(researcher, experiment_uid=reused.old.experiment_uid)


@on_both_engines
async def test_envoy_of_the_removed_experiment_contributes_nothing_to_the_new_one(federation, clients, reused):
    a, before = clients("a"), await result_rows.contributions(federation.db)
    who = {"experiment_uid": reused.old.experiment_uid, "envoy": "a", "attempt": reused.old.attempt}
    result = rounds_pb2.Contribution(**who, round=3, task="validate", samples=1, metrics={"accuracy": 1.0})

    answer = await a.rounds.PollTasks(rounds_pb2.PollTasksRequest(**who))
    conversation = a.contribute()
    await conversation.say(contribution=result)
    with refused(RoundClosed):
        await conversation.hear()
    failure = common_pb2.Failure(message="out of memory")
    await a.envoys.ReportFailure(envoys_pb2.ReportFailureRequest(**who, failure=failure))

    assert answer.quit.reason == "cancelled"
    assert await result_rows.contributions(federation.db) == before
    counts = (await get(clients("researcher"), experiment_name="experiment")).collaborator_counts
    assert counts == experiments_pb2.CollaboratorCounts(working=2)


# With the client and on the command line

DEEDS = {
    "cancel": lambda held, _: held.cancel("too late"),
    "remove": lambda held, _: held.remove(),
    "refresh": lambda held, _: held.refresh(),
    "wait": lambda held, _: held.wait(timeout=1),
    "approve": lambda held, _: held.approve(),
    "reject": lambda held, _: held.reject(),
    "read collaborators": lambda held, _: list(held.collaborators()),
    "read metrics": lambda held, _: list(held.metrics()),
    "follow metrics": lambda held, seen: list(held.metrics(follow=True, after=seen)),
    "read events": lambda held, seen: list(held.events(after=seen)),
    "fetch a model": lambda held, _: held.model("initial"),
}
"""What a handle can do, given the cursor of the last event that was seen."""


def submit(federation: Federation, workspace: Any, submission_id: str) -> ExperimentHandle:
    return federation.submit("one", workspace=workspace, model=MODEL, collaborators=["a"], submission_id=submission_id)


@pytest.mark.parametrize("deed", DEEDS)
def test_held_handle_does_not_touch_the_experiment_that_has_its_name_now(director, envoy, workspace, deed):
    caller = "operator" if deed in ("approve", "reject") else "researcher"
    with (
        Federation(director.address, client_id="researcher") as mine,
        Federation(director.address, client_id=caller) as theirs,
    ):
        submit(mine, workspace, "the-first-one")
        held = theirs.experiment("one")
        seen = next(event.cursor for event in held.events())
        mine.experiment("one").remove()
        new = submit(mine, workspace, "the-second-one")
        before = [event.kind for event in new.events()]

        with pytest.raises(ExperimentNotFound):
            DEEDS[deed](held, seen)

        assert [info.uid for info in mine.experiments()] == [new.uid] != [held.uid]
        assert not new.refresh().state.terminal
        assert [event.kind for event in new.events()][: len(before)] == before


def test_reader_that_follows_comes_to_the_end_of_its_own_experiment(director, envoy, workspace):
    with Federation(director.address, client_id="researcher") as federation:
        old = submit(federation, workspace, "the-first-one")
        followed: list[Any] = []
        reader = threading.Thread(target=lambda: followed.extend(old.events(follow=True)))
        reader.start()
        until(lambda: followed)
        federation.experiment("one").remove()
        new = submit(federation, workspace, "the-second-one")
        threading.Thread(target=envoy.take_part).start()
        new.wait(30)
        reader.join(20)

        assert not reader.is_alive()
        assert {event.cursor.stream for event in followed} == {f"{old.uid}/events"}
        assert "experiment_cancelled" in [event.kind for event in followed]
        assert new.state is ExperimentState.FINISHED


def test_cursor_of_the_removed_experiment_is_refused_on_the_command_line(director, envoy, workspace, capsys):
    reach = ["--director", director.address, "--client-id", "researcher"]
    with Federation(director.address, client_id="researcher") as federation:
        old = submit(federation, workspace, "the-first-one")
        [seen, *_] = [event.cursor for event in old.events()]
        old.remove()
        new = submit(federation, workspace, "the-second-one")

    by_name = run(["experiment", "events", "one", "--after", str(seen), *reach])
    by_uid = run(["experiment", "events", old.uid, "--after", str(seen), *reach])
    cancelled = run(["experiment", "cancel", old.uid, *reach])

    assert (by_name, by_uid, cancelled) == (1, 1, 1)
    by_name_text, by_uid_text, cancelled_text = capsys.readouterr().err.splitlines()
    assert f"of the stream '{old.uid}/events', this one is '{new.uid}/events'" in by_name_text
    assert old.uid in by_uid_text
    assert old.uid in cancelled_text
