"""Bad input: one clear error, and the database as it was before."""

import io
import stat
import zipfile
from typing import Any

import numpy as np
import pytest

from director.domain.commands import Contribute, ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.tensor_info import TensorInfo
from director.domain.tensors import Manifest
from director.errors import (
    AlreadyExists,
    Corrupt,
    DirectorError,
    Forbidden,
    InvalidArgument,
    InvalidPlan,
    NotFound,
    RoundClosed,
    StaleAttempt,
    TensorMismatch,
    TooLarge,
)
from director.services.runtime import Caller
from director.services.submissions import Submitting
from director.store.leases import Fence
from director.store.stash import Upload
from tests.tables import blob_rows
from tests.tables.everything import contents, contents_but_events
from tests.world import MODEL, PLAN, RESEARCHER, World, archive_of, chunks_of, content_of, payload_of, world


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan/plan.yaml", PLAN)
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("shadow")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


ARCHIVES = {
    "empty": (b"", "empty"),
    "not a zip file": (b"this is no zip file, but it is long enough to be looked at" * 3, "not a zip file"),
    "truncated": (archive_of()[:-30], "not a zip file, or was cut off"),
    "no plan": (io.BytesIO(b"PK\5\6" + bytes(18)).getvalue(), "no plan/plan.yaml"),
    "leads out": (zipped(("../evil.py", b"")), "leads out"),
    "absolute": (zipped(("/etc/evil", b"")), "absolute"),
    "link": (zipped((link(), b"/etc/passwd")), "link"),
    "bomb": (zipped(("bomb", bytes(64 << 20))), "zip bomb"),
}

LARGER = {"weights": np.ones(9, np.float32)}
"""An update with one number more than the model."""

PLANS = {
    "not YAML": ("rounds: [", "not YAML"),
    "not a mapping": ("- rounds", "mapping"),
    "aliases": ("rounds: &r 3\ntasks: *r\n", "alias"),
    "a key twice": (PLAN + "rounds: 3\n", "occurs twice"),
    "unknown key": (PLAN + "epochs: 3\n", "epochs"),
    "zero rounds": (PLAN.replace("rounds: 2", "rounds: 0"), "rounds"),
    "unknown rule": (PLAN + "aggregation: {rule: majority}\n", "weighted_average"),
    "no such collaborator": (PLAN + "required_collaborators: [c]\n", "'?c'?"),
    "too many needed": (PLAN + "min_collaborators: 3\n", "min_collaborators"),
    "not text": ("\udcff", "UTF-8"),
}


@pytest.mark.parametrize(("archive", "message"), ARCHIVES.values(), ids=ARCHIVES)
async def test_bad_archive_is_refused(federation: World, archive: bytes, message: str) -> None:
    await federation.register("a", "b")
    before = await contents(federation.db)

    with pytest.raises(InvalidArgument, match=message):
        await federation.submit(archive=archive)

    assert await contents(federation.db) == before
    assert await blob_rows.uploads_left(federation.db) == []


@pytest.mark.parametrize(("plan", "message"), PLANS.values(), ids=PLANS)
async def test_bad_plan_is_refused(federation: World, plan: str, message: str) -> None:
    await federation.register("a", "b")
    before = await contents(federation.db)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("plan/plan.yaml", plan.encode("utf-8", "surrogateescape"))

    with pytest.raises(InvalidPlan, match=message):
        await federation.submit(archive=buffer.getvalue())

    assert await contents(federation.db) == before
    assert await blob_rows.uploads_left(federation.db) == []


async def test_refused_archive_can_be_sent_again_mended(federation: World) -> None:
    await federation.register("a", "b")
    with pytest.raises(InvalidPlan):
        await federation.submit(plan=PLAN + "epochs: 3\n")

    view = await federation.submit()

    assert view.name == "experiment"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": "a/b"}, InvalidArgument, "slash"),
        ({"name": "x" * 256}, InvalidArgument, "256 characters"),
        ({"name": ""}, InvalidArgument, "empty"),
        ({"envoys": ()}, InvalidArgument, "at least one"),
        ({"envoys": ("a", "nobody")}, InvalidArgument, "'nobody'"),
        ({"envoys": ("a", "a")}, InvalidArgument, "twice"),
        ({"submission_id": "short"}, InvalidArgument, "8 to 64"),
        ({"priority": 1}, Forbidden, "operators"),
        ({"priority": -101}, InvalidArgument, "between"),
        ({"users": ["x/y"]}, InvalidArgument, "slash"),
        ({"model": {"weights": np.array([np.inf], np.float32)}}, TensorMismatch, "'weights' holds NaN or infinity"),
    ],
)
async def test_bad_submission_is_refused(
    federation: World, changes: dict[str, Any], error: type[DirectorError], message: str
) -> None:
    await federation.register("a", "b")
    before = await contents(federation.db)

    with pytest.raises(error, match=message):
        await federation.submit(**changes)

    assert await contents(federation.db) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "two"},
        {"envoys": ("a",)},
        {"plan": PLAN + "min_collaborators: 1\n"},
        {"model": {"weights": np.full(8, 0.5, np.float32)}},
        {"model": {"other": np.zeros(8, np.float32)}},
    ],
    ids=["another name", "other envoys", "another plan", "another model", "another manifest"],
)
async def test_submission_id_stands_for_one_content(federation: World, changes: dict[str, Any]) -> None:
    await federation.register("a", "b")
    await federation.submit("one", submission_id="submission")

    with pytest.raises(AlreadyExists, match="another content"):
        await federation.submit(**({"name": "one", "submission_id": "submission"} | changes))


async def test_too_large_an_upload_is_refused_before_it_is_sent(migrated_url: str) -> None:
    async with world(migrated_url, max_archive_bytes=100, max_model_bytes=100) as federation:
        await federation.register("a", "b")

        with pytest.raises(TooLarge, match="archive"):
            await federation.submit()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "at least one tensor"),
        ([("w", "F32", (2,)), ("w", "F32", (2,))], "twice"),
        ([("w", "F31", (2,))], "F31"),
        ([("w", "F32", (-1,))], "negative"),
        ([("a", "F32", (1,)), ("b", "F64", (1,))], "wider dtypes first"),
    ],
)
def test_impossible_model_cannot_be_described(tensors: list[tuple[str, str, tuple[int, ...]]], message: str) -> None:
    with pytest.raises(TensorMismatch, match=message):
        Manifest(tuple(TensorInfo(*tensor) for tensor in tensors))


async def test_model_of_another_size_than_its_manifest_is_refused(federation: World) -> None:
    await federation.register("a", "b")
    payload = payload_of(MODEL)

    with pytest.raises(InvalidArgument, match="its manifest says"):
        await begin(federation, payload + b"more")


async def begin(federation: World, payload: bytes) -> Submitting:
    command = SubmitExperiment(
        submission_id="submission",
        name="experiment",
        collaborators=["a", "b"],
        archive=content_of(archive_of()),
        model=ModelUpload(content_of(payload), Manifest.of(MODEL)),
    )
    begun = await federation.process.submissions.begin(command, RESEARCHER)
    assert isinstance(begun, Submitting)
    return begun


async def test_bytes_that_are_not_those_announced_are_refused(federation: World) -> None:
    await federation.register("a", "b")
    submitting = await begin(federation, payload_of(MODEL))
    submissions = federation.process.submissions
    other = bytes(len(archive_of()))

    with pytest.raises(Corrupt, match="do not match"):
        await submissions.receive_archive(submitting, chunks_of(other, submitting.archive))

    assert len(await blob_rows.uploads_left(federation.db)) == 1  # the model's, which is to come


async def working(federation: World, plan: str = PLAN) -> tuple[dict[str, Engagement], Fence]:
    """Start an experiment whose first round collects, and give it to its envoys."""
    await federation.register("a", "b", "c")
    await federation.submit(plan=plan)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    await federation.work(given["a"], "a")
    return given, fence


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "test"}, InvalidArgument, "not a task"),
        ({"samples": 0}, InvalidArgument, "at least 1"),
        ({"samples": -5}, InvalidArgument, "at least 1"),
        ({"round_number": 2}, RoundClosed, "not asked in round 2"),
        ({"round_number": 0}, RoundClosed, "not asked in round 0"),
        ({"attempt": 7}, StaleAttempt, "attempt 7"),
        ({"envoy": "c"}, NotFound, "does not take part"),
        ({"experiment_uid": "0" * 32}, NotFound, "no experiment"),
        ({"update": LARGER}, TensorMismatch, "its manifest has the SHA-256"),
        ({"update": {"bias": np.ones(8, np.float32)}}, TensorMismatch, "its manifest has the SHA-256"),
        ({"update": {"weights": np.ones(8, np.int32)}}, TensorMismatch, "its manifest has the SHA-256"),
        ({"manifest_digest": ""}, TensorMismatch, "has the SHA-256 of nothing"),
        ({"update": LARGER, "manifest_digest": Manifest.of(MODEL).digest}, TensorMismatch, "has 36 bytes"),
        ({"update": {"weights": np.full(8, np.nan, np.float32)}}, TensorMismatch, "NaN"),
        ({"update": None}, InvalidArgument, "hands in an update"),
        ({"task": "validate"}, InvalidArgument, "no update"),
        ({"metrics": {"a/b": 1.0}}, InvalidArgument, "slash"),
    ],
)
async def test_bad_contribution_is_refused(
    federation: World, changes: dict[str, Any], error: type[DirectorError], message: str
) -> None:
    given, _ = await working(federation)
    before = await contents(federation.db)
    update = changes.get("update", {"weights": np.ones(8, np.float32)})
    payload = None if update is None else payload_of(update)
    wanted: dict[str, Any] = {
        "experiment_uid": given["a"].experiment_uid,
        "envoy": "a",
        "attempt": 1,
        "round_number": 1,
        "task": "train",
        "samples": 10,
        "update": None if payload is None else content_of(payload),
        "manifest_digest": "" if update is None else Manifest.of(update).digest,
    }
    command = Contribute(**(wanted | {key: value for key, value in changes.items() if key != "update"}))

    with pytest.raises(error, match=message):
        begun = await federation.process.rounds.begin_contribution(command)
        assert isinstance(begun, Upload)
        assert payload is not None
        await federation.process.rounds.receive_update(command, begun, chunks_of(payload, begun))

    assert await contents(federation.db) == before
    assert await blob_rows.uploads_left(federation.db) == []


def contribution(given: Engagement, update: Content) -> Contribute:
    """Return the announcement of an update that is laid out as the model."""
    manifest = Manifest.of(MODEL).digest
    return Contribute(given.experiment_uid, "a", given.attempt, 1, "train", 10, {}, update, manifest)


async def test_late_result_is_answered_so_and_recorded_and_counts_nowhere(federation: World) -> None:
    given, fence = await working(federation, PLAN + "percentage: 0.5\n")
    await federation.finish_round({"a": given["a"]})
    await federation.drive(fence)
    before = await contents_but_events(federation.db)

    with pytest.raises(RoundClosed, match="LATE: round 1 is closed"):
        await federation.contribute(given["b"], "b", "validate", round_number=1)

    assert await contents_but_events(federation.db) == before
    pages = federation.process.streams.events("experiment", RESEARCHER)
    assert [event.kind async for page in pages for event in page][-1] == "contribution_late"


async def test_resumed_upload_goes_on_at_the_first_missing_chunk(federation: World) -> None:
    given, _ = await working(federation)
    rounds = federation.process.rounds
    update = {"weights": np.ones(8, np.float32)}
    payload = payload_of(update)
    command = contribution(given["a"], content_of(payload))

    one, two = await rounds.begin_contribution(command), await rounds.begin_contribution(command)
    assert isinstance(one, Upload)
    assert one == two
    await rounds.receive_update(command, one, chunks_of(payload, one))
    again = await rounds.begin_contribution(command)

    assert isinstance(again, Upload)
    assert again.missing is None
    stored = await rounds.contribute(command)
    assert await rounds.contribute(command) == stored
    assert await rounds.begin_contribution(command) == stored


async def test_chunk_out_of_order_or_of_a_wrong_length_is_refused(federation: World) -> None:
    given, _ = await working(federation)
    rounds = federation.process.rounds
    update = {"weights": np.ones(8, np.float32)}
    payload = payload_of(update)
    command = contribution(given["a"], content_of(payload))
    begun = await rounds.begin_contribution(command)
    assert isinstance(begun, Upload)

    async def send(*chunks: tuple[int, bytes]) -> None:
        async def stream() -> Any:
            for chunk in chunks:
                yield chunk

        await rounds.receive_update(command, begun, stream())

    with pytest.raises(InvalidArgument, match="chunk 1"):
        await send((1, payload))
    with pytest.raises(InvalidArgument, match="31 bytes"):
        await send((0, payload[:-1]))
    with pytest.raises(InvalidArgument, match="ended before"):
        await send()
    await send((0, payload))


async def test_user_to_whom_an_experiment_is_shown_cannot_change_it(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit(users=["colleague"])
    experiments, colleague, stranger = federation.process.experiments, Caller("colleague"), Caller("stranger")

    assert (await experiments.get("experiment", colleague)).owner == "researcher"
    for change in (experiments.cancel, experiments.remove):
        with pytest.raises(Forbidden, match="only its owner"):
            await change("experiment", colleague)
        with pytest.raises(NotFound):
            await change("experiment", stranger)
    with pytest.raises(Forbidden, match="operators"):
        await experiments.review("experiment", RESEARCHER, approve=True)


@pytest.mark.parametrize("token", ["nonsense", "YmVmb3JlOng=", "é"])
async def test_page_token_that_was_not_given_out_is_refused(federation: World, token: str) -> None:
    with pytest.raises(InvalidArgument, match="page token"):
        await federation.process.experiments.listed(RESEARCHER, page_token=token)


async def test_failure_reported_by_an_older_attempt_is_refused(federation: World) -> None:
    given, _ = await working(federation)
    await federation.wait("a")

    with pytest.raises(StaleAttempt):
        await federation.process.envoys.report_failure(
            "a", given["a"].experiment_uid, attempt=1, failure=Failure("old")
        )


async def test_model_asked_for_by_an_older_attempt_is_refused(federation: World) -> None:
    given, _ = await working(federation)
    again = await federation.wait("a")
    uid = again.experiment_uid

    with pytest.raises(StaleAttempt):
        await federation.process.rounds.model(uid, "a", given["a"].attempt, 0)

    assert await federation.process.rounds.model(uid, "a", again.attempt, 0)
