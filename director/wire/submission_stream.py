"""The announcement of a submission: its first message, then its names and its manifest in bounded parts."""

import asyncio
from collections.abc import AsyncIterator

from director.domain.commands import SubmitExperiment
from director.domain.limits import MAX_COLLABORATORS, MAX_USERS
from director.domain.names import LONGEST
from director.errors import InvalidArgument
from director.v1 import experiments_pb2 as pb
from director.wire.chunks import ManifestAssembly
from director.wire.codec import read_content, read_submission
from director.wire.guard import uid_of
from director.wire.request_chunks import next_message


async def next_submission(requests: AsyncIterator[pb.SubmitExperimentRequest]) -> SubmitExperiment:
    """Read all that a submission announces, and nothing of the bytes that it sends when it is asked.

    Raises:
        InvalidArgument: the messages do not come in their order, bring more than was announced, or name no model.
        TooLarge: the manifest is larger than any may be.
        Corrupt: the manifest does not match its digest.
        TensorMismatch: the manifest describes no payload.
        Unavailable: a message did not come in time.
    """
    first = await next_message(requests, "the submission")
    if first.WhichOneof("part") != "submission":
        raise InvalidArgument("the first message of the stream is the submission")
    parts = Announced(first.submission)
    while not parts.complete:
        parts.take(await next_message(requests, "all that the submission announces"))
    return await parts.command()


class Announced:
    """What a submission announces, as its parts arrive."""

    def __init__(self, submission: pb.Submission) -> None:
        """Take the first message."""
        check_count("collaborators", submission.collaborator_count, MAX_COLLABORATORS)
        check_count("users", submission.user_count, MAX_USERS)
        self._submission = submission
        self._collaborators: list[str] = []
        self._users: list[str] = []
        self._manifest: ManifestAssembly | None = None
        match submission.WhichOneof("model"):
            case "upload":
                self._manifest = ManifestAssembly(read_content(submission.upload.manifest))
            case "reference":
                uid_of(submission.reference.experiment_uid)
            case None:
                raise InvalidArgument("the submission names no model: upload one, or refer to one")

    @property
    def complete(self) -> bool:
        """Whether all that was announced has arrived."""
        return (
            len(self._collaborators) >= self._submission.collaborator_count
            and len(self._users) >= self._submission.user_count
            and (self._manifest is None or self._manifest.complete)
        )

    def take(self, message: pb.SubmitExperimentRequest) -> None:
        """Add a part.

        Raises:
            InvalidArgument: it was not announced.
            Corrupt: it is not the next chunk of the manifest.
        """
        match message.WhichOneof("part"):
            case "collaborators":
                add("collaborators", self._collaborators, message.collaborators, self._submission.collaborator_count)
            case "users":
                add("users", self._users, message.users, self._submission.user_count)
            case "manifest_chunk" if self._manifest is not None:
                self._manifest.take(message.manifest_chunk)
            case _:
                raise InvalidArgument("the submission is followed by the names and the manifest that it announces")

    async def command(self) -> SubmitExperiment:
        """Return the command; a large manifest is decoded in a thread."""
        manifest = None if self._manifest is None else await asyncio.to_thread(self._manifest.manifest)
        return read_submission(
            self._submission, collaborators=self._collaborators, users=self._users, manifest=manifest
        )


def check_count(what: str, count: int, limit: int) -> None:
    """Refuse a number of names that no experiment may have.

    Raises:
        InvalidArgument: it is negative, or above the limit.
    """
    if not 0 <= count <= limit:
        raise InvalidArgument(f"{count} {what} are announced; an experiment has at most {limit}")


def add(what: str, names: list[str], more: pb.Names, announced: int) -> None:
    """Add names.

    Raises:
        InvalidArgument: they are more than were announced, or there is none among them, or one is too long.
    """
    if not more.names or len(names) + len(more.names) > announced:
        raise InvalidArgument(f"the parts bring other {what} than the {announced} that were announced")
    if any(len(name) > LONGEST for name in more.names):  # they are held until all have arrived
        raise InvalidArgument(f"a name among the {what} has more than {LONGEST} characters")
    names.extend(more.names)
