"""A submission in messages that stay small, sent again from where it broke off."""

import hashlib
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from director.client import Federation, ModelReference
from director.client.directors import Directors
from director.client.sending import NAMES_BYTES, bounded, requests, send
from director.domain.commands import ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.tensor_info import TensorInfo
from director.domain.tensors import Manifest
from director.errors import DiskFull, InvalidArgument, Unavailable
from director.v1 import common_pb2
from director.v1 import experiments_pb2 as pb
from director.wire.channels import MAX_MESSAGE_BYTES
from director.wire.chunks import MANIFEST_CHUNK_BYTES
from tests.unit.client.fake_director import UID, FakeDirector, an_experiment, later

ARCHIVE = b"0123456789"
CHUNK_BYTES = 4
SMALL = Manifest([TensorInfo("w", "F32", (1,))])


def content(data: bytes) -> Content:
    return Content(len(data), hashlib.sha256(data).hexdigest())


def command(**more: Any) -> SubmitExperiment:
    given = {"model": ModelReference(UID, 3), "collaborators": ["a"], "archive": content(ARCHIVE)} | more
    return SubmitExperiment(submission_id="submission-1", name="digits", **given)


def wanted(part: str, first_index: int) -> pb.SubmitExperimentResponse:
    upload = common_pb2.UploadWanted(first_index=first_index, chunk_bytes=CHUNK_BYTES)
    return pb.SubmitExperimentResponse(**{f"{part}_wanted": upload})


class Receiver:
    """Receives submissions as a director does, and keeps their messages by kind."""

    def __init__(self, *, break_after: int | None = None) -> None:
        """Break off the first attempt when it has so many chunks of the archive."""
        self.kept: dict[str, list[pb.SubmitExperimentRequest]] = {}
        self._break_after = break_after

    def __call__(self, requests: Iterator[pb.SubmitExperimentRequest]) -> Iterator[Any]:
        submission = self._next(requests).submission
        self._read_names(requests, submission)
        if submission.HasField("upload"):
            self.manifest = b""
            while len(self.manifest) < submission.upload.manifest.size_bytes:
                self.manifest += self._next(requests).manifest_chunk.data
        held = len(self.kept.get("chunk", []))
        yield wanted("archive", held)
        for index in range(held, -(-submission.archive.size_bytes // CHUNK_BYTES)):
            if index == self._break_after:
                self._break_after = None
                yield later(Unavailable)
            self._next(requests)
        if submission.HasField("upload"):
            yield wanted("model", 0)
            for _ in range(-(-submission.upload.payload.size_bytes // CHUNK_BYTES)):
                self._next(requests)
        yield pb.SubmitExperimentResponse(experiment=an_experiment())

    def _read_names(self, requests: Iterator[pb.SubmitExperimentRequest], submission: pb.Submission) -> None:
        self.names: dict[str, list[str]] = {"collaborators": [], "users": []}
        for kind, count in (
            ("collaborators", submission.collaborator_count),
            ("users", submission.user_count),
        ):
            while len(self.names[kind]) < count:
                self.names[kind].extend(getattr(self._next(requests), kind).names)

    def _next(self, requests: Iterator[pb.SubmitExperimentRequest]) -> pb.SubmitExperimentRequest:
        message = next(requests)
        self.kept.setdefault(message.WhichOneof("part") or "", []).append(message)
        return message

    def data(self) -> bytes:
        """Return the bytes of all chunks."""
        return b"".join(each.chunk.data for each in self.kept["chunk"])


@pytest.fixture
def files(tmp_path):
    """The archive, and where a payload would be."""
    (tmp_path / "archive.zip").write_bytes(ARCHIVE)
    return {"archive": tmp_path / "archive.zip", "model": tmp_path / "model"}


@pytest.fixture
def workspace(tmp_path):
    """A workspace."""
    (tmp_path / "workspace" / "plan").mkdir(parents=True)
    (tmp_path / "workspace" / "plan" / "plan.yaml").write_text("rounds: 1\n")
    return tmp_path / "workspace"


def submit(director: FakeDirector, given: SubmitExperiment, files: Any, *, patience: float = 5) -> pb.Experiment:
    directors = Directors(director.address, tls=None, client_id="ada", patience=patience)
    try:
        return send(directors, given, **files)
    finally:
        directors.close()


def test_names_cross_in_messages_of_a_bounded_size(director, files):
    receiver = director.answers["SubmitExperiment"] = Receiver()
    collaborators = [f"{number:05}" + "\N{GRINNING FACE}" * 250 for number in range(5000)]
    users = [f"{number:03}" + "ä" * 252 for number in range(1000)]

    assert submit(director, command(collaborators=collaborators, users=users), files).uid == UID

    assert receiver.names == {"collaborators": collaborators, "users": users}
    messages = [message for kind in receiver.kept.values() for message in kind]
    assert max(message.ByteSize() for message in messages) <= NAMES_BYTES
    assert len(messages) < 120


@pytest.mark.parametrize("length", [1, 8, 127, 128, 255])
def test_part_of_names_is_filled_up_to_its_limit(length):
    parts = [pb.Names(names=part) for part in bounded(["x" * length] * 70_000)]

    sizes = [pb.SubmitExperimentRequest(collaborators=part).ByteSize() for part in parts]
    assert max(sizes) <= NAMES_BYTES
    assert sum(len(part.names) for part in parts) == 70_000
    assert len(parts) <= 1 + 70_000 * (length + 4) // (NAMES_BYTES - 1000)


def test_manifest_of_100_000_tensors_crosses_in_chunks_before_the_payload(director, files):
    manifest = Manifest([TensorInfo(f"layer-{number:06}/{'x' * 40}", "U8", ()) for number in range(100_000)])
    payload = np.arange(100_000, dtype=np.uint8).tobytes()
    files["model"].write_bytes(payload)
    director.answers["SubmitExperiment"] = receiver = Receiver()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.client.test_sending.CHUNK_BYTES", 50_000)
        submit(director, command(model=ModelUpload(content(payload), manifest)), files)

    assert receiver.manifest == manifest.encoded
    assert receiver.data() == ARCHIVE + payload
    pieces = receiver.kept["manifest_chunk"]
    assert len(pieces) == -(-len(manifest.encoded) // MANIFEST_CHUNK_BYTES)
    assert max(piece.ByteSize() for piece in pieces) < MAX_MESSAGE_BYTES
    assert receiver.kept["submission"][0].ByteSize() < 1000


def test_submission_that_refers_to_a_model_uploads_none(director, files):
    receiver = director.answers["SubmitExperiment"] = Receiver()

    submit(director, command(), files)

    [message] = receiver.kept["submission"]
    assert message.submission.reference == pb.ModelReference(experiment_uid=UID, number=3)
    assert set(receiver.kept) == {"submission", "collaborators", "chunk"}
    assert receiver.data() == ARCHIVE


def test_submission_that_broke_off_announces_everything_again_and_goes_on_at_the_missing_chunk(director, files):
    receiver = director.answers["SubmitExperiment"] = Receiver(break_after=2)
    files["model"].write_bytes(bytes(4))

    submit(director, command(model=ModelUpload(content(bytes(4)), SMALL)), files)

    assert [len(receiver.kept[kind]) for kind in ("submission", "collaborators", "manifest_chunk")] == [2, 2, 2]
    assert receiver.data() == ARCHIVE + bytes(4)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"collaborators": ["a", "b/c"]}, "collaborator's name 'b/c' holds a slash"),
        ({"users": ["half \ud800"]}, "user's name"),
        ({"collaborators": ["x" * 256]}, "at most 255"),
        ({"name": UID}, "looks like a uid"),
        ({"submission_id": "short"}, "submission id"),
    ],
)
def test_name_that_nothing_can_have_is_refused_before_anything_is_sent(
    federation, director, workspace, given, complaint
):
    whole = {"name": "digits", "collaborators": ["a"]} | given

    with pytest.raises(InvalidArgument, match=complaint):
        federation.submit(**whole, workspace=workspace, model=ModelReference(UID, 0))

    assert director.asked == []


@pytest.mark.parametrize("error", [DiskFull("no room"), Unavailable("away")])
def test_submission_that_no_director_takes_in_time_says_how_to_go_on(director, workspace, error):
    director.answers["SubmitExperiment"] = error

    with (
        Federation(director.address, client_id="ada", patience=0) as federation,
        pytest.raises(type(error), match="go on by submitting it again with submission id chosen-before"),
    ):
        federation.submit(
            "digits",
            workspace=workspace,
            model={"w": np.zeros(1)},
            collaborators=["a"],
            submission_id="chosen-before",
        )


@pytest.fixture
def waiting(monkeypatch):
    """Says when the thread that sends a submission waits for orders."""
    event = threading.Event()

    class Watched(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            event.set()
            return super().get(block, timeout)

    monkeypatch.setattr("director.client.sending.SimpleQueue", Watched)
    return event


def test_refused_submission_leaves_no_thread_behind_that_waits_for_orders(director, files, monkeypatch, waiting):
    ended = threading.Event()

    def watched(*given: Any) -> Iterator[pb.SubmitExperimentRequest]:
        yield from requests(*given)
        ended.set()

    def refuse(_: Any) -> Iterator[Any]:
        assert waiting.wait(5)
        yield InvalidArgument("no plan")

    monkeypatch.setattr("director.client.sending.requests", watched)
    director.answers["SubmitExperiment"] = refuse

    with pytest.raises(InvalidArgument, match="no plan"):
        submit(director, command(), files)

    assert ended.wait(5)


def test_thread_of_an_attempt_that_broke_off_takes_no_orders_of_the_next_one(director, files, waiting):
    def break_off(_: Any) -> Iterator[Any]:
        assert waiting.wait(5)
        yield later(Unavailable)

    receiver = director.answers["SubmitExperiment"] = Receiver()
    director.turns["SubmitExperiment"] = [break_off]
    sending = threading.Thread(target=submit, args=(director, command(), files), daemon=True)

    sending.start()
    sending.join(10)

    assert not sending.is_alive()
    assert receiver.data() == ARCHIVE


def test_attempts_that_come_no_further_than_the_previous_one_end_with_patience(director, files):
    director.answers["SubmitExperiment"] = InvalidArgument("this went on for ever")
    director.turns["SubmitExperiment"] = [[wanted("archive", 0), later(Unavailable)] for _ in range(100)]

    with pytest.raises(Unavailable, match=r"within 0\.5 s"):
        submit(director, command(), files, patience=0.5)
