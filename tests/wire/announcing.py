"""Words for submissions: what they announce, message by message, and how they go on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from director.domain.tensors import Manifest
from director.v1 import common_pb2, experiments_pb2
from tests.wire.calls import Client, Conversation, blob_of
from tests.world import PLAN, archive_of, payload_of

ARCHIVE = archive_of(PLAN, **{"notes.txt": "ä" * 5000})
WEIGHTS = {"weights": np.arange(4000, dtype=np.float32)}
MODEL = payload_of(WEIGHTS)
MANIFEST = Manifest.of(WEIGHTS).encoded
UPLOAD = experiments_pb2.ModelUpload(payload=blob_of(MODEL), manifest=blob_of(MANIFEST))


def submission(
    *, collaborators: Sequence[str] = ("a", "b"), users: Sequence[str] = (), **more: Any
) -> experiments_pb2.Submission:
    """Announce names, an archive and a model; by default one that is uploaded."""
    fields = {
        "submission_id": "once-and-for-all",
        "name": "experiment",
        "archive": blob_of(ARCHIVE),
        "collaborator_count": len(collaborators),
        "user_count": len(users),
    }
    if "reference" not in more:
        fields["upload"] = UPLOAD
    return experiments_pb2.Submission(**fields | more)


async def announce(
    client: Client,
    *,
    collaborators: Sequence[str] = ("a", "b"),
    users: Sequence[str] = (),
    manifest: Sequence[bytes] = (MANIFEST,),
    **more: Any,
) -> Conversation:
    """Begin to submit: say the submission, the names, each list in one message, and the pieces of the manifest."""
    conversation = client.submit()
    first = submission(collaborators=collaborators, users=users, **more)
    await conversation.say(submission=first)
    if collaborators:
        await conversation.say(collaborators=experiments_pb2.Names(names=collaborators))
    if users:
        await conversation.say(users=experiments_pb2.Names(names=users))
    for index, piece in enumerate(manifest if first.WhichOneof("model") == "upload" else ()):
        await conversation.say(manifest_chunk=common_pb2.Chunk(index=index, data=piece))
    return conversation


async def begin(client: Client, **more: Any) -> tuple[Conversation, Any]:
    """Begin to submit; return the first answer too."""
    conversation = await announce(client, **more)
    return conversation, await conversation.hear()


async def go_on(conversation: Conversation, answer: Any) -> experiments_pb2.Experiment:
    """Send what is wanted, to the end."""
    if answer.HasField("archive_wanted"):
        await conversation.say_chunks(ARCHIVE, answer.archive_wanted)
        answer = await conversation.hear()
    if answer.HasField("model_wanted"):
        await conversation.say_chunks(MODEL, answer.model_wanted)
        answer = await conversation.hear()
    assert answer.HasField("experiment")
    assert await conversation.hear() is None
    return answer.experiment
