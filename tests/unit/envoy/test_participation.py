"""An envoy's part in an experiment, with a scripted director and a real worker."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from director.domain.experiment import Failure
from director.domain.tasks import Task
from director.domain.tensors import Manifest
from director.domain.types import TaskKind
from director.domain.work import Quit, Work
from director.envoy.participation import Site, take_part
from director.envoy.shard_descriptor import ShardSpec
from director.errors import Corrupt, EnvoyRetired, ModelNotFound, NotFound, RoundClosed, StaleAttempt
from director.wire import codec
from tests.unit.envoy.scripted_director import ENGAGEMENT, MANIFEST, PAYLOAD, UID, content_of

CODE = """
import json, os
from pathlib import Path

def train(model, shard, round_number, settings):
    manifest = Path("../manifest")
    seen = {"files": sorted(os.listdir("..")), "manifest": manifest.stat().st_mtime_ns}
    Path(settings["notes"], f"round-{round_number}").write_text(json.dumps(seen))
    return {name: array + 1 for name, array in model.items()}, 10, {"loss": 0.5}

def grow(model, shard, round_number, settings):
    return {**model, "w": model["w"][:2]}, 10, {}

def validate(model, shard, round_number, settings):
    return 5, {"mean": float(model["w"].mean())}

def fail(model, shard, round_number, settings):
    raise ValueError("no data for you")

def die(model, shard, round_number, settings):
    os._exit(7)
"""
OTHER = bytes(len(PAYLOAD))
"""The payload of another model of the same layout: zeros."""
FINISHED = Quit("finished")


@pytest.fixture
def notes(tmp_path) -> Path:
    notes = tmp_path / "notes"
    notes.mkdir()
    return notes


@pytest.fixture
def site(tmp_path, shard_folder) -> Site:
    work = tmp_path / "work"
    work.mkdir()
    return Site("clinic", ShardSpec("worker_test_shard:Numbers"), work, review=None)


@pytest.fixture(autouse=True)
def archive(director) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("code.py", "")
        opened.writestr("part_code.py", CODE)
    director.archive = packed.getvalue()


def task(function: str, notes: Path) -> Task:
    kind = TaskKind.VALIDATE if function == "validate" else TaskKind.TRAIN
    return Task(function, kind, f"part_code:{function}", {"notes": str(notes)})


def work(round_number: int, *tasks: Task, manifest: Manifest = MANIFEST, payload: bytes = PAYLOAD) -> Work:
    return Work(round_number, round_number - 1, content_of(payload), manifest.digest, tasks)


def told(director) -> Failure:
    assert len(director.failures) == 1
    return codec.read_failure(director.failures[0].failure)


async def test_tasks_are_run_and_their_results_contributed_with_the_digest_of_the_manifest(
    client, director, site, notes
):
    director.answers = [work(1, task("train", notes), task("validate", notes)), FINISHED]

    await take_part(client, ENGAGEMENT, site)

    trained, validated = map(codec.read_contribution, director.contributions)
    sent = b"".join(director.received[index] for index in sorted(director.received))
    assert (trained.experiment_uid, trained.attempt, trained.round_number, trained.samples) == (UID, 2, 1, 10)
    assert trained.manifest_digest == MANIFEST.digest
    assert trained.update == content_of(sent)
    assert np.allclose(MANIFEST.arrays(sent)["w"], MANIFEST.arrays(PAYLOAD)["w"] + 1)
    assert (validated.update, validated.manifest_digest, validated.samples) == (None, "", 5)
    assert list(site.directory.iterdir()) == []


async def test_manifest_comes_with_the_first_model_alone_and_is_kept_in_a_file(client, director, site, notes):
    director.models = {0: OTHER}
    director.answers = [work(1, task("train", notes), payload=OTHER), work(2, task("train", notes)), FINISHED]

    await take_part(client, ENGAGEMENT, site)

    models = [each for each in director.requests if each.DESCRIPTOR.name == "DownloadBaseModelRequest"]
    first, second = (json.loads((notes / f"round-{number}").read_text()) for number in (1, 2))
    assert [each.held_manifest_sha256 for each in models] == [b"", MANIFEST.content.sha256]
    assert {"manifest", f"model-{content_of(OTHER).digest}"} <= set(first["files"])
    assert {"manifest", f"model-{content_of(PAYLOAD).digest}"} <= set(second["files"])
    assert len([name for name in second["files"] if name.startswith("model-")]) == 1
    assert first["manifest"] == second["manifest"]


async def test_model_that_is_held_is_not_downloaded_again(client, director, site, notes):
    director.answers = [work(number, task("train", notes)) for number in (1, 2, 3)] + [FINISHED]

    await take_part(client, ENGAGEMENT, site)

    models = [each for each in director.requests if each.DESCRIPTOR.name == "DownloadBaseModelRequest"]
    written = {json.loads((notes / f"round-{number}").read_text())["manifest"] for number in (1, 2, 3)}
    assert len(models) == 1
    assert len(written) == 1
    assert len(director.contributions) == 3


@pytest.mark.parametrize(
    "replaced",
    [
        {"payload": OTHER},
        {"manifest": Manifest.of({"v": np.zeros(3)})},
    ],
)
async def test_model_that_is_not_the_one_of_the_work_is_not_trained_on(client, director, site, notes, replaced):
    director.answers = [
        work(1, task("validate", notes)),
        work(2, task("fail", notes), **replaced),
        work(3, task("validate", notes)),
        FINISHED,
    ]

    await take_part(client, ENGAGEMENT, site)

    assert director.failures == []
    assert [each.round for each in director.contributions] == [1, 3]


async def test_model_that_was_replaced_while_it_was_downloaded_is_downloaded_again(client, director, site, notes):
    director.models = {2: OTHER}
    director.answers = [
        work(1, task("validate", notes)),
        work(2, task("fail", notes), payload=OTHER),
        work(3, task("validate", notes), payload=OTHER),
        FINISHED,
    ]

    await take_part(client, ENGAGEMENT, site)

    assert director.failures == []
    assert director.contributions[-1].round == 3
    assert dict(director.contributions[-1].metrics) == {"mean": 0.0}


async def test_trained_model_of_another_layout_is_named_by_its_tensor_before_anything_is_sent(
    client, director, site, notes
):
    director.answers = [work(1, task("grow", notes))]

    await take_part(client, ENGAGEMENT, site)

    failure = told(director)
    assert (failure.task, failure.error_type) == ("grow", "TensorMismatch")
    assert failure.message == "in round 1: tensor 'w' is F32 [2, 120], the model's is F32 [9, 120]"
    assert director.contributions == []


async def test_error_of_a_task_is_told_with_its_task_its_type_and_its_traceback(client, director, site, notes):
    director.answers = [work(1, task("fail", notes))]

    await take_part(client, ENGAGEMENT, site)

    failure = told(director)
    assert (failure.task, failure.error_type) == ("fail", "ValueError")
    assert failure.message.startswith("in round 1:\nTraceback")
    assert failure.message.endswith("ValueError: no data for you")


async def test_death_of_a_worker_is_told_with_its_task(client, director, site, notes):
    director.answers = [work(1, task("die", notes))]

    await take_part(client, ENGAGEMENT, site)

    assert told(director) == Failure("the worker ended by itself, with exit status 7", task="die")


async def test_failure_before_the_first_task_has_no_task(client, director, site):
    director.archive = b"no zip file"

    await take_part(client, ENGAGEMENT, site)

    failure = told(director)
    assert (failure.task, failure.error_type) == ("", "InvalidArchive")
    assert failure.message


async def test_refused_review_has_no_task(client, director, site):
    refusing = Site(site.envoy, site.shard, site.directory, review=lambda workspace: False)

    await take_part(client, ENGAGEMENT, refusing)

    assert told(director) == Failure("review refused by envoy 'clinic'", error_type="Forbidden")


async def test_defect_of_the_envoy_is_told_with_its_type(client, director, site):
    director.answers = [Quit("never reached")]
    site.directory.rmdir()

    await take_part(client, ENGAGEMENT, site)

    failure = told(director)
    assert (failure.task, failure.error_type) == ("", "FileNotFoundError")
    assert failure.message.startswith("the envoy itself failed: ")


async def test_damaged_update_is_sent_three_times_at_most(client, director, site, notes):
    director.script = [None, None, None, Corrupt("damaged"), Corrupt("damaged")]
    director.answers = [work(1, task("train", notes)), FINISHED]

    await take_part(client, ENGAGEMENT, site)

    assert len(director.contributions) == 1
    assert director.failures == []


async def test_update_that_is_always_damaged_is_a_failure(client, director, site, notes):
    director.script = [None, None, None, *[Corrupt("damaged")] * 3]
    director.answers = [work(1, task("train", notes))]

    await take_part(client, ENGAGEMENT, site)

    assert told(director) == Failure("damaged", error_type="Corrupt")


async def test_late_result_and_model_that_is_gone_lead_to_the_next_question(client, director, site, notes):
    director.script = [None, None, ModelNotFound("not kept"), None, None, RoundClosed("late")]
    director.answers = [
        work(1, task("validate", notes)),
        work(2, task("validate", notes), task("fail", notes)),
        FINISHED,
    ]

    await take_part(client, ENGAGEMENT, site)

    assert director.failures == []
    assert director.contributions == []


async def test_experiment_that_is_gone_is_over_without_a_failure(client, director, site):
    director.script = [NotFound("removed")]

    await take_part(client, ENGAGEMENT, site)

    assert director.failures == []


@pytest.mark.parametrize("error", [StaleAttempt("handed out again"), EnvoyRetired("restore it first")])
async def test_attempt_that_is_not_the_envoys_any_more_is_left_at_once(client, director, site, error):
    director.script = [error]

    with pytest.raises(type(error)):
        await take_part(client, ENGAGEMENT, site)

    assert director.failures == []
    assert list(site.directory.iterdir()) == []
