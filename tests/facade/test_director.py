"""The sixteen methods, on both engines, each with what may go wrong in it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from director import Director
from director.errors import AlreadyExists, EnvoyNotFound, ExperimentNotFound, InvalidArgument, ShardNotFoundError
from tests.facade.conftest import shard, stop, submit, work_as, write_archive
from tests.tables.everything import contents
from tests.world import PLAN


async def test_shard_that_fits_is_acknowledged_and_listed(director: Director) -> None:
    assert await director.acknowledge_shard(shard("a")) is True

    assert await director.get_registered_shards() == [shard("a") | {"sample_shape": [4], "target_shape": [1]}]


async def test_shard_that_does_not_fit_is_refused_with_a_reason_in_the_log(
    director: Director, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await director.acknowledge_shard(shard("a", sample_shape=("5",))) is False

    assert "its sample_shape is [5], the federation's is [4]" in caplog.text
    assert await director.get_registered_shards() == []


async def test_shard_without_shapes_fits_a_federation_without_shapes(migrated_url: str) -> None:
    async with Director(tls=False, database=migrated_url) as director:
        assert await director.get_dataset_info() == (None, None)
        assert await director.acknowledge_shard({"node_info": {"name": "a"}}) is True


@pytest.mark.parametrize("name", ["", "a/b", "x" * 256, "tab\there"])
async def test_shard_under_a_bad_name_is_refused(director: Director, name: str) -> None:
    with pytest.raises(InvalidArgument, match="the envoy's name"):
        await director.acknowledge_shard(shard(name))

    assert await director.get_registered_shards() == []


async def test_federation_tells_its_shapes(director: Director) -> None:
    assert await director.get_dataset_info() == ([4], [1])


async def test_heartbeat_is_answered_with_the_period(director: Director) -> None:
    await director.acknowledge_shard(shard("a"))

    period = await director.update_envoy_status(
        envoy_name="a", is_experiment_running=True, cuda_devices_status=[{"index": 0}]
    )

    assert period == 60
    [envoy] = await director.get_envoys()
    assert (envoy["is_online"], envoy["is_experiment_running"], envoy["experiment_name"]) == (True, True, None)
    assert envoy["shard_info"]["node_info"]["name"] == "a"


async def test_unknown_envoy_is_told_so(director: Director) -> None:
    with pytest.raises(ShardNotFoundError):
        await director.update_envoy_status(envoy_name="nobody", is_experiment_running=False)
    with pytest.raises(EnvoyNotFound, match="'nobody' is not registered"):
        await director.wait_experiment("nobody")


async def test_absent_experiment_and_somebody_elses_are_the_same(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)

    for name, caller in [("nothing", "researcher"), ("experiment", "stranger")]:
        assert await director.get_experiment_status(name, caller) is None
        assert await director.get_experiment_description(caller, name) == {}
        assert await director.get_trained_model(name, caller, "last") is None
        assert await director.remove_experiment_data(name, caller) is False
        with pytest.raises(ExperimentNotFound):
            await anext(director.stream_metrics(name, caller))
    assert await director.get_experiments_list("stranger") == []
    assert await director.get_experiment_status("experiment", "researcher") == "pending"


async def test_experiment_that_has_not_started_is_described(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))

    assert await submit(director, archive) is True

    [listed] = await director.get_experiments_list("researcher")
    assert listed == {
        "name": "experiment",
        "status": "pending",
        "collaborators_amount": 2,
        "tasks_amount": 2,
        "progress": 0.0,
    }
    described = await director.get_experiment_description("researcher", "experiment")
    assert (described["current_round"], described["total_rounds"]) == (0, 2)
    assert [each["name"] for each in described["collaborators"]] == ["a", "b"]
    assert {each["status"] for each in described["download_statuses"]["models"]} == {"pending", "ready"}


async def test_there_is_no_model_before_the_first_round_nor_of_an_unknown_type(
    director: Director, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)

    assert await director.get_trained_model("experiment", "researcher", "best") is None
    assert await director.get_trained_model("experiment", "researcher", "last") is None
    assert await director.get_trained_model("experiment", "researcher", "latest") is None
    assert "no model type 'latest'" in caplog.text


async def test_name_in_use_is_refused_and_nothing_changes(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)
    before = await contents(director.process.runtime.db)

    with pytest.raises(AlreadyExists, match="'experiment' exists already"):
        await submit(director, archive, sender_name="somebody else")
    with pytest.raises(AlreadyExists):
        await submit(director, archive, tensor_dict={"weights": np.ones(8, np.float32)})

    assert await contents(director.process.runtime.db) == before


async def test_submission_sent_twice_is_one_experiment(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))

    assert await submit(director, archive)
    assert await submit(director, archive)

    assert len(await director.get_experiments_list("researcher")) == 1


async def test_removed_experiment_can_be_submitted_again(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)

    assert await director.remove_experiment_data("experiment", "researcher") is True
    assert await director.get_experiments_list("researcher") == []
    assert await submit(director, archive)

    assert await director.get_experiment_status("experiment", "researcher") == "pending"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collaborator_names": []}, "at least one collaborator"),
        ({"collaborator_names": ["a", "a"]}, "named twice"),
        ({"collaborator_names": ["a", "nobody"]}, "'nobody'"),
        ({"experiment_name": "a/b"}, "slash"),
        ({"experiment_name": "x" * 256}, "256 characters"),
        ({"tensor_dict": {}}, "at least one tensor"),
        ({"tensor_dict": {"weights": np.array([1.0, np.nan])}}, "'weights' holds NaN"),
        ({"experiment_archive_path": "/nowhere.zip"}, "cannot be read"),
    ],
)
async def test_bad_submission_is_refused_and_nothing_changes(
    director: Director, archive: Path, changes: dict[str, Any], message: str
) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    before = await contents(director.process.runtime.db)

    with pytest.raises(InvalidArgument, match=message):
        await submit(director, archive, **changes)

    assert await contents(director.process.runtime.db) == before


async def test_federation_trains_several_experiments_to_their_ends(director: Director, archive: Path) -> None:
    for name in ("a", "b", "c", "d"):
        await director.acknowledge_shard(shard(name))
    loop = asyncio.create_task(director.start_experiment_execution_loop())
    await submit(director, archive, "one")
    await submit(director, archive, "two", collaborator_names=["c", "d"])

    await asyncio.gather(
        *(work_as(director, name, value=value) for name, value in zip("abcd", (1, 2, 3, 4), strict=True))
    )

    assert await director.get_experiment_status("one", "researcher") == "finished"
    assert await director.get_experiment_status("two", "researcher") == "finished"
    last = await director.get_trained_model("one", "researcher", "last")
    best = await director.get_trained_model("two", "researcher", "best")
    assert last is not None
    assert best is not None
    assert last["weights"].tolist() == [3.0] * 8
    assert best["weights"].tolist() == [7.0] * 8
    [listed, _] = await director.get_experiments_list("researcher")
    assert listed["progress"] == 1.0
    await stop(loop)


async def test_two_readers_of_one_stream_see_all_of_it_and_one_that_returns_the_rest(
    director: Director, archive: Path
) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    loop = asyncio.create_task(director.start_experiment_execution_loop())
    await submit(director, archive)

    async def read(after: int = 0) -> list[dict[str, Any]]:
        stream = director.stream_metrics("experiment", "researcher", after=after)
        return [metric async for metric in stream if metric is not None]

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await asyncio.gather(work_as(director, "a", value=1), work_as(director, "b", value=1))
    one, two = await asyncio.gather(*readers)

    # 2 rounds of train and validate and the final validation, of two envoys and their average.
    assert one == two
    assert len(one) == 3 * (2 * 2 + 1)
    assert one[0].keys() == {"metric_origin", "task_name", "metric_name", "metric_value", "round"}
    assert one[-1]["metric_origin"] == "aggregator"
    assert await read(after=5) == one[5:]
    await stop(loop)


async def test_envoy_that_lost_the_answer_is_given_the_same_experiment_again(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    loop = asyncio.create_task(director.start_experiment_execution_loop())
    await submit(director, archive)

    assert await director.wait_experiment("a") == "experiment"
    assert await director.wait_experiment("a") == "experiment"

    [envoy, _] = await director.get_envoys()
    assert envoy["experiment_name"] == "experiment"
    await stop(loop)


async def test_archive_is_handed_out_as_it_was_sent(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)

    path = await director.get_experiment_data("experiment")

    assert path.read_bytes() == archive.read_bytes()
    with pytest.raises(ExperimentNotFound):
        await director.get_experiment_data("nothing")


async def test_failing_envoy_fails_an_experiment_that_needs_it(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    loop = asyncio.create_task(director.start_experiment_execution_loop())
    await submit(director, archive)
    await director.wait_experiment("a")

    await director.set_experiment_failed(experiment_name="experiment", collaborator_name="a")
    await director.set_experiment_failed(experiment_name="experiment", collaborator_name="stranger")
    await director.set_experiment_failed(experiment_name="nothing", collaborator_name="a")

    async for _ in director.stream_metrics("experiment", "researcher"):
        pass
    assert await director.get_experiment_status("experiment", "researcher") == "failed"
    await stop(loop)


async def test_cancelled_shows_as_failed_to_those_who_know_no_other_word(director: Director, archive: Path) -> None:
    await director.acknowledge_shard(shard("a"))
    await director.acknowledge_shard(shard("b"))
    await submit(director, archive)

    await director.process.experiments.cancel("experiment", director.process.caller("researcher"))

    assert await director.get_experiment_status("experiment", "researcher") == "failed"


async def test_director_stopped_in_a_round_goes_on_where_it_was(migrated_url: str, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "workspace.zip", PLAN)

    async with Director(tls=False, database=migrated_url) as first:
        for name in ("a", "b"):
            await first.acknowledge_shard({"node_info": {"name": name}})
        loop = asyncio.create_task(first.start_experiment_execution_loop())
        await submit(first, archive)
        await work_as(first, "a", value=1, rounds=1)
        await stop(loop)
    async with Director(tls=False, database=migrated_url) as second:
        loop = asyncio.create_task(second.start_experiment_execution_loop())
        await asyncio.gather(work_as(second, "a", value=1), work_as(second, "b", value=2))
        assert await second.get_experiment_status("experiment", "researcher") == "finished"
        model = await second.get_trained_model("experiment", "researcher", "last")
        await stop(loop)

    assert model is not None
    assert model["weights"].tolist() == [3.0] * 8


@pytest.mark.parametrize(("answer", "state"), [(True, "in_progress"), (False, "rejected")])
async def test_review_callback_decides(migrated_url: str, archive: Path, answer: bool, state: str) -> None:
    asked = []

    def review(name: str, plan: Path) -> bool:
        asked.append((name, plan.read_text()))
        return answer

    async with Director(tls=False, database=migrated_url, review_plan_callback=review) as director:
        for name in ("a", "b"):
            await director.acknowledge_shard({"node_info": {"name": name}})
        loop = asyncio.create_task(director.start_experiment_execution_loop())
        await submit(director, archive)
        while (found := await director.get_experiment_status("experiment", "researcher")) == "pending":
            await asyncio.sleep(0.02)
        await stop(loop)

    assert found == state
    assert asked == [("experiment", PLAN)]


async def test_director_refuses_to_install_what_others_ask_for(migrated_url: str) -> None:
    with pytest.raises(InvalidArgument, match="install_requirements"):
        Director(tls=False, database=migrated_url, install_requirements=True)


async def test_wrong_settings_are_named(migrated_url: str) -> None:
    with pytest.raises(InvalidArgument, match="envoy_health_check_period"):
        Director(tls=False, database=migrated_url, envoy_health_check_period=0)
    with pytest.raises(InvalidArgument, match="database URL"):
        Director(tls=False, database="mysql://localhost/db")
