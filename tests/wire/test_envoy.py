"""Envoys in a federation: a real director on a real port, real workers, and a researcher who submits."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from director.bootstrap import Server
from director.client import ExperimentHandle, Federation
from director.domain.types import ExperimentState
from director.envoy import Envoy, ShardSpec, participation, runner
from director.errors import InvalidArgument, ShardRejected
from director.facade import Director
from director.settings import Settings

MODEL = {"weights": np.zeros(4, np.float32)}
SHARD = """
from director.envoy import ShardDescriptor

class Numbers(ShardDescriptor):
    sample_shape = target_shape = (1,)
    samples = 10

    def __init__(self, value=1):
        self.value = value

    def get_dataset(self, kind):
        return self.value
"""
CODE = """
import os, time
from pathlib import Path

def train(model, shard, round_number, settings):
    value = shard.get_dataset("train")
    note = Path(settings["notes"], f"train-{round_number}-{value}")
    note.write_text(str(os.getpid()))
    if settings["mood"] == "failing" and value == 2:
        raise ValueError("no data for you")
    while settings["mood"] == "slow" and not Path(settings["notes"], "go").exists():
        time.sleep(0.01)
    return {"weights": model["weights"] + value}, 10, {"loss": 1.0 / round_number}

def validate(model, shard, round_number, settings):
    return 5, {"accuracy": float(model["weights"].mean())}
"""


class Federated:
    """A director that can be restarted, envoys, and a researcher."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{port}"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.workplaces = folder / "workplaces"
        self._port = port
        self._director: asyncio.Task[None] | None = None
        self._envoys: dict[str, asyncio.Task[None]] = {}
        self.sample_shape: tuple[int, ...] | None = None

    async def start_director(self) -> None:
        ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._director = asyncio.create_task(self._serve(ready))
        await asyncio.wait({self._director, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if self._director.done():
            self._director.result()

    async def _serve(self, ready: asyncio.Event) -> None:
        settings = Settings(
            database=f"sqlite:///{self.folder / 'director.db'}",
            envoy_health_check_period=timedelta(seconds=0.2),
            poll=timedelta(seconds=0.5),
            sample_shape=self.sample_shape,
            chunk_bytes=4096,
        )
        async with Director(tls=False, settings=settings) as director:
            server = Server(director.process)
            await server.start("127.0.0.1", self._port, tls=None)
            looping = asyncio.create_task(director.start_experiment_execution_loop())
            ready.set()
            await self._stop.wait()
            await director.process.drain()
            await server.stop(0)
            looping.cancel()
            with suppress(asyncio.CancelledError):
                await looping

    async def stop_director(self) -> None:
        assert self._director is not None
        self._stop.set()
        await self._director

    def start_envoy(self, name: str, value: int = 1, **options) -> "asyncio.Task[None]":
        spec = ShardSpec("envoy_test_shard:Numbers", {"value": value})
        envoy = Envoy(name, spec, director=self.address, directory=self.workplaces / name, **options)
        self._envoys[name] = asyncio.create_task(envoy.run())
        return self._envoys[name]

    async def stop_envoys(self) -> None:
        for envoy in self._envoys.values():
            envoy.cancel()
        await asyncio.gather(*self._envoys.values(), return_exceptions=True)

    async def submit(self, *collaborators: str, name: str = "numbers", mood: str = "good", rounds: int = 2, **plan):
        workspace = self.folder / f"workspace-{name}"
        (workspace / "plan").mkdir(parents=True)
        (workspace / "work.py").write_text(CODE)
        settings = {"notes": str(self.notes), "mood": mood}
        tasks = [
            {"name": kind, "kind": kind, "function": f"work:{kind}", "settings": dict(settings)}
            for kind in ("train", "validate")
        ]
        (workspace / "plan/plan.yaml").write_text(yaml.safe_dump({"rounds": rounds, "tasks": tasks, **plan}))
        await self.until_registered(*collaborators)
        return await self.ask(
            lambda federation: federation.submit(
                name, workspace=workspace, model=MODEL, collaborators=list(collaborators)
            )
        )

    async def ask(self, question):
        def answer():
            with Federation(self.address, client_id="ann") as federation:
                return question(federation)

        return await asyncio.to_thread(answer)

    async def until_registered(self, *names: str) -> None:
        async def registered() -> bool:
            return set(names) <= {envoy.name for envoy in await self.ask(lambda federation: federation.envoys())}

        await until(registered)

    async def info(self, name: str = "numbers"):
        return await self.ask(lambda federation: federation.experiment(name).refresh())

    async def finished(self, name: str = "numbers") -> ExperimentState:
        await until(lambda: self._ended(name))
        return (await self.info(name)).state

    async def _ended(self, name: str) -> bool:
        return (await self.info(name)).state.terminal

    async def noted(self, name: str) -> int:
        """Wait until a task has begun; return the id of its process."""
        await until(lambda: (self.notes / name).exists() and (self.notes / name).read_text() != "")
        return int((self.notes / name).read_text())

    def model(self, number: int | str, name: str = "numbers"):
        return self.ask(lambda federation: federation.experiment(name).model(number))


async def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
async def federated(tmp_path, monkeypatch, unused_tcp_port) -> AsyncIterator[Federated]:
    (tmp_path / "envoy_test_shard.py").write_text(SHARD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runner, "AFTER_ERROR_SECONDS", 0.5)
    monkeypatch.setattr(participation, "MOVED_ON_SECONDS", 0.05)
    federated = Federated(tmp_path, unused_tcp_port)
    await federated.start_director()
    yield federated
    await federated.stop_envoys()
    await federated.stop_director()


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
    info = await federated.info()
    await federated.submit("rome", name="next")

    errors = {each.envoy: each.error for each in info.collaborators}
    assert state is ExperimentState.FINISHED
    assert "Traceback" in errors["rome"]
    assert "ValueError: no data for you" in errors["rome"]
    assert not errors["oslo"]
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
    stray = federated.workplaces / "oslo/12-3/workspace"
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

    first = (await federated.ask(lambda federation: federation.envoys()))[0]
    await asyncio.sleep(1)
    second = (await federated.ask(lambda federation: federation.envoys()))[0]
    (federated.notes / "go").touch()

    assert second.is_online
    assert second.is_experiment_running
    assert second.last_seen_at > first.last_seen_at


async def test_two_processes_under_one_name_do_not_both_go_on(federated, caplog):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    twin = Envoy("oslo", ShardSpec("envoy_test_shard:Numbers"), director=federated.address)
    running = asyncio.create_task(twin.run())
    await until(lambda: "is another process running as oslo?" in caplog.text)
    await federated.stop_envoys()
    (federated.notes / "go").touch()

    assert is_gone(pid)
    assert await federated.finished() is ExperimentState.FINISHED
    running.cancel()


async def test_envoy_whose_shapes_are_not_the_federations_ends_with_a_clear_error(federated):
    await federated.stop_director()
    federated.sample_shape = (8, 8)
    await federated.start_director()

    with pytest.raises(ShardRejected, match=r"sample_shape is \[1\], the federation's is \[8, 8\]"):
        await federated.start_envoy("oslo", 1)


async def test_shard_that_cannot_be_made_ends_the_envoy_before_it_calls_anybody():
    with pytest.raises(InvalidArgument, match="there is no module 'nowhere'"):
        await Envoy("oslo", ShardSpec("nowhere:Shard")).run()


def test_bad_name_or_address_is_refused_at_once():
    with pytest.raises(InvalidArgument, match="holds a slash"):
        Envoy("a/b", ShardSpec("m:C"))
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        Envoy("a", ShardSpec("m:C"), director="nowhere")


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
        "import time\nfrom pathlib import Path\nfrom director.envoy import Envoy, ShardSpec\n"
        "def review(workspace):\n    Path('asked').touch()\n    time.sleep(600)\n"
        f"Envoy('oslo', ShardSpec('envoy_test_shard:Numbers'), director={federated.address!r}, review=review)"
        ".serve_forever()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "reviewed.py", cwd=federated.folder, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    await federated.submit("oslo")
    await until((federated.folder / "asked").exists)

    process.terminate()

    assert await asyncio.wait_for(process.wait(), 10) == 0
