"""Results over the wire: counted once, however often and brokenly they are sent."""

from typing import Any

import numpy as np
import pytest

from director.domain.tensors import Manifest
from director.errors import ExperimentNotFound, InvalidArgument, RoundClosed, StaleAttempt, TensorMismatch
from director.v1 import common_pb2, experiments_pb2, rounds_pb2
from tests.store.words import owned
from tests.tables import result_rows
from tests.wire.calls import Client, Conversation, blob_of, gather, on_both_engines, refused, until_stored
from tests.world import payload_of

WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
UPDATE = payload_of(WEIGHTS)
MANIFEST = Manifest.of(WEIGHTS)
OTHERS = Manifest.of({"w": WEIGHTS["weights"]})
NOBODYS = "0" * 32


class Collaborator:
    """An envoy in the first round of an experiment."""

    def __init__(self, client: Client, envoy: str, experiment_uid: str, attempt: int) -> None:
        self.client = client
        self.who: dict[str, Any] = {"experiment_uid": experiment_uid, "envoy": envoy, "attempt": attempt}

    def trained(self, **more: Any) -> rounds_pb2.Contribution:
        fields = {"round": 1, "task": "train", "samples": 10, "update": blob_of(UPDATE)}
        fields["manifest_sha256"] = MANIFEST.content.sha256
        return rounds_pb2.Contribution(**self.who | fields | more)

    def validated(self, **more: Any) -> rounds_pb2.Contribution:
        fields = {"round": 1, "task": "validate", "samples": 7, "metrics": {"accuracy": 0.5}}
        return rounds_pb2.Contribution(**self.who | fields | more)

    async def say(self, contribution: rounds_pb2.Contribution) -> tuple[Conversation, Any]:
        conversation = self.client.contribute()
        await conversation.say(contribution=contribution)
        return conversation, await conversation.hear()

    async def hand_in(self, contribution: rounds_pb2.Contribution) -> rounds_pb2.ContributionAccepted:
        conversation, answer = await self.say(contribution)
        if answer.HasField("wanted"):
            await conversation.say_chunks(UPDATE, answer.wanted)
            answer = await conversation.hear()
        assert answer.HasField("accepted")
        assert await conversation.hear() is None
        return answer.accepted

    async def tasks(self) -> rounds_pb2.PollTasksResponse:
        return await self.client.rounds.PollTasks(rounds_pb2.PollTasksRequest(**self.who))


@pytest.fixture
async def fence(federation):
    fence = await owned(federation, model=WEIGHTS)
    await federation.drive(fence)
    return fence


@pytest.fixture
async def a(federation, fence, clients) -> Collaborator:
    given = await federation.wait("a")
    return Collaborator(clients("a"), "a", given.experiment_uid, given.attempt)


@pytest.fixture
async def b(federation, fence, clients) -> Collaborator:
    given = await federation.wait("b")
    return Collaborator(clients("b"), "b", given.experiment_uid, given.attempt)


async def test_round_is_worked_off_over_the_wire(federation, fence, a, b):
    work = (await a.tasks()).work
    for each in (a, b):
        assert (await each.hand_in(each.trained())).sha256 == blob_of(UPDATE).sha256
        assert (await each.hand_in(each.validated())).sha256 == b""
    await federation.drive(fence)

    assert [(task.name, task.kind, task.function) for task in work.tasks] == [
        ("train", rounds_pb2.Task.TRAIN, "work:train"),
        ("validate", rounds_pb2.Task.VALIDATE, "work:validate"),
    ]
    assert (work.round, work.base_model, work.model) == (1, 0, blob_of(UPDATE))
    assert work.manifest_sha256 == MANIFEST.content.sha256
    assert (await a.tasks()).work.round == 2
    counted = [(each.envoy, each.task, each.samples) for each in await result_rows.contributions(federation.db)]
    assert counted == [
        ("a", "train", 10), ("a", "validate", 7), ("b", "train", 10), ("b", "validate", 7)
    ]  # fmt: skip


async def test_task_that_was_done_is_not_asked_for_again(a):
    await a.hand_in(a.trained())

    assert [task.name for task in (await a.tasks()).work.tasks] == ["validate"]


@on_both_engines
async def test_update_goes_on_at_the_first_missing_chunk_after_a_break(federation, a):
    broken, before = await a.say(a.trained())
    await broken.say_chunks(UPDATE, before.wanted, but=2)
    await until_stored(federation, chunks=5 + 2)
    broken.hang_up()

    conversation, after = await a.say(a.trained())
    await conversation.say_chunks(UPDATE, after.wanted)
    accepted = (await conversation.hear()).accepted

    assert before.wanted == common_pb2.UploadWanted(first_index=0, chunk_bytes=4096)
    assert after.wanted == common_pb2.UploadWanted(first_index=2, chunk_bytes=4096)
    assert accepted.sha256 == blob_of(UPDATE).sha256


@on_both_engines
async def test_repeat_is_answered_without_an_upload_and_counts_once(federation, fence, a, b):
    first = await a.hand_in(a.trained())
    _, in_time = await a.say(a.trained())
    for repeated in (a.validated(), a.validated()):
        await a.hand_in(repeated)
    for each in (b.trained(), b.validated()):
        await b.hand_in(each)
    await federation.drive(fence)  # the round is closed now, and held results are answered still
    _, closed = await a.say(a.trained())
    _, of_an_older_attempt = await a.say(a.trained(attempt=0))

    assert in_time.accepted == closed.accepted == of_an_older_attempt.accepted == first
    assert len(await result_rows.contributions(federation.db)) == 4


async def test_repeat_with_another_content_is_answered_with_what_is_held(a):
    first = await a.hand_in(a.trained())

    _, answer = await a.say(a.trained(update=blob_of(UPDATE[::-1]), samples=99))

    assert answer.accepted == first


async def test_uid_may_be_written_in_capitals(federation, a):
    await a.hand_in(a.validated(experiment_uid=a.who["experiment_uid"].upper()))

    assert [each.task for each in await result_rows.contributions(federation.db)] == ["validate"]


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"experiment_uid": NOBODYS}, ExperimentNotFound, "no experiment"),
        ({"attempt": 0}, StaleAttempt, "handed the experiment again"),
        ({"attempt": 2}, StaleAttempt, "attempt 2"),
        ({"round": 2}, RoundClosed, "not asked"),
        ({"task": "sleep"}, InvalidArgument, "'sleep'"),
        ({"samples": 0}, InvalidArgument, "at least 1"),
        ({"metrics": {"a/b": 1.0}}, InvalidArgument, "slash"),
        ({"update": None, "manifest_sha256": b""}, InvalidArgument, "hands in an update"),
        ({"update": None}, InvalidArgument, "hands in an update"),
        ({"update": common_pb2.BlobInfo(size_bytes=16000)}, InvalidArgument, "SHA-256"),
        ({"update": blob_of(UPDATE[4:])}, TensorMismatch, "15996 bytes"),
        ({"manifest_sha256": OTHERS.content.sha256}, TensorMismatch, "does not fit"),
        ({"manifest_sha256": b""}, TensorMismatch, "does not fit"),
        ({"manifest_sha256": MANIFEST.content.sha256[:31]}, TensorMismatch, "does not fit"),
        ({"task": "validate"}, InvalidArgument, "only validates"),
    ],
    ids=lambda value: (
        "-".join(f"{key}={entry!r:.9}" for key, entry in value.items()) if isinstance(value, dict) else ""
    ),
)
async def test_bad_contribution_is_refused_before_anything_is_sent(federation, a, change, kind, match):
    with refused(kind, match):
        await a.say(a.trained(**change))

    assert await result_rows.contributions(federation.db) == []


async def test_update_with_holes_is_refused_and_a_mended_one_is_taken(a):
    holes = payload_of({"weights": np.full(4000, np.inf, np.float32)})
    conversation, answer = await a.say(a.trained(update=blob_of(holes)))
    await conversation.say_chunks(holes[:4096], answer.wanted)

    with refused(TensorMismatch, "'weights'"):
        await conversation.hear()

    await a.hand_in(a.trained())


async def test_late_result_is_told_so(federation, fence, a, b):
    await a.hand_in(a.trained())
    for each in (b.trained(), b.validated()):
        await b.hand_in(each)
    await federation.process.experiments.cancel(a.who["experiment_uid"], federation.process.caller("operator"))

    with refused(RoundClosed, "^LATE: "):
        await a.say(a.validated())


async def test_stream_without_a_contribution_is_refused(a):
    silent, hasty = a.client.contribute(), a.client.contribute()
    await silent.say_no_more()
    await hasty.say(chunk=common_pb2.Chunk())

    with refused(InvalidArgument, "ended before the contribution"):
        await silent.hear()
    with refused(InvalidArgument, "the first message of the stream is the contribution"):
        await hasty.hear()


@on_both_engines
async def test_infinities_and_nan_are_streamed_as_they_were_sent(clients, a):
    await a.hand_in(a.validated(metrics={"a": float("inf"), "b": float("-inf"), "c": float("nan"), "ä": 5e-324}))

    request = experiments_pb2.StreamMetricsRequest(experiment_uid=a.who["experiment_uid"])
    batches = await gather(clients("researcher").experiments.StreamMetrics(request))

    found = [metric for batch in batches for metric in batch.metrics]
    assert [(metric.cursor.seq, metric.name, str(metric.value)) for metric in found] == [
        (1, "a", "inf"), (2, "b", "-inf"), (3, "c", "nan"), (4, "ä", "5e-324")
    ]  # fmt: skip
