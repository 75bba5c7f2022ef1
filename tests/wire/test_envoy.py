"""Envoys in a federation: a real director on a real port, real workers, and a researcher who submits."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from director.client import ExperimentHandle
from director.domain.types import ExperimentState
from director.envoy import EnvoyAgent, ShardSpec
from director.errors import ShardRejected
from tests.wire.federated import CODE, Federated, is_gone, until


async def test_experiment_runs_to_its_end_and_leaves_nothing_at_the_envoys(federated):
    federated.start_envoy("oslo", 1)
    federated.start_envoy("rome", 3)

    await federated.submit("oslo", "rome", rounds=3)

    assert await federated.finished() is ExperimentState.FINISHED
    assert (await federated.model("last"))["weights"].tolist() == [6.0] * 4
    await until(lambda: not any(path.is_dir() for path in federated.workplaces.glob("*/*")))


async def test_envoys_go_from_one_experiment_to_the_next(federated):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", name="first")
    await federated.submit("oslo", name="second")

    states = [await federated.finished("first"), await federated.finished("second")]

    assert states == [ExperimentState.FINISHED, ExperimentState.FINISHED]


async def test_failing_task_is_reported_with_its_traceback_and_the_envoy_serves_the_next_experiment(federated):
    federated.start_envoy("oslo", 1)
    federated.start_envoy("rome", 2)
    await federated.submit("oslo", "rome", mood="failing", min_collaborators=1)

    state = await federated.finished()
    collaborators = await federated.ask(lambda federation: list(federation.experiment("numbers").collaborators()))
    await federated.submit("rome", name="next")

    failures = {each.envoy: each.failure for each in collaborators}
    assert state is ExperimentState.FINISHED
    assert (failures["rome"].task, failures["rome"].error_type) == ("train", "ValueError")
    assert "Traceback" in failures["rome"].message
    assert "ValueError: no data for you" in failures["rome"].message
    assert failures["oslo"] is None
    assert await federated.finished("next") is ExperimentState.FINISHED


async def test_review_sees_the_workspace_and_what_it_refuses_never_runs(federated):
    seen = []

    def review(workspace: Path) -> bool:
        seen.append((workspace / "work.py").read_text())
        return False

    federated.start_envoy("oslo", 1, review=review)
    await federated.submit("oslo")

    state = await federated.finished()

    assert state is ExperimentState.FAILED
    assert "review refused by envoy 'oslo'" in (await federated.info()).reason
    assert seen == [CODE]
    assert list(federated.notes.iterdir()) == []


async def test_approved_review_lets_it_run(federated):
    federated.start_envoy("oslo", 1, review=lambda workspace: True)

    await federated.submit("oslo")

    assert await federated.finished() is ExperimentState.FINISHED


async def test_review_that_raises_is_a_refusal(federated):
    federated.start_envoy("oslo", 1, review=lambda workspace: 1 / 0)

    await federated.submit("oslo")

    assert await federated.finished() is ExperimentState.FAILED
    assert "review at envoy 'oslo' failed: ZeroDivisionError" in (await federated.info()).reason


async def test_cancelled_experiment_stops_its_worker_in_the_middle_of_a_task(federated):
    federated.start_envoy("oslo", 1)
    experiment: ExperimentHandle = await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    await federated.ask(lambda federation: federation.experiment(experiment.name).cancel("enough"))

    await until(lambda: is_gone(pid))
    await federated.submit("oslo", name="next")
    assert await federated.finished("next") is ExperimentState.FINISHED


async def test_restart_of_the_director_in_the_middle_of_a_task_costs_nothing(federated):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    await federated.stop_director()
    (federated.notes / "go").touch()
    await asyncio.sleep(0.5)
    await federated.start_director()

    assert await federated.finished() is ExperimentState.FINISHED
    assert (await federated.model("last"))["weights"].tolist() == [2.0] * 4
    assert await federated.noted("train-2-1") == pid


async def test_killed_envoy_starts_the_experiment_again_where_the_director_says(federated):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    await federated.stop_envoys()
    stray = federated.workplaces / f"oslo/{'0' * 32}-3/workspace"
    stray.mkdir(parents=True)
    (federated.notes / "go").touch()
    federated.start_envoy("oslo", 1)

    assert is_gone(pid)
    assert await federated.finished() is ExperimentState.FINISHED
    assert not stray.exists()


async def test_worker_that_dies_is_a_failure_that_says_how(federated):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    os.kill(await federated.noted("train-1-1"), signal.SIGKILL)

    state = await federated.finished()

    assert state is ExperimentState.FAILED
    assert "the worker ended by itself, killed by SIGKILL" in (await federated.info()).reason


async def test_heartbeats_go_on_while_the_worker_computes(federated):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    await federated.noted("train-1-1")

    [first] = await federated.envoys()
    await asyncio.sleep(1)
    [second] = await federated.envoys()
    (federated.notes / "go").touch()

    assert second.online
    assert second.experiment_running
    assert second.last_seen_at > first.last_seen_at


async def test_two_processes_under_one_name_do_not_both_go_on(federated, caplog):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    twin = EnvoyAgent("oslo", ShardSpec("envoy_test_shard:Numbers"), director=federated.address)
    running = asyncio.create_task(twin.run())
    await until(lambda: "another process may be running as envoy oslo" in caplog.text)
    await federated.stop_envoys()
    (federated.notes / "go").touch()

    assert is_gone(pid)
    assert await federated.finished() is ExperimentState.FINISHED
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_envoy_whose_shapes_are_not_the_federations_ends_with_a_clear_error(federated):
    await federated.stop_director()
    federated.sample_shape = (8, 8)
    await federated.start_director()

    with pytest.raises(ShardRejected, match=r"sample_shape is \[1\], the federation's is \[8, 8\]"):
        await federated.start_envoy("oslo", 1)


@asynccontextmanager
async def command(federated: Federated, *options: str):
    arguments = ["envoy", "--name", "oslo", "--shard", "envoy_test_shard:Numbers", "--director", federated.address]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "director.cli.main", *arguments, *options),
        cwd=federated.folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_command_ends_cleanly_when_told_to_stop_in_the_middle_of_a_task(federated, number):
    async with command(federated, "--directory", "here", "--shard-params", '{"value": 5}') as process:
        await federated.submit("oslo", mood="slow")
        pid = await federated.noted("train-1-5")
        process.send_signal(number)
        status = await asyncio.wait_for(process.wait(), 10)

    assert status == 0
    assert is_gone(pid)
    assert list((federated.folder / "here").iterdir()) == []


async def test_command_that_was_killed_leaves_no_worker_behind(federated):
    async with command(federated) as process:
        await federated.submit("oslo", mood="slow")
        pid = await federated.noted("train-1-1")
        process.kill()

    await until(lambda: is_gone(pid))


async def test_command_that_waits_for_a_review_stops_when_told(federated):
    (federated.folder / "reviewed.py").write_text(
        "import time\nfrom pathlib import Path\nfrom director.envoy import EnvoyAgent, ShardSpec\n"
        "def review(workspace):\n    Path('asked').touch()\n    time.sleep(600)\n"
        f"EnvoyAgent('oslo', ShardSpec('envoy_test_shard:Numbers'), director={federated.address!r}, review=review)"
        ".serve_forever()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "reviewed.py", cwd=federated.folder, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    await federated.submit("oslo")
    await until((federated.folder / "asked").exists)

    process.terminate()

    assert await asyncio.wait_for(process.wait(), 10) == 0
