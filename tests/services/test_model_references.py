"""A submission that begins from a model that the director holds: copied in steps, and gone on with after a death."""

from collections.abc import Callable

import numpy as np
import pytest

from director.domain.commands import ModelReference, SubmitExperiment
from director.domain.types import ExperimentState, Tensors
from director.errors import DiskFull, ExperimentNotFound, ModelNotFound, Unavailable
from director.services import checking, copying, disk
from director.services.runtime import Caller
from director.services.submissions import Wanted
from director.store import contents, models
from director.store.engine.database import Failpoints
from director.store.experiment_rows import ExperimentRow
from tests.services.words import OPERATOR, collecting, complete, finished, state_of
from tests.simulation.deaths import Died
from tests.tables import blob_rows, everything, experiment_rows, result_rows
from tests.world import RESEARCHER, World, archive_of, chunks_of, content_of, world

LARGE: Tensors = {"weights": np.arange(5_500, dtype=np.float32)}
"""A model of six chunks, the last of which is short."""
CHUNK = 4096
CHUNKS = 6
STEP = 2 * CHUNK
STEPS = 3
EXBIBYTE = 1 << 60


class Watching(Failpoints):
    """Counts the transactions of a name, and lets something happen before or after one of them."""

    def __init__(self, name: str, *, at: tuple[str, int] | None = None, happens: Callable[[], object] = bool) -> None:
        self._name, self._at, self._happens = name, at, happens
        self.begun = 0

    def enter(self, name: str) -> None:
        self.begun += name == self._name

    def before(self, name: str) -> None:
        self._pass("before", name)

    def after(self, name: str) -> None:
        self._pass("after", name)

    def _pass(self, when: str, name: str) -> None:
        if name == self._name and self._at == (when, self.begun):
            self._happens()


def die() -> None:
    raise Died("in the middle of a copy")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy two chunks in one transaction."""
    monkeypatch.setattr(copying, "STEP_BYTES", STEP)


async def source(federation: World, model: Tensors = LARGE) -> ModelReference:
    """Submit an experiment, and refer to its initial model."""
    await federation.register("a", "b")
    return ModelReference((await federation.submit("source", model=model)).uid, 0)


async def initial_model(federation: World, experiment: ExperimentRow) -> tuple[str, bytes]:
    """Return the digest of an experiment's initial model and its bytes."""
    async with federation.db.read() as tx:
        model = await models.get(tx, experiment.id, 0)
    return model.digest, b"".join([data async for _, data in contents.chunks(federation.db, model.blob)])


async def copied(federation: World) -> list[int]:
    """Return the chunks that were copied for a submission that has not been accepted."""
    [*_, last] = await blob_rows.ids(federation.db)
    return [number for blob_id, number in await blob_rows.chunks(federation.db) if blob_id == last]


async def test_experiment_begins_from_the_same_bytes_under_the_same_digest(federation: World) -> None:
    reference = await source(federation)

    begun = await federation.submit("copy", model=reference)

    original = await federation.row("source")
    assert await initial_model(federation, begun) == await initial_model(federation, original)
    assert begun.manifest == original.manifest
    assert len(set(await result_rows.model_blobs(federation.db))) == 2
    assert (await checking.report(federation.db)).findings == []


async def test_experiment_begins_from_the_result_of_a_round_and_trains_on(federation: World) -> None:
    await finished(federation, "source")
    original = await federation.row("source")

    begun = await collecting(federation, "copy", model=ModelReference(original.uid, original.last_model))
    await complete(federation, begun, "a", "b")
    await federation.drive(begun.fence)

    digests = [dict(await result_rows.model_digests(federation.db, each)) for each in (original.id, begun.id)]
    assert digests[1][0] == digests[0][original.last_model]
    assert [*digests[1]] == [0, 1]


async def test_copy_stays_when_its_source_is_removed(federation: World) -> None:
    reference = await source(federation)
    before = await initial_model(federation, await federation.row("source"))
    begun = await federation.submit("copy", model=reference)

    await federation.process.experiments.remove("source", RESEARCHER)
    await federation.process.periodic_jobs.sweep()

    assert await initial_model(federation, begun) == before
    assert (await checking.report(federation.db)).findings == []


async def test_large_model_is_copied_in_steps(federation: World) -> None:
    reference = await source(federation)
    federation.db.failpoints = watching = Watching("copy chunks")

    await federation.submit("copy", model=reference)

    assert watching.begun == STEPS


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
async def test_submission_goes_on_after_a_death_in_the_middle_of_the_copy(
    migrated_url: str, when: str, step: int
) -> None:
    async with world(migrated_url) as first:
        reference = await source(first)
        first.db.failpoints = Watching("copy chunks", at=(when, step), happens=die)
        with pytest.raises(Died):
            await first.submit("copy", model=reference)
        first.db.failpoints = Failpoints()
        done = step if when == "after" else step - 1
        assert await copied(first) == [*range(done * 2)]

    async with world(migrated_url, seed=2) as second:
        second.db.failpoints = watching = Watching("copy chunks")
        begun = await second.submit("copy", model=reference)

        assert watching.begun == STEPS - done
        assert await initial_model(second, begun) == await initial_model(second, await second.row("source"))
        assert await blob_rows.uploads_left(second.db) == []
        assert (await checking.report(second.db)).findings == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["seal copy", "submit"])
async def test_submission_goes_on_after_a_death_at_its_end(migrated_url: str, when: str, operation: str) -> None:
    async with world(migrated_url) as first:
        reference = await source(first)
        first.db.failpoints = Watching(operation, at=(when, 1), happens=die)
        with pytest.raises(Died):
            await first.submit("copy", model=reference)
        first.db.failpoints = Failpoints()

    async with world(migrated_url, seed=2) as second:
        begun = await second.submit("copy", model=reference)

        assert await experiment_rows.names(second.db) == ["source", "copy"]
        assert await initial_model(second, begun) == await initial_model(second, await second.row("source"))
        assert (await checking.report(second.db)).findings == []


async def test_submission_that_was_stored_is_answered_as_it_is_though_its_source_is_gone(federation: World) -> None:
    reference = await source(federation)
    begun = await federation.submit("copy", model=reference)
    await federation.process.experiments.remove("source", RESEARCHER)
    before = await everything.contents(federation.db)

    again = await federation.submit("copy", model=reference)

    assert again.uid == begun.uid
    assert await everything.contents(federation.db) == before


async def test_model_of_an_experiment_that_the_caller_may_not_see_is_refused(federation: World) -> None:
    await federation.register("a", "b")
    shared = await federation.submit("source", users=["colleague"])
    reference = ModelReference(shared.uid, 0)

    with pytest.raises(ExperimentNotFound):
        await federation.submit("stolen", model=reference, caller=Caller("stranger"))
    for caller in (Caller("colleague"), OPERATOR):
        assert await federation.submit(f"of {caller.name}", model=reference, caller=caller)
    assert await experiment_rows.names(federation.db) == ["source", "of colleague", "of operator"]


@pytest.mark.parametrize(
    ("number", "match"), [(1, "no longer kept"), (3, "no model 3"), (-1, "no model -1"), (1 << 40, "no model")]
)
async def test_model_that_is_not_there_is_refused_before_anything_is_begun(
    migrated_url: str, number: int, match: str
) -> None:
    async with world(migrated_url, keep_models_every=100) as federation:
        await finished(federation, "source")
        await federation.do_periodic_jobs()
        reference = ModelReference((await federation.row("source")).uid, number)
        before = await everything.contents(federation.db, but=())

        with pytest.raises(ModelNotFound, match=match):
            await federation.submit("copy", model=reference)

        assert await everything.contents(federation.db, but=()) == before


async def test_model_of_a_removed_experiment_is_refused(federation: World) -> None:
    reference = await source(federation)
    await federation.process.experiments.remove("source", RESEARCHER)

    with pytest.raises(ExperimentNotFound):
        await federation.submit("copy", model=reference)


async def test_source_that_is_removed_while_the_archive_is_on_its_way_is_said_to_be_gone(federation: World) -> None:
    reference, archive = await source(federation), archive_of()
    command = SubmitExperiment("submission", "copy", ["a", "b"], content_of(archive), reference)
    steps = federation.process.submissions.submit(command, RESEARCHER, lambda wanted: chunks_of(archive, wanted.upload))
    assert isinstance(await anext(steps), Wanted)
    await federation.process.experiments.remove("source", RESEARCHER)
    await federation.process.periodic_jobs.sweep()

    with pytest.raises(Unavailable, match="no longer there"):
        await anext(steps)

    with pytest.raises(ExperimentNotFound):
        await federation.submit("copy", model=reference, submission_id="submission")
    assert await experiment_rows.names(federation.db) == ["source"]


@pytest.fixture
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the room looked at whenever it matters."""
    monkeypatch.setattr(disk, "CACHED_SECONDS", 0)


def fill(federation: World) -> None:
    """Leave no room beside the reserve."""
    runtime = federation.process.runtime
    limits = {"disk_reserve_bytes": EXBIBYTE, "database_size_limit_bytes": 1}
    runtime.disk.settings = runtime.settings.model_copy(update=limits)


def relieve(federation: World) -> None:
    federation.process.runtime.disk.settings = federation.process.runtime.settings


@pytest.mark.usefixtures("looked_at_often")
async def test_copy_stops_at_the_reserve_of_the_disk_and_goes_on_from_there(federation: World) -> None:
    reference = await source(federation)
    happens = Watching("copy chunks", at=("after", 1), happens=lambda: fill(federation))
    federation.db.failpoints = happens

    with pytest.raises(DiskFull):
        await federation.submit("copy", model=reference)

    assert happens.begun == 1
    assert await copied(federation) == [0, 1]
    relieve(federation)
    await federation.submit("copy", model=reference)
    assert happens.begun == STEPS
    assert await state_of(federation, "copy") is ExperimentState.PENDING


@pytest.mark.usefixtures("looked_at_often")
async def test_model_that_does_not_fit_as_a_whole_is_not_begun_to_be_copied(federation: World) -> None:
    reference = await source(federation)
    fill(federation)
    before = await everything.bytes_held(federation.db)

    with pytest.raises(DiskFull):
        await federation.submit("copy", model=reference, archive=archive_of(**{"note.txt": "another one"}))

    assert await everything.bytes_held(federation.db) == before
