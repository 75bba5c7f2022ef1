"""Submitting over the wire: asked for what is missing, chunk by chunk, and made an experiment once."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from director.errors import (
    AlreadyExists,
    ExperimentNotFound,
    Forbidden,
    InvalidArgument,
    InvalidPlan,
    ModelNotFound,
    TensorMismatch,
    TooLarge,
    Unavailable,
)
from director.v1 import common_pb2, experiments_pb2
from director.wire.chunks import Download
from director.wire.statuses import from_rpc_error
from tests.wire.announcing import ARCHIVE, MANIFEST, MODEL, begin, go_on
from tests.wire.calls import Client, blob_of, on_both_engines, refused, until_stored
from tests.world import PLAN, archive_of, payload_of


@pytest.fixture
async def researcher(federation, clients):
    await federation.register("a", "b")
    return clients("researcher")


def uploaded(payload: common_pb2.BlobInfo) -> experiments_pb2.ModelUpload:
    return experiments_pb2.ModelUpload(payload=payload, manifest=blob_of(MANIFEST))


async def listed(client: Client) -> list[experiments_pb2.Experiment]:
    return list((await client.experiments.ListExperiments(experiments_pb2.ListExperimentsRequest())).experiments)


async def initial_model(client: Client, experiment: experiments_pb2.Experiment) -> bytes:
    """Download an experiment's initial model, verified; return its payload."""
    initial = experiments_pb2.DownloadModelRequest.INITIAL
    request = experiments_pb2.DownloadModelRequest(experiment_uid=experiment.uid, choice=initial)
    download = Download()
    payload = b"".join([download.take(part) async for part in client.experiments.DownloadModel(request)])
    assert download.complete
    return payload


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
    assert third.experiment.state == experiments_pb2.Experiment.PENDING
    assert third.experiment.collaborator_counts == experiments_pb2.CollaboratorCounts(waiting=2)
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
    assert await initial_model(researcher, experiment) == MODEL


@on_both_engines
async def test_repeat_is_answered_with_the_experiment_without_an_upload(researcher):
    experiment = await go_on(*await begin(researcher))

    again, answer = await begin(researcher)

    assert answer.experiment.uid == experiment.uid
    assert await again.hear() is None


@on_both_engines
async def test_two_streams_of_one_submission_at_once_are_one_experiment(researcher):
    begun = [await begin(researcher) for _ in range(2)]

    ends = await asyncio.gather(*(go_on(*each) for each in begun), return_exceptions=True)

    for end in ends:  # the second one may be told to repeat it
        if isinstance(end, grpc.RpcError):
            assert type(from_rpc_error(end)) is Unavailable
    repeated = await go_on(*await begin(researcher))
    assert {end.uid for end in ends if not isinstance(end, grpc.RpcError)} == {repeated.uid}
    assert len(await listed(researcher)) == 1


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
    conversation, answer = await begin(researcher, upload=uploaded(blob_of(model)))
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
        ({"name": "0123456789abcdef" * 2}, InvalidArgument, "looks like a uid"),
        ({"collaborators": []}, InvalidArgument, "at least one"),
        ({"collaborators": ["a", "a"]}, InvalidArgument, "twice"),
        ({"collaborators": ["nobody"]}, InvalidArgument, "'nobody'"),
        ({"users": ["a/b"]}, InvalidArgument, "a user's name"),
        ({"priority": 1}, Forbidden, "operators"),
        ({"priority": -101}, InvalidArgument, "priority"),
        ({"archive": None}, InvalidArgument, "SHA-256"),
        ({"archive": common_pb2.BlobInfo(size_bytes=-1, sha256=bytes(32))}, InvalidArgument, "SHA-256"),
        ({"archive": blob_of(b"")}, InvalidArgument, "empty"),
        ({"archive": common_pb2.BlobInfo(size_bytes=1 << 31, sha256=bytes(32))}, TooLarge, "at most"),
        ({"upload": uploaded(common_pb2.BlobInfo(size_bytes=16000, sha256=b"short"))}, InvalidArgument, "SHA-256"),
        ({"upload": uploaded(blob_of(MODEL[:-4]))}, InvalidArgument, "manifest says 16000"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_bad_submission_is_refused_before_any_bytes_are_sent(researcher, change, kind, match):
    with refused(kind, match):
        await begin(researcher, **change)


async def test_operator_submits_with_a_priority(federation, clients):
    await federation.register("a", "b")

    experiment = await go_on(*await begin(clients("operator"), priority=100))

    assert experiment.priority == 100


async def test_stream_without_a_submission_is_refused(researcher):
    silent, hasty = researcher.submit(), researcher.submit()
    await silent.say_no_more()
    await hasty.say(chunk=common_pb2.Chunk())

    with refused(InvalidArgument, "ended before the submission"):
        await silent.hear()
    with refused(InvalidArgument, "the first message of the stream is the submission"):
        await hasty.hear()


# A model that the director holds


def held(uid: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """What a submission says that begins from a model of another experiment."""
    reference = experiments_pb2.ModelReference(experiment_uid=uid, number=number)
    return {"submission_id": "of-another-model", "name": "second", "reference": reference} | more


@on_both_engines
async def test_model_of_another_experiment_is_referred_to_and_not_sent(researcher):
    source = await go_on(*await begin(researcher))

    conversation, answer = await begin(researcher, **held(source.uid))
    await conversation.say_chunks(ARCHIVE, answer.archive_wanted)
    experiment = (await conversation.hear()).experiment

    assert answer.archive_wanted.first_index == 0
    assert await conversation.hear() is None
    assert (experiment.name, experiment.uid != source.uid) == ("second", True)
    assert await initial_model(researcher, experiment) == MODEL


async def test_referred_model_stays_when_its_experiment_is_removed(researcher):
    source = await go_on(*await begin(researcher))
    experiment = await go_on(*await begin(researcher, **held(source.uid)))

    await researcher.experiments.RemoveExperiment(experiments_pb2.RemoveExperimentRequest(experiment_uid=source.uid))

    assert await initial_model(researcher, experiment) == MODEL


async def test_submission_that_is_repeated_is_answered_though_its_source_is_gone(researcher):
    source = await go_on(*await begin(researcher))
    experiment = await go_on(*await begin(researcher, **held(source.uid)))
    await researcher.experiments.RemoveExperiment(experiments_pb2.RemoveExperimentRequest(experiment_uid=source.uid))

    _, answer = await begin(researcher, **held(source.uid))

    assert answer.experiment.uid == experiment.uid


async def test_model_that_the_caller_may_not_see_or_that_is_not_kept_cannot_be_referred_to(researcher, clients):
    source = await go_on(*await begin(researcher))

    with refused(ExperimentNotFound):
        await begin(clients("stranger"), **held(source.uid))
    with refused(ExperimentNotFound):
        await begin(researcher, **held("0" * 32))
    for number in (1, -1, (1 << 63) - 1):
        with refused(ModelNotFound):
            await begin(researcher, **held(source.uid, number))


async def test_model_is_not_referred_to_by_the_name_of_its_experiment(researcher):
    source = await go_on(*await begin(researcher))

    with refused(InvalidArgument, "experiment_uid is 'experiment'"):
        await begin(researcher, collaborators=[], **held(source.name))
