"""Without room nothing more is taken in and time stands still; what makes room goes on, and then so does all else."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from director.domain.commands import ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.tensor_info import TensorInfo
from director.domain.tensors import Manifest
from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import DiskFull
from director.services import disk, folding, uploads
from director.store import clock as clocks
from director.store.engine.database import Failpoints
from director.store.stash import Upload
from tests.services.words import collecting, complete, state_of
from tests.store.words import PATIENCE, waits
from tests.tables import blob_rows, round_rows
from tests.world import PLAN, RESEARCHER, World, archive_of, chunks_of, content_of

LONG = bytes(range(256)) * 40
"""More than two chunks."""
EXBIBYTE = 1 << 60
TEBIBYTE = 1 << 40


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the room looked at whenever it matters."""
    monkeypatch.setattr(disk, "CACHED_SECONDS", 0)


def limit(federation: World, **limits: Any) -> None:
    runtime = federation.process.runtime
    runtime.disk.settings = runtime.settings.model_copy(update=limits)


def fill(federation: World) -> None:
    limit(federation, disk_reserve_bytes=EXBIBYTE, database_size_limit_bytes=1)


def relieve(federation: World) -> None:
    limit(federation)


async def receive(federation: World, upload: Upload, chunks: uploads.Chunks) -> None:
    runtime = federation.process.runtime
    await uploads.receive(runtime, upload, content_of(LONG), chunks, check=uploads.accept_anything)


async def test_upload_begins_only_where_there_is_room(federation: World) -> None:
    runtime = federation.process.runtime
    fill(federation)

    with pytest.raises(DiskFull):
        await uploads.begin(runtime, "p", content_of(LONG))

    assert await blob_rows.blobs(federation.db) == []
    relieve(federation)
    assert (await uploads.begin(runtime, "p", content_of(LONG))).missing == 0


async def test_upload_stops_where_there_is_no_more_room_and_goes_on_from_there(federation: World) -> None:
    runtime = federation.process.runtime
    upload = await uploads.begin(runtime, "p", content_of(LONG))

    async def filling() -> uploads.Chunks:
        async for number, data in chunks_of(LONG, upload):
            fill(federation)
            yield number, data

    with pytest.raises(DiskFull):
        await receive(federation, upload, filling())

    assert [number for _, number in await blob_rows.chunks(federation.db)] == [0]
    relieve(federation)
    again = await uploads.begin(runtime, "p", content_of(LONG))
    assert (again.blob_id, again.missing) == (upload.blob_id, 1)
    await receive(federation, again, chunks_of(LONG, again))
    assert await blob_rows.states(federation.db) == ["complete"]


async def test_what_does_not_fit_as_a_whole_is_refused_before_it_is_sent(federation: World) -> None:
    await federation.register("a", "b")
    limit(federation, database_size_limit_bytes=TEBIBYTE // 4)
    huge = Manifest((TensorInfo("weights", "U8", (TEBIBYTE // 2,)),))
    model = ModelUpload(Content(huge.size_bytes, content_of(LONG).digest), huge)
    command = SubmitExperiment("submission", "experiment", ["a", "b"], content_of(archive_of()), model)

    with pytest.raises(DiskFull, match="do not fit"):
        await federation.process.submissions.begin(command, RESEARCHER)

    assert await blob_rows.blobs(federation.db) == []


async def test_no_deadline_passes_without_room(timed: World, clock: ManualClock) -> None:
    tick = timed.process.runtime.settings.tick
    begun = await collecting(timed, plan=f"{PLAN}\nround_deadline: 1m\non_deadline: fail\n")
    async with timed.db.read() as tx:
        before = (await clocks.now(tx)).now
    fill(timed)

    for _ in range(int(timedelta(hours=1) / tick)):
        clock.advance(tick)
        assert not await timed.process.ticker.tick()
    pause = await timed.steps(begun.fence).next()

    assert pause == timed.process.runtime.settings.poll.total_seconds()
    async with timed.db.read() as tx:
        assert (await clocks.now(tx)).now - before == pytest.approx(2 * tick.total_seconds())
    assert await state_of(timed) is ExperimentState.IN_PROGRESS
    assert await round_rows.states(timed.db, begun.id) == ["collecting"]


async def test_fold_waits_for_room_before_it_begins_and_at_each_column(federation: World) -> None:
    begun = await collecting(federation)
    await complete(federation, begun, "a", "b")
    await federation.steps(begun.fence).next()
    experiment = await federation.row("experiment")

    class Filling(Failpoints):
        def after(self, name: str) -> None:
            if name == "begin fold":
                fill(federation)

    fill(federation)
    federation.db.failpoints = Filling()
    fold = asyncio.create_task(folding.fold(federation.process.runtime, experiment, begun.fence, 1))
    assert await waits(fold)
    assert await blob_rows.uploaded_for(federation.db, "fold") == []

    relieve(federation)

    async with asyncio.timeout(PATIENCE):
        while not await blob_rows.uploaded_for(federation.db, "fold"):
            await asyncio.sleep(0.01)
    assert await waits(fold)
    assert await blob_rows.chunks_of(federation.db, "fold") == []
    relieve(federation)
    await asyncio.wait_for(fold, PATIENCE)
    assert len(await blob_rows.chunks_of(federation.db, "fold")) == 1


async def test_what_makes_room_goes_on_without_any(federation: World) -> None:
    begun = await collecting(federation)
    await complete(federation, begun, "a")
    fill(federation)

    await federation.process.experiments.cancel("experiment", RESEARCHER)
    await federation.process.experiments.remove("experiment", RESEARCHER)
    await federation.do_periodic_jobs()

    assert await blob_rows.blobs(federation.db) == []
