"""Sending a submission: what the director wants is sent as it asks, as often as it takes."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from director.client.directors import Directors, Stream
from director.client.payloads import Payload
from director.errors import Corrupt
from director.v1 import experiments_pb2 as pb
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.wire.chunks import blob_info, file_chunks, manifest_message

Orders = SimpleQueue[tuple[Path, int, int] | None]
"""What is to be sent: (file, first chunk, bytes of a chunk); None when all is said."""


def submission(
    name: str,
    *,
    submission_id: str,
    archive: Path,
    model: Payload,
    collaborators: Sequence[str],
    users: Sequence[str],
    priority: int,
) -> pb.Submission:
    """Describe a submission; the bytes are sent when the director asks for them."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return pb.Submission(
        submission_id=submission_id,
        name=name,
        collaborators=collaborators,
        users=users,
        priority=priority,
        archive=blob_info(archive.stat().st_size, digest),
        model=blob_info(model.path.stat().st_size, model.sha256),
        manifest=manifest_message(model.manifest),
    )


def send(directors: Directors, described: pb.Submission, *, archive: Path, model: Path) -> pb.Experiment:
    """Submit, and go on where it stopped when a director falls silent; return what became of it.

    Raises:
        Unavailable: no director took any more of it, for as long as patience lasts; send it again to go on.
        DirectorError: the director's refusal.
    """
    orders: Orders = SimpleQueue()
    reached = (0, -1)  # (part, chunk): an attempt that comes no further than the one before is no progress

    def open_stream(stub: ExperimentServiceStub) -> Stream[pb.SubmitResponse]:
        nonlocal orders
        orders.put(None)
        orders = SimpleQueue()
        return stub.Submit(_requests(described, orders))

    def is_progress(answer: pb.SubmitResponse) -> bool:
        nonlocal reached
        before, reached = reached, max(reached, _position(answer))
        return reached > before

    try:
        for answer in directors.stream(open_stream, is_progress=is_progress):
            match answer.WhichOneof("part"):
                case "archive_wanted":
                    orders.put((archive, answer.archive_wanted.first_index, answer.archive_wanted.chunk_bytes))
                case "model_wanted":
                    orders.put((model, answer.model_wanted.first_index, answer.model_wanted.chunk_bytes))
                case "experiment":
                    return answer.experiment
    finally:
        orders.put(None)
    raise Corrupt("the director ended the submission without an answer; send it again")


def _requests(described: pb.Submission, orders: Orders) -> Iterator[pb.SubmitRequest]:
    """Yield the messages of one attempt; gRPC reads them in a thread of its own, which waits here for orders."""
    yield pb.SubmitRequest(submission=described)
    while (order := orders.get()) is not None:
        for chunk in file_chunks(*order):
            yield pb.SubmitRequest(chunk=chunk)


def _position(answer: pb.SubmitResponse) -> tuple[int, int]:
    """How far a submission has come."""
    match answer.WhichOneof("part"):
        case "archive_wanted":
            return 1, answer.archive_wanted.first_index
        case "model_wanted":
            return 2, answer.model_wanted.first_index
    return 3, 0
