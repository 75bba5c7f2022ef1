"""A director that can be restarted, whole envoys with real workers, and a researcher, all over one real port."""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import yaml

from director.client import Federation
from director.domain.types import ExperimentState
from director.envoy import EnvoyAgent, ShardSpec
from director.facade import Director
from director.settings import Settings
from director.wire.server import Server

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
            operators=("operator",),
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
        envoy = EnvoyAgent(name, spec, director=self.address, directory=self.workplaces / name, **options)
        self._envoys[name] = asyncio.create_task(envoy.run())
        return self._envoys[name]

    async def stop_envoy(self, name: str) -> None:
        """Stop one as on SIGTERM."""
        self._envoys[name].cancel()
        await asyncio.gather(self._envoys.pop(name), return_exceptions=True)

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

    async def ask(self, question, *, caller: str = "ann"):
        def answer():
            with Federation(self.address, client_id=caller) as federation:
                return question(federation)

        return await asyncio.to_thread(answer)

    async def until_registered(self, *names: str) -> None:
        async def registered() -> bool:
            return set(names) <= {envoy.name for envoy in await self.envoys(online=True)}

        await until(registered)

    async def envoys(self, **which):
        return await self.ask(lambda federation: list(federation.envoys(**which)))

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
