"""Submissions: resumed where they stopped, made an experiment once, and read from what is stored."""

import asyncio
import os
from collections.abc import AsyncIterator

import numpy as np
import pytest

from director.domain.commands import ModelUpload, SubmitExperiment
from director.domain.tensors import Manifest
from director.domain.types import ExperimentState
from director.errors import AlreadyExists, Corrupt, InvalidArgument, InvalidPlan, TensorMismatch, Unavailable
from director.services import uploads
from director.services.submissions import Submitting, upload_key
from director.services.uploads import Chunks
from director.store import experiments, stash
from director.store.engine.database import Transaction
from director.store.stash import Upload
from tests.services.words import OPERATOR, state_of
from tests.store.words import only_postgresql
from tests.tables import blob_rows, event_rows, experiment_rows
from tests.tables.everything import bytes_held, contents
from tests.world import MODEL, PLAN, RESEARCHER, World, archive_of, chunks_of, content_of, payload_of

LARGE = archive_of(**{"data.bin": os.urandom(12_000).hex()})
"""An archive of several chunks."""


async def begin(
    federation: World, archive: bytes = LARGE, model: bytes | None = None, manifest: Manifest | None = None
) -> Submitting:
    """Begin a submission whose bytes are still to come."""
    payload = payload_of(MODEL) if model is None else model
    command = SubmitExperiment(
        submission_id="submission",
        name="experiment",
        collaborators=["a", "b"],
        archive=content_of(archive),
        model=ModelUpload(content_of(payload), manifest or Manifest.of(MODEL)),
    )
    begun = await federation.process.submissions.begin(command, RESEARCHER)
    assert isinstance(begun, Submitting)
    return begun


async def send_archive(federation: World, begun: Submitting, archive: bytes = LARGE) -> Upload:
    """Send what is missing of the archive."""
    await federation.process.submissions.receive_archive(begun, chunks_of(archive, begun.archive))
    return begun.archive


async def send_model(federation: World, begun: Submitting, model: bytes | None = None) -> None:
    """Send what is missing of the model."""
    payload = payload_of(MODEL) if model is None else model
    await federation.process.submissions.receive_model(begun, chunks_of(payload, begun.model))


async def broken_off(chunks: Chunks, after: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield so many chunks; then the connection is gone."""
    for _ in range(after):
        yield await anext(chunks)
    raise ConnectionError("gone")


async def test_submission_goes_on_where_it_was_broken_off(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    upload = begun.archive
    with pytest.raises(ConnectionError):
        await federation.process.submissions.receive_archive(begun, broken_off(chunks_of(LARGE, upload), 3))

    again = await begin(federation)
    resumed = await send_archive(federation, again)
    await send_model(federation, again)
    accepted = await federation.process.submissions.accept(again)

    assert (resumed.blob_id, resumed.missing) == (upload.blob_id, 3)
    assert accepted.rounds_total == 2
    assert await experiment_rows.archive_digests(federation.db) == [content_of(LARGE).digest]


async def test_same_submission_sent_over_several_connections_at_once_is_one_experiment(federation: World) -> None:
    await federation.register("a", "b")

    async def submit() -> int:
        while True:
            try:
                return (await federation.submit(archive=LARGE, submission_id="submission")).id
            except Unavailable:  # another connection was at it in this very moment: repeat the same call
                continue

    found = await asyncio.gather(*(submit() for _ in range(4)))

    assert found == [1] * 4
    assert await experiment_rows.names(federation.db) == ["experiment"]
    assert [event.kind for event in await event_rows.of(federation.db, 1)] == ["experiment_submitted"]


async def test_name_taken_while_the_bytes_were_coming_is_refused_and_they_are_given_up(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    await send_archive(federation, begun)
    await send_model(federation, begun)
    await federation.submit(submission_id="another-one")
    before = await contents(federation.db)

    with pytest.raises(AlreadyExists, match="pick another name"):
        await federation.process.submissions.accept(begun)

    assert await contents(federation.db) == before
    assert await blob_rows.uploads_left(federation.db) == []


async def test_submission_accepted_twice_is_one_experiment(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    await send_archive(federation, begun)
    await send_model(federation, begun)

    first = await federation.process.submissions.accept(begun)
    second = await federation.process.submissions.accept(begun)

    assert first == second


@only_postgresql
async def test_submission_repeated_in_the_moment_in_which_it_is_accepted_is_the_same_experiment(
    federation: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    await send_archive(federation, begun)
    await send_model(federation, begun)
    name_taken = experiments.name_taken
    accepted = []

    async def at_this_moment(tx: Transaction, name: str) -> bool:
        accepted.append(await federation.process.submissions.accept(begun))
        return await name_taken(tx, name)

    monkeypatch.setattr(experiments, "name_taken", at_this_moment)
    repeated = await federation.process.submissions.begin(begun.command, RESEARCHER)

    assert accepted == [repeated]


async def test_bytes_that_came_too_late_for_their_own_experiment_are_given_up(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    await federation.submit(archive=LARGE, submission_id="submission")
    async with federation.db.write("as if begun in the same moment") as tx:
        for part, content in (("archive", begun.command.archive), ("model", begun.initial.content)):
            await stash.begin(tx, upload_key(begun.key, part), content, chunk_bytes=1 << 20)
    begun.plan = (await federation.submit(archive=LARGE, submission_id="submission")).plan

    accepted = await federation.process.submissions.accept(begun)

    assert accepted.name == "experiment"
    assert await blob_rows.uploads_left(federation.db) == []


async def test_submission_whose_bytes_were_swept_is_to_be_sent_again(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    await send_archive(federation, begun)
    before = await contents(federation.db)

    with pytest.raises(Unavailable, match="send it again"):
        await federation.process.submissions.accept(begun)

    assert await contents(federation.db) == before


async def test_plan_is_that_of_the_stored_archive_whatever_another_connection_sends(federation: World) -> None:
    await federation.register("a", "b")
    other = archive_of(PLAN.replace("rounds: 2", "rounds: 9"), **{"data.bin": "0" * 24_000})
    other = other[: len(LARGE)].ljust(len(LARGE), b"\0")
    honest, cunning = await begin(federation), await begin(federation)
    await send_archive(federation, honest)

    await federation.process.submissions.receive_archive(cunning, chunks_of(other, cunning.archive))
    await send_model(federation, cunning)
    accepted = await federation.process.submissions.accept(cunning)

    assert accepted.rounds_total == 2


async def test_model_is_checked_again_when_it_is_said_to_hold_something_else(federation: World) -> None:
    await federation.register("a", "b")
    payload = np.full(8, np.nan, np.float32).tobytes()
    whole = Manifest.of({"weights": np.zeros(8, np.int32)})
    begun = await begin(federation, model=payload, manifest=whole)
    await send_archive(federation, begun)
    await send_model(federation, begun, payload)

    again = await begin(federation, model=payload)
    await send_archive(federation, again)
    with pytest.raises(TensorMismatch, match="'weights' holds NaN or infinity"):
        await send_model(federation, again, payload)

    assert await experiment_rows.names(federation.db) == []


async def test_archive_that_is_not_the_one_announced_is_given_up_and_can_be_sent_again(federation: World) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    upload = begun.archive
    with pytest.raises(Corrupt):
        await federation.process.submissions.receive_archive(begun, chunks_of(bytes(len(LARGE)), upload))

    again = await send_archive(federation, await begin(federation))

    assert again.blob_id != upload.blob_id
    await federation.process.periodic_jobs.sweep()
    assert await blob_rows.ids(federation.db) == [begun.model.blob_id, again.blob_id]


async def test_refused_submission_leaves_nothing_once_it_is_swept(federation: World) -> None:
    await federation.register("a", "b")

    with pytest.raises(InvalidPlan):
        await federation.submit(plan=PLAN + "epochs: 3\n")
    await federation.process.periodic_jobs.sweep()

    assert await bytes_held(federation.db) == []
    assert await experiment_rows.ids(federation.db) == []


async def test_silent_client_does_not_hold_memory_that_others_wait_for(
    federation: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_SECONDS", 0.05)
    await federation.register("a", "b")
    begun = await begin(federation)

    async def silence() -> AsyncIterator[tuple[int, bytes]]:
        await asyncio.sleep(30)
        yield 0, b""

    with pytest.raises(Unavailable, match="no chunk came"):
        await federation.process.submissions.receive_archive(begun, silence())

    budget = federation.process.runtime.budget
    async with asyncio.timeout(1), budget.hold(budget.total_bytes):
        assert (await begin(federation)).archive.missing == 0


async def test_operators_submission_with_a_priority_starts_first(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit("first")
    await federation.submit("urgent", caller=OPERATOR, priority=1)

    await federation.admit()

    assert await state_of(federation, "urgent") is ExperimentState.IN_PROGRESS
    assert await state_of(federation, "first") is ExperimentState.PENDING


async def test_anybody_may_stand_back(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit("patient", priority=-1)
    await federation.submit("next")

    await federation.admit()

    assert await state_of(federation, "next") is ExperimentState.IN_PROGRESS


@pytest.mark.parametrize("sent", [b"", LARGE[:5000]], ids=["nothing", "a part"])
async def test_upload_that_ends_early_is_said_to_and_can_be_gone_on_with(federation: World, sent: bytes) -> None:
    await federation.register("a", "b")
    begun = await begin(federation)
    upload = begun.archive

    with pytest.raises(InvalidArgument, match=r"ended before its last chunk|was expected"):
        await federation.process.submissions.receive_archive(begun, chunks_of(sent, upload))

    assert (await send_archive(federation, await begin(federation))).blob_id == upload.blob_id
