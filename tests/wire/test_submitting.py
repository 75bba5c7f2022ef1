"""Submitting over the wire: asked for what is missing, chunk by chunk, and made an experiment once."""

import asyncio
import hashlib
from typing import Any

import grpc
import numpy as np
import pytest

from director.domain.tensors import Manifest
from director.errors import AlreadyExists, Forbidden, InvalidArgument, InvalidPlan, TensorMismatch, Unavailable
from director.v1 import common_pb2, experiments_pb2
from director.wire.chunks import Download, blob_info, manifest_message
from director.wire.statuses import from_rpc_error
from tests.wire.calls import Client, Conversation, blob_of, on_both_engines, refused, until_stored
from tests.world import PLAN, archive_of, payload_of

ARCHIVE = archive_of(PLAN, **{"notes.txt": "ä" * 5000})
WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
MODEL = payload_of(WEIGHTS)


def submission(**more: Any) -> experiments_pb2.Submission:
    fields = {
        "submission_id": "once-and-for-all",
        "name": "experiment",
        "collaborators": ["a", "b"],
        "archive": blob_of(ARCHIVE),
        "model": blob_of(MODEL),
        "manifest": manifest_message(Manifest.of(WEIGHTS)),
    }
    return experiments_pb2.Submission(**fields | more)


async def begin(client: Client, **more: Any) -> tuple[Conversation, Any]:
    """Begin to submit; return the first answer too."""
    conversation = client.submit()
    await conversation.say(submission=submission(**more))
    return conversation, await conversation.hear()


async def go_on(conversation: Conversation, answer: Any) -> experiments_pb2.Experiment:
    """Send whatever is wanted, to the end."""
    if answer.HasField("archive_wanted"):
        await conversation.say_chunks(ARCHIVE, answer.archive_wanted)
        answer = await conversation.hear()
    if answer.HasField("model_wanted"):
        await conversation.say_chunks(MODEL, answer.model_wanted)
        answer = await conversation.hear()
    assert answer.HasField("experiment")
    assert await conversation.hear() is None
    return answer.experiment


@pytest.fixture
async def researcher(federation, clients):
    await federation.register("a", "b")
    return clients("researcher")


async def test_director_asks_for_the_archive_then_for_the_model_then_answers_with_the_experiment(researcher):
    conversation, first = await begin(researcher, users=["colleague"], priority=-3)
    await conversation.say_chunks(ARCHIVE, first.archive_wanted)
    second = await conversation.hear()
    await conversation.say_chunks(MODEL, second.model_wanted)
    third = await conversation.hear()

    assert first.archive_wanted == common_pb2.UploadWanted(first_index=0, chunk_bytes=4096)
    assert second.model_wanted == common_pb2.UploadWanted(first_index=0, chunk_bytes=4096)
    assert (third.experiment.name, third.experiment.owner, third.experiment.priority) == (
        "experiment",
        "researcher",
        -3,
    )
    assert third.experiment.state == experiments_pb2.EXPERIMENT_STATE_PENDING
    assert [each.envoy for each in third.experiment.collaborators] == ["a", "b"]
    assert await conversation.hear() is None


@on_both_engines
async def test_upload_goes_on_at_the_first_missing_chunk_after_each_break(federation, researcher):
    broken, answer = await begin(researcher)
    await broken.say_chunks(ARCHIVE, answer.archive_wanted, but=1)
    await until_stored(federation, chunks=2)
    broken.hang_up()

    again, archive = await begin(researcher)
    await again.say_chunks(ARCHIVE, archive.archive_wanted)
    await again.say_chunks(MODEL, (await again.hear()).model_wanted, but=3)
    await until_stored(federation, chunks=4)
    again.hang_up()

    last, model = await begin(researcher)
    experiment = await go_on(last, model)

    assert archive.archive_wanted.first_index == 2
    assert model.model_wanted.first_index == 1
    request = experiments_pb2.DownloadModelRequest(name=experiment.name, choice=experiments_pb2.MODEL_CHOICE_INITIAL)
    download = Download()
    assert b"".join([download.take(part) async for part in researcher.experiments.DownloadModel(request)]) == MODEL


@on_both_engines
async def test_repeat_is_answered_with_the_experiment_without_an_upload(researcher):
    experiment = await go_on(*await begin(researcher))

    again, answer = await begin(researcher)

    assert answer.experiment.id == experiment.id
    assert await again.hear() is None


@on_both_engines
async def test_two_streams_of_one_submission_at_once_are_one_experiment(researcher):
    begun = [await begin(researcher) for _ in range(2)]

    ends = await asyncio.gather(*(go_on(*each) for each in begun), return_exceptions=True)

    for end in ends:  # who comes second may be told to repeat it
        if isinstance(end, grpc.RpcError):
            assert type(from_rpc_error(end)) is Unavailable
    repeated = await go_on(*await begin(researcher))
    assert {end.id for end in ends if not isinstance(end, grpc.RpcError)} == {repeated.id}
    assert len((await researcher.experiments.List(experiments_pb2.ListExperimentsRequest())).experiments) == 1


async def test_same_id_of_another_user_is_another_submission(federation, researcher, clients):
    await go_on(*await begin(researcher))

    _, answer = await begin(clients("colleague"), name="another")

    assert answer.archive_wanted.first_index == 0


async def test_submission_used_for_another_content_is_refused(researcher):
    await go_on(*await begin(researcher))

    with refused(AlreadyExists, "another content"):
        await begin(researcher, collaborators=["a"])


async def test_plan_is_checked_before_the_model_is_asked_for(researcher):
    archive = archive_of(PLAN.replace("rounds: 2", "rounds: 0"))
    conversation, answer = await begin(researcher, archive=blob_of(archive))

    await conversation.say_chunks(archive, answer.archive_wanted)

    with refused(InvalidPlan, "rounds"):
        await conversation.hear()


async def test_model_with_holes_is_refused(researcher):
    model = payload_of({"weights": np.full(4000, np.nan, np.float32)})
    conversation, answer = await begin(researcher, model=blob_of(model))
    await conversation.say_chunks(ARCHIVE, answer.archive_wanted)
    wanted = (await conversation.hear()).model_wanted

    with refused(TensorMismatch, "'weights'"):
        await conversation.say_chunks(model[:4096], wanted)
        await conversation.hear()


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"submission_id": "short"}, InvalidArgument, "submission id"),
        ({"name": "a/b"}, InvalidArgument, "slash"),
        ({"collaborators": []}, InvalidArgument, "at least one"),
        ({"collaborators": ["a", "a"]}, InvalidArgument, "twice"),
        ({"collaborators": ["nobody"]}, InvalidArgument, "'nobody'"),
        ({"priority": 1}, Forbidden, "operators"),
        ({"priority": -101}, InvalidArgument, "priority"),
        ({"archive": None}, InvalidArgument, "SHA-256"),
        ({"archive": blob_info(-1, hashlib.sha256(b"").digest())}, InvalidArgument, "SHA-256"),
        ({"archive": blob_of(b"")}, InvalidArgument, "empty"),
        ({"model": blob_info(len(MODEL), b"short")}, InvalidArgument, "SHA-256"),
        ({"model": blob_of(MODEL[:-4])}, InvalidArgument, "manifest says 16000"),
        ({"manifest": None}, TensorMismatch, "at least one tensor"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_bad_submission_is_refused_before_anything_is_sent(researcher, change, kind, match):
    with refused(kind, match):
        await begin(researcher, **change)


@on_both_engines
async def test_too_many_collaborators_are_refused(researcher):
    with refused(InvalidArgument, "40000 collaborators; at most 10000"):
        await begin(researcher, collaborators=[f"envoy {number}" for number in range(40_000)])


async def test_operator_submits_with_a_priority(federation, clients):
    await federation.register("a", "b")

    experiment = await go_on(*await begin(clients("operator"), priority=100))

    assert experiment.priority == 100


async def test_stream_without_a_submission_is_refused(researcher):
    silent, hasty = researcher.submit(), researcher.submit()
    await silent.say_no_more()
    await hasty.say(chunk=common_pb2.Chunk())

    with refused(InvalidArgument, "the stream is empty"):
        await silent.hear()
    with refused(InvalidArgument, "the first message of the stream is the submission"):
        await hasty.hear()
