"""Sending a submission: what it announces first, then what the director asks for, as often as it takes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from director.client.directors import Directors, Services, Stream
from director.domain.commands import ModelUpload, SubmitExperiment
from director.domain.names import check_experiment_name, check_name, check_submission_id
from director.errors import Corrupt
from director.v1 import experiments_pb2 as pb
from director.wire import codec
from director.wire.chunks import file_chunks, manifest_chunks

NAMES_BYTES = 64 * 1024
"""The largest message with names."""
NAMES_OVERHEAD = 16
"""Bytes of a message with names that are not its names', at most."""
NAME_OVERHEAD = 4
"""Bytes around each name, at most: its field's tag, and its length."""

Orders = SimpleQueue[tuple[Path, int, int] | None]
"""What is to be sent: (file, first chunk, bytes of a chunk); None ends the stream."""


def check(command: SubmitExperiment) -> None:
    """Refuse at once what the director would refuse, and what no message could carry.

    Raises:
        InvalidArgument: a name or the submission id is not as it should be.
    """
    check_submission_id(command.submission_id)
    check_experiment_name(command.name)
    for envoy in command.collaborators:
        check_name("a collaborator's name", envoy)
    for user in command.users:
        check_name("a user's name", user)


def send(directors: Directors, command: SubmitExperiment, *, archive: Path, model: Path) -> pb.Experiment:
    """Submit, and go on where it stopped when a director falls silent; return what became of it.

    `model` is the file with the payload; it is not opened when the command refers to a model of the director.

    Raises:
        Later: no director took any more of it, for as long as patience lasts; send it again to go on.
        DirectorError: the director's refusal.
    """
    orders: Orders = SimpleQueue()
    reached = (0, -1)  # (part, chunk): an attempt that comes no further than the previous one is no progress

    def open_stream(services: Services) -> Stream[pb.SubmitExperimentResponse]:
        nonlocal orders
        orders.put(None)
        orders = SimpleQueue()
        return services.experiments.SubmitExperiment(requests(command, orders))

    def is_progress(answer: pb.SubmitExperimentResponse) -> bool:
        nonlocal reached
        before, reached = reached, max(reached, position(answer))
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


def requests(command: SubmitExperiment, orders: Orders) -> Iterator[pb.SubmitExperimentRequest]:
    """Yield the messages of one attempt; gRPC reads them in a thread of its own, which waits here for orders."""
    yield pb.SubmitExperimentRequest(submission=codec.write_submission(command))
    for names in bounded(command.collaborators):
        yield pb.SubmitExperimentRequest(collaborators=pb.Names(names=names))
    for names in bounded(command.users):
        yield pb.SubmitExperimentRequest(users=pb.Names(names=names))
    if isinstance(command.model, ModelUpload):
        for chunk in manifest_chunks(command.model.manifest):
            yield pb.SubmitExperimentRequest(manifest_chunk=chunk)
    while (order := orders.get()) is not None:
        for chunk in file_chunks(*order):
            yield pb.SubmitExperimentRequest(chunk=chunk)


def bounded(names: Sequence[str]) -> Iterator[list[str]]:
    """Cut a list of names into parts that fit into one message each."""
    part: list[str] = []
    size = NAMES_OVERHEAD
    for name in names:
        needed = len(name.encode()) + NAME_OVERHEAD
        if part and size + needed > NAMES_BYTES:
            yield part
            part, size = [], NAMES_OVERHEAD
        part.append(name)
        size += needed
    if part:
        yield part


def position(answer: pb.SubmitExperimentResponse) -> tuple[int, int]:
    """Return how far a submission has come."""
    match answer.WhichOneof("part"):
        case "archive_wanted":
            return 1, answer.archive_wanted.first_index
        case "model_wanted":
            return 2, answer.model_wanted.first_index
    return 3, 0
