"""What a submission announces, in bounded parts: names and the manifest, complete and as announced, or refused."""

import asyncio
from typing import Any

import numpy as np
import pytest

from director.client import Federation
from director.domain.tensors import Manifest
from director.errors import Corrupt, InvalidArgument, TensorMismatch, TooLarge, Unavailable
from director.v1 import common_pb2, experiments_pb2
from director.wire import request_chunks
from tests.tables import blob_rows, crowds
from tests.wire.announcing import MANIFEST, MODEL, begin, go_on, submission
from tests.wire.calls import LARGEST_MESSAGE, Client, Conversation, blob_of, refused
from tests.world import MODEL as SMALL
from tests.world import World

Part = dict[str, Any]
SUBMISSION: Part = {"submission": submission(users=["x", "y"])}
PIECES = [MANIFEST[start : start + 50] for start in range(0, len(MANIFEST), 50)]


def collaborators(*names: str) -> Part:
    return {"collaborators": experiments_pb2.Names(names=names)}


def users(*names: str) -> Part:
    return {"users": experiments_pb2.Names(names=names)}


def piece(index: int, data: bytes) -> Part:
    return {"manifest_chunk": common_pb2.Chunk(index=index, data=data)}


NAMES = [collaborators("a", "b"), users("x", "y")]
WHOLE = [piece(index, data) for index, data in enumerate(PIECES)]


def announcing(manifest: bytes, **more: Any) -> Part:
    """Announce another manifest."""
    upload = experiments_pb2.ModelUpload(payload=blob_of(MODEL), manifest=blob_of(manifest))
    return {"submission": submission(users=["x", "y"], upload=upload, **more)}


@pytest.fixture
async def researcher(federation: World, clients: Any) -> Client:
    """Somebody who submits for two envoys."""
    await federation.register("a", "b")
    client: Client = clients("researcher")
    return client


async def say(client: Client, *parts: Part) -> Conversation:
    conversation = client.submit()
    for part in parts:
        await conversation.say(**part)
    return conversation


@pytest.mark.parametrize(
    "parts",
    [
        [*NAMES, *WHOLE],
        [*WHOLE, users("x"), collaborators("b"), users("y"), collaborators("a")],
        [WHOLE[0], collaborators("a"), *WHOLE[1:-1], users("x", "y"), collaborators("b"), WHOLE[-1]],
    ],
    ids=["one after the other", "in parts", "mixed"],
)
async def test_names_and_manifest_come_in_parts_of_any_size_and_in_any_order(federation, researcher, parts):
    conversation = await say(researcher, SUBMISSION, *parts)

    experiment = await go_on(conversation, await conversation.hear())

    listed = await researcher.experiments.ListCollaborators(
        experiments_pb2.ListCollaboratorsRequest(experiment_uid=experiment.uid)
    )
    assert [each.envoy for each in listed.collaborators] == ["a", "b"]
    assert (await federation.row(experiment.uid)).manifest.encoded == MANIFEST


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


OTHER_NAME = Manifest.of({"others": np.arange(4000, dtype=np.float32)}).encoded
SPACED = framed(MANIFEST[8:].replace(b'","', b'", "'))  # a `.safetensors` file may be written so
SHUFFLED = framed(
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}'
)
GARBAGE = b"\xff" * 9


@pytest.mark.parametrize(
    ("parts", "kind", "match"),
    [
        ([SUBMISSION, collaborators("a", "b", "c")], InvalidArgument, "other collaborators than the 2"),
        ([SUBMISSION, collaborators("a"), collaborators("b", "c")], InvalidArgument, "other collaborators than the 2"),
        ([SUBMISSION, *NAMES, collaborators("c")], InvalidArgument, "other collaborators than the 2"),
        ([SUBMISSION, users("x", "y", "z")], InvalidArgument, "other users than the 2"),
        ([{"submission": submission()}, users("x")], InvalidArgument, "other users than the 0"),
        ([SUBMISSION, collaborators()], InvalidArgument, "other collaborators"),
        ([SUBMISSION, collaborators("a" * 256)], InvalidArgument, "more than 255 characters"),
        ([SUBMISSION, *NAMES, SUBMISSION], InvalidArgument, "is followed by the names and the manifest"),
        ([SUBMISSION, *NAMES, {"chunk": common_pb2.Chunk()}], InvalidArgument, "is followed by the names"),
        ([SUBMISSION, *NAMES, {}], InvalidArgument, "is followed by the names"),
        ([SUBMISSION, piece(1, PIECES[1])], Corrupt, "chunk 1 of the manifest arrived where chunk 0 was due"),
        ([SUBMISSION, *WHOLE[:1], *WHOLE[:1]], Corrupt, "chunk 0 of the manifest arrived where chunk 1"),
        ([SUBMISSION, piece(0, b"")], Corrupt, "is empty"),
        ([SUBMISSION, piece(0, MANIFEST + b" ")], Corrupt, "more bytes than were announced"),
        ([SUBMISSION, *NAMES, piece(0, OTHER_NAME)], Corrupt, "does not match its SHA-256"),
        ([announcing(SPACED), *NAMES, piece(0, SPACED)], TensorMismatch, "not in its canonical form"),
        ([announcing(SHUFFLED), *NAMES, piece(0, SHUFFLED)], TensorMismatch, "'b' comes before 'a'"),
        ([announcing(GARBAGE), *NAMES, piece(0, GARBAGE)], TensorMismatch, "header of a .safetensors"),
        ([announcing(framed(b"{}")), *NAMES, piece(0, framed(b"{}"))], TensorMismatch, "at least one tensor"),
        ([announcing(b""), *NAMES], TensorMismatch, "header of a .safetensors"),
    ],
    ids=[
        "more collaborators",
        "more collaborators in parts",
        "more collaborators after all",
        "more users",
        "users that were not announced",
        "no names",
        "long name",
        "second submission",
        "chunk too early",
        "empty message",
        "manifest from its middle",
        "manifest that repeats",
        "manifest without bytes",
        "manifest that is too long",
        "another manifest",
        "manifest in another spelling",
        "manifest in another order",
        "manifest of garbage",
        "manifest of nothing",
        "empty manifest",
    ],
)
async def test_part_that_was_not_announced_is_refused(federation, researcher, parts, kind, match):
    conversation = await say(researcher, *parts)

    with refused(kind, match):
        await conversation.hear()

    assert await blob_rows.blobs(federation.db) == []


@pytest.mark.parametrize(
    "parts",
    [[], NAMES[:1], NAMES[1:] + WHOLE, [collaborators("a"), users("x"), *WHOLE], NAMES + WHOLE[:-1]],
    ids=["nothing", "no users", "no collaborators", "some of each", "most of the manifest"],
)
async def test_announcement_that_ends_early_is_refused(federation, researcher, parts):
    conversation = await say(researcher, SUBMISSION, *parts)
    await conversation.say_no_more()

    with refused(InvalidArgument, "ended before all that the submission announces"):
        await conversation.hear()

    assert await blob_rows.blobs(federation.db) == []


async def test_announcement_that_stands_still_is_ended(researcher, monkeypatch):
    monkeypatch.setattr(request_chunks, "CHUNK_SECONDS", 0.2)
    conversation = await say(researcher, SUBMISSION, *NAMES)

    with refused(Unavailable, "all that the submission announces did not come"):
        await conversation.hear()


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"collaborator_count": 10_001}, InvalidArgument, "10001 collaborators are announced; .* at most 10000"),
        ({"collaborator_count": -1}, InvalidArgument, "-1 collaborators"),
        ({"user_count": 1001}, InvalidArgument, "1001 users are announced; .* at most 1000"),
        ({"upload": None}, InvalidArgument, "names no model"),
        ({"upload": experiments_pb2.ModelUpload(payload=blob_of(MODEL))}, InvalidArgument, "SHA-256"),
        (
            {"upload": experiments_pb2.ModelUpload(manifest=common_pb2.BlobInfo(size_bytes=1 << 40, sha256=bytes(32)))},
            TooLarge,
            "the manifest has 1099511627776 bytes",
        ),
    ],
    ids=["collaborators", "fewer than none", "users", "no model", "no manifest", "huge manifest"],
)
async def test_announcement_beyond_all_bounds_is_refused_with_its_first_message(researcher, change, kind, match):
    conversation = await say(researcher, {"submission": submission(**change)})

    with refused(kind, match):
        await conversation.hear()


async def test_model_by_reference_has_no_manifest_to_send(federation, researcher):
    source = await federation.submit("source")
    reference = experiments_pb2.ModelReference(experiment_uid=source.uid, number=0)
    conversation = await say(
        researcher, {"submission": submission(reference=reference)}, piece(0, Manifest.of(SMALL).encoded)
    )

    with refused(InvalidArgument, "is followed by the names and the manifest"):
        await conversation.hear()


async def test_same_submission_may_cut_its_announcement_in_another_way(researcher):
    first = await go_on(*await begin(researcher))

    _, answer = await begin(researcher, manifest=[MANIFEST[:7], MANIFEST[7:]])

    assert answer.experiment.uid == first.uid


async def test_ten_thousand_collaborators_are_named_in_bounded_messages(traffic, federation, port, workspace):
    names = [f"{'site' * 40}-{number:05}" for number in range(10_000)]
    await crowds.add_envoys(federation.db, names)

    def submit() -> tuple[int, list[str]]:
        with Federation(f"127.0.0.1:{port}", client_id="researcher") as far:
            handle = far.submit("many", workspace=workspace, model=SMALL, collaborators=names)
            return handle.info.collaborators_count, [each.envoy for each in handle.collaborators()]

    count, listed = await asyncio.to_thread(submit)

    parts = traffic.of("SubmitExperiment", "collaborators")
    assert (count, listed) == (10_000, names)
    assert sum(parts) > 10_000 * 160
    assert max(parts) <= 64 << 10
    assert len(parts) < 30
    assert traffic.largest <= 1 << 20 < LARGEST_MESSAGE
