"""A small federation for tests: real services on a real database, and words for what happens in it."""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from director.domain.commands import Contribute, ModelReference, ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.envoy import Engagement, Session, Shard
from director.domain.experiment import Experiment
from director.domain.tensors import Manifest, payload_pieces
from director.domain.types import Tensors
from director.domain.work import Work
from director.effects import Clock, SeededEntropy
from director.services.execution_steps import Steps
from director.services.process import Process
from director.services.reviewing import ReviewCallback
from director.services.runtime import Caller
from director.services.submissions import Wanted
from director.services.uploads import Chunks
from director.settings import Settings
from director.store import experiments, leases
from director.store.contributions import Stored
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.experiment_rows import ExperimentRow
from director.store.leases import Fence
from director.store.stash import Upload
from tests.tables.experiment_rows import experiment_id

PLAN = """
rounds: 2
tasks:
  - {name: train, kind: train, function: "work:train"}
  - {name: validate, kind: validate, function: "work:validate"}
"""
MODEL: Tensors = {"weights": np.zeros(8, np.float32)}
RESEARCHER = Caller("researcher")


def archive_of(plan: str = PLAN, **files: str) -> bytes:
    """Return a workspace archive with a plan; the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {"plan/plan.yaml": plan, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def payload_of(tensors: Tensors) -> bytes:
    """Return the payload of tensors."""
    return b"".join(payload_pieces(Manifest.of(tensors), tensors))


def content_of(data: bytes) -> Content:
    """Return the identity of bytes."""
    return Content(len(data), hashlib.sha256(data).hexdigest())


async def chunks_of(data: bytes, upload: Upload) -> Chunks:
    """Yield the chunks that an upload still misses."""
    size = upload.chunk_bytes
    for number in range(upload.missing or 0, -(-len(data) // size)):
        yield number, data[number * size : (number + 1) * size]


@dataclass
class World:
    """A process over a database, driven by hand: nothing runs in the background."""

    process: Process

    @property
    def db(self) -> Database:
        """The database."""
        return self.process.runtime.db

    async def register(self, *envoys: str) -> list[Session]:
        """Register envoys."""
        return [await self.process.envoys.register(Shard(envoy, "", 10, (), ())) for envoy in envoys]

    async def row(self, which: str) -> ExperimentRow:
        """Return an experiment's row by its name or its uid, removed or not."""
        async with self.db.read() as tx:
            return await experiments.get(tx, await experiment_id(tx, which))

    async def submit(
        self,
        name: str = "experiment",
        *,
        envoys: Sequence[str] = ("a", "b"),
        plan: str = PLAN,
        archive: bytes | None = None,
        model: Tensors | ModelReference = MODEL,
        caller: Caller = RESEARCHER,
        submission_id: str | None = None,
        **more: Any,
    ) -> ExperimentRow:
        """Submit an experiment; return its row."""
        data = archive_of(plan) if archive is None else archive
        payload = b"" if isinstance(model, ModelReference) else payload_of(model)
        upload = model if isinstance(model, ModelReference) else ModelUpload(content_of(payload), Manifest.of(model))
        command = SubmitExperiment(
            submission_id=submission_id or hashlib.sha256(name.encode()).hexdigest()[:16],
            name=name,
            collaborators=envoys,
            archive=content_of(data),
            model=upload,
            **more,
        )

        def chunks(wanted: Wanted) -> Chunks:
            return chunks_of(data if wanted.part == "archive" else payload, wanted.upload)

        async for step in self.process.submissions.submit(command, caller, chunks):
            found = step
        assert isinstance(found, Experiment)
        return await self.row(found.uid)

    async def admit(self) -> None:
        """Let admission decide once."""
        await self.process.admission.admit()

    async def do_periodic_jobs(self) -> None:
        """Do each periodic job once."""
        for job in self.process.periodic_jobs.each.values():
            await job()

    async def claim(self) -> list[Fence]:
        """Claim what is free, as this process."""
        me = self.process.presence.director_id
        assert me is not None
        async with self.process.runtime.db.write("claim") as tx:
            fences, _ = await leases.claim(tx, me, rules={"weighted_average": 1}, reviews=True, limit=100)
        return fences

    def steps(self, fence: Fence, *, review: ReviewCallback | None = None) -> Steps:
        """Return the steps of an owned experiment."""
        return Steps(self.process.runtime, self.process.ticker, fence, review=review)

    async def drive(self, fence: Fence) -> float | None:
        """Do steps until there is something to wait for, or the experiment is let go."""
        steps = self.steps(fence)
        while True:
            pause = await steps.next()
            if pause != 0.0:
                return pause

    async def wait(self, envoy: str) -> Engagement:
        """Have an envoy take the experiment that is queued for it."""
        given = await self.process.envoys.wait_experiment(envoy, seconds=0)
        assert given is not None, f"nothing for {envoy}"
        return given

    async def work(self, given: Engagement, envoy: str) -> Work:
        """Have an envoy ask for its tasks."""
        answer = await self.process.rounds.poll_tasks(given.experiment_uid, envoy, given.attempt, seconds=0)
        assert isinstance(answer, Work), answer
        return answer

    async def contribute(
        self,
        given: Engagement,
        envoy: str,
        task: str,
        *,
        round_number: int,
        samples: int = 10,
        metrics: Mapping[str, float] | None = None,
        update: Tensors | None = None,
        attempt: int | None = None,
    ) -> Stored:
        """Have an envoy hand in a result."""
        payload = None if update is None else payload_of(update)
        command = Contribute(
            experiment_uid=given.experiment_uid,
            envoy=envoy,
            attempt=given.attempt if attempt is None else attempt,
            round_number=round_number,
            task=task,
            samples=samples,
            metrics=metrics or {},
            update=None if payload is None else content_of(payload),
            manifest_digest="" if update is None else Manifest.of(update).digest,
        )
        begun = await self.process.rounds.begin_contribution(command)
        if isinstance(begun, Stored):
            return begun
        if begun is not None and payload is not None:
            await self.process.rounds.receive_update(command, begun, chunks_of(payload, begun))
        return await self.process.rounds.contribute(command)

    async def finish_round(self, given: Mapping[str, Engagement], *, value: float = 1.0) -> None:
        """Have every envoy do all its open tasks."""
        for number, (envoy, engagement) in enumerate(sorted(given.items())):
            work = await self.work(engagement, envoy)
            for task in work.tasks:
                update = None
                if task.kind == "train":
                    update = {"weights": np.full(work.model.size_bytes // 4, value + number, np.float32)}
                await self.contribute(
                    engagement,
                    envoy,
                    task.name,
                    round_number=work.round_number,
                    samples=10 * (number + 1),
                    metrics={"accuracy": value / 10 + number / 100},
                    update=update,
                )


@asynccontextmanager
async def world(
    url: str, *, clock: Clock | None = None, seed: int = 1, review: ReviewCallback | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Open a federation on a database that has the schema."""
    chosen = {"lease": timedelta(seconds=10), "poll": timedelta(milliseconds=200), "chunk_bytes": 4096} | settings
    process = Process(
        open_database(url, clock=clock), Settings(database=url, **chosen), entropy=SeededEntropy(seed), review=review
    )
    process.presence.lock_file()
    await process.presence.enter()
    try:
        yield World(process)
    finally:
        await process.close()
