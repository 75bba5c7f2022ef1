"""Bytes are copied inside the stash in bounded steps, each of which may be repeated."""

import pytest

from director.domain.commands import ModelReference, ModelUpload, SubmitExperiment
from director.domain.tensors import Manifest
from director.errors import Unavailable
from director.services import copying
from director.services.submissions import Submitting
from director.store import copies, models, stash
from director.store.engine.database import Database, Failpoints
from director.store.stash import Blob, Upload
from tests.store.blobs import CHUNK, DATA, begin, complete, put, seal, sweep, take, whole
from tests.tables import blob_rows
from tests.world import MODEL, RESEARCHER, World, archive_of, content_of, payload_of

COUNT = 3
"""The chunks of DATA."""


class Counter(Failpoints):
    """Notes the transactions that write."""

    def __init__(self) -> None:
        """Begin with none."""
        self.names: list[str] = []

    def enter(self, name: str) -> None:
        """Note one."""
        if name != "read":
            self.names.append(name)


@pytest.fixture
async def source(db: Database) -> Blob:
    """A blob that some row owns."""
    await complete(db, upload_key="source")
    return await take(db, upload_key="source")


@pytest.fixture
async def target(db: Database, source: Blob) -> Upload:
    """An upload of the same bytes, which has none of them."""
    return await begin(db, upload_key="target")


async def copy(db: Database, source: Blob, target: Upload, first: int, last: int) -> None:
    async with db.write("copy") as tx:
        await copies.copy(tx, source, target.blob_id, first=first, last=last)


async def chunks_of(db: Database, upload: Upload) -> list[int]:
    return [number for blob_id, number in await blob_rows.chunks(db) if blob_id == upload.blob_id]


async def test_copy_holds_the_same_bytes_and_has_an_owner_of_its_own(
    db: Database, source: Blob, target: Upload
) -> None:
    await copy(db, source, target, 0, COUNT)
    copied = await seal(db, target)

    assert (copied.content, copied.chunk_bytes) == (source.content, source.chunk_bytes)
    assert await take(db, upload_key="target") == copied
    assert await whole(db, copied) == await whole(db, source) == DATA
    assert await blob_rows.states(db) == ["taken", "taken"]


async def test_only_the_chunks_asked_for_are_copied(db: Database, source: Blob, target: Upload) -> None:
    await copy(db, source, target, 1, 2)
    assert await chunks_of(db, target) == [1]

    await copy(db, source, target, 2, 3)

    assert await chunks_of(db, target) == [1, 2]


async def test_copy_is_repeated_without_harm(db: Database, source: Blob, target: Upload) -> None:
    await put(db, target, 1, b"XXXXXXXXXX")
    await copy(db, source, target, 0, 2)
    before = await blob_rows.chunk_data(db)

    await copy(db, source, target, 0, 2)

    assert await blob_rows.chunk_data(db) == before == [b"0123", b"4567", b"89", b"0123", b"XXXX"]


@pytest.mark.parametrize("copied", [0, 1])
async def test_source_that_was_dropped_meanwhile_is_unavailable(
    db: Database, source: Blob, target: Upload, copied: int
) -> None:
    await copy(db, source, target, 0, copied)
    async with db.write("drop") as tx:
        await stash.drop(tx, source.id)
    assert await sweep(db) == 1

    with pytest.raises(Unavailable, match="no longer there"):
        await copy(db, source, target, copied, COUNT)

    assert await chunks_of(db, target) == list(range(copied))


async def test_target_that_was_given_up_and_swept_is_unavailable(db: Database, source: Blob, target: Upload) -> None:
    await begin(db, b"other", upload_key="target")
    assert await sweep(db) == 1

    with pytest.raises(Unavailable, match="begin it again"):
        await copy(db, source, target, 0, COUNT)

    assert await whole(db, source) == DATA


async def test_target_that_was_given_up_is_not_sealed(db: Database, source: Blob, target: Upload) -> None:
    await copy(db, source, target, 0, COUNT)
    await begin(db, b"other", upload_key="target")

    with pytest.raises(Unavailable, match="begin it again"):
        await seal(db, target)


@pytest.mark.parametrize(("step_bytes", "steps"), [(1, 3), (CHUNK, 3), (2 * CHUNK + 1, 2), (100, 1)])
async def test_whole_copy_takes_bounded_steps_and_is_sealed(
    federation: World, source: Blob, target: Upload, monkeypatch: pytest.MonkeyPatch, step_bytes: int, steps: int
) -> None:
    monkeypatch.setattr(copying, "STEP_BYTES", step_bytes)
    federation.db.failpoints = counter = Counter()

    await copying.copy(federation.process.runtime, source, target)

    assert counter.names == ["copy chunks"] * steps + ["seal copy"]
    assert await whole(federation.db, await take(federation.db, upload_key="target")) == DATA


async def test_copy_that_was_broken_off_goes_on_at_the_first_missing_chunk(
    federation: World, source: Blob, target: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STEP_BYTES", CHUNK)
    await copy(federation.db, source, target, 0, 2)
    again = await begin(federation.db, upload_key="target")
    federation.db.failpoints = counter = Counter()

    await copying.copy(federation.process.runtime, source, again)
    await copying.copy(federation.process.runtime, source, await begin(federation.db, upload_key="target"))

    assert counter.names == ["copy chunks", "seal copy", "begin", "seal copy"]
    assert (await take(federation.db, upload_key="target")).content == content_of(DATA)


async def test_copy_of_no_bytes_is_sealed(federation: World) -> None:
    await complete(federation.db, b"", upload_key="source")
    source = await take(federation.db, b"", upload_key="source")

    await copying.copy(federation.process.runtime, source, await begin(federation.db, b"", upload_key="target"))

    assert (await take(federation.db, b"", upload_key="target")).content == content_of(b"")


async def test_copy_never_goes_on_with_bytes_that_were_uploaded(federation: World) -> None:
    await federation.register("a", "b")
    first = await federation.submit("first")
    archive, model = archive_of(), payload_of(MODEL)
    upload = ModelUpload(content_of(model), Manifest.of(MODEL))
    command = SubmitExperiment("the-same-id", "second", ("a", "b"), content_of(archive), upload)
    begun = await federation.process.submissions.begin(command, RESEARCHER)
    assert isinstance(begun, Submitting)
    async with federation.db.write("put chunk") as tx:
        await stash.put(tx, begun.model.blob_id, 0, bytes([1]) * len(model))

    second = await federation.submit("second", model=ModelReference(first.uid, 0), submission_id="the-same-id")

    async with federation.db.read() as tx:
        copied = await models.get(tx, second.id, 0)
    assert await whole(federation.db, copied.blob) == model
