"""An envoy's part in one experiment, from its archive to its last task.

The envoy keeps no record of its progress. It does what the director says, also when that is an earlier round. Every
error is reported to the director.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from director.concurrency import uninterrupted
from director.domain.commands import Contribute
from director.domain.content import Content
from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.tasks import Task
from director.domain.tensors import Manifest
from director.domain.types import TaskKind
from director.domain.work import Idle, Quit, Work
from director.envoy.connections import until_answered
from director.envoy.director_client import DirectorClient
from director.envoy.protocol import RunTask, TaskDone, failure_of
from director.envoy.shard_descriptor import ShardSpec
from director.envoy.side_by_side import in_daemon_thread
from director.envoy.worker_process import Worker, WorkerFailed
from director.envoy.workspace import unpack
from director.errors import (
    Corrupt,
    DirectorError,
    EnvoyRetired,
    Forbidden,
    ModelNotFound,
    NotFound,
    RoundClosed,
    StaleAttempt,
)

DAMAGED_UPDATES = 3
MOVED_ON_SECONDS = 1.0

Review = Callable[[Path], bool]
"""Looks at an unpacked workspace, and returns whether its code may run here."""

log = logging.getLogger("director.envoy")


@dataclass(frozen=True, slots=True)
class Site:
    """What stays the same from one experiment to the next: the envoy's name, its shard, and where it works."""

    envoy: str
    shard: ShardSpec
    directory: Path
    review: Review | None


async def take_part(client: DirectorClient, engagement: Engagement, site: Site) -> None:
    """Do what the director asks for in an experiment, until the envoy's part in it is over.

    Raises:
        StaleAttempt: the experiment was handed out again; the envoy may not go on with this attempt.
        EnvoyRetired: an operator retired the envoy.
    """
    directory = site.directory / f"{engagement.experiment_uid}-{engagement.attempt}"
    log.info("takes part in experiment %s, attempt %d", engagement.experiment_name, engagement.attempt)
    try:
        await _Part(client, engagement, site, directory).run()
    except (StaleAttempt, EnvoyRetired):
        raise
    except NotFound as error:
        log.info("experiment %s is over: %s", engagement.experiment_name, error)
    except WorkerFailed as error:
        await _report(client, engagement, error.failure)
    except DirectorError as error:
        await _report(client, engagement, failure_of(str(error), error=error))
    except Exception as error:
        log.exception("experiment %s: a defect of the envoy", engagement.experiment_name)
        await _report(client, engagement, failure_of(f"the envoy itself failed: {error}", error=error))
    finally:
        await uninterrupted(asyncio.to_thread(remove, directory))


def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, as far as that is possible."""
    shutil.rmtree(directory, ignore_errors=True)


async def _report(client: DirectorClient, engagement: Engagement, failure: Failure) -> None:
    log.error("experiment %s failed here: %s", engagement.experiment_name, failure)
    try:
        await client.report_failure(engagement, failure)
    except DirectorError as error:
        log.info("the director does not accept the failure: %s", error)


class _Part:
    def __init__(self, client: DirectorClient, engagement: Engagement, site: Site, directory: Path) -> None:
        self._client = client
        self._engagement = engagement
        self._site = site
        self._directory = directory
        self._workspace = directory / "workspace"
        self._update = directory / "update"
        self._manifest_file = directory / "manifest"
        self._manifest: Manifest | None = None

    async def run(self) -> None:
        await self._fetch_workspace()
        await self._review()
        async with Worker(self._workspace, self._site.shard) as worker:
            while True:
                answer: Work | Quit = await until_answered(self._poll)
                if isinstance(answer, Quit):
                    log.info("experiment %s is over: %s", self._engagement.experiment_name, answer.reason)
                    return
                await self._work(worker, answer)

    async def _poll(self) -> Work | Quit | None:
        answer = await self._client.poll_tasks(self._engagement)
        return None if isinstance(answer, Idle) else answer

    async def _fetch_workspace(self) -> None:
        await uninterrupted(asyncio.to_thread(remove, self._directory))
        self._directory.mkdir(mode=0o700)
        archive = self._directory / "archive.zip"
        await self._client.download_archive(self._engagement, archive)
        await uninterrupted(asyncio.to_thread(unpack, archive, self._workspace))
        archive.unlink()

    async def _review(self) -> None:
        if self._site.review is None:
            return
        try:
            approved = await in_daemon_thread(self._site.review, self._workspace)
        except Exception as error:
            log.exception("the review failed")
            raise Forbidden(f"the review at envoy {self._site.envoy!r} failed: {type(error).__name__}") from error
        if not approved:
            raise Forbidden(f"review refused by envoy {self._site.envoy!r}")

    async def _work(self, worker: Worker, work: Work) -> None:
        try:
            model, manifest = await self._fetch_model(work)
        except ModelNotFound as error:  # the round has closed in between; ask what to do now
            log.info("round %d: %s", work.round_number, error)
            await asyncio.sleep(MOVED_ON_SECONDS)
            return
        for task in work.tasks:
            done = await worker.run(self._command(task, work, model))
            log.info("round %d: %s done, %s", work.round_number, task.name, dict(done.metrics))
            try:
                await self._contribute(task, work, manifest, done)
            except RoundClosed as error:
                log.info("round %d: %s came late: %s", work.round_number, task.name, error)
                return

    async def _fetch_model(self, work: Work) -> tuple[Path, Manifest]:
        """Return the file with the base model, and its manifest; download what is not held already.

        Raises:
            ModelNotFound: the director has replaced the model in between, or no longer keeps it.
        """
        model, held = self._directory / f"model-{work.model.digest}", self._manifest
        if held is not None and held.digest == work.manifest_digest and model.exists():
            return model, held
        for older in self._directory.glob("model-*"):
            older.unlink()
        content, manifest = await self._client.download_model(self._engagement, work.base_model, model, held=held)
        if content != work.model or manifest.digest != work.manifest_digest:
            model.unlink()
            raise ModelNotFound(f"model {work.base_model} was replaced while it was being downloaded")
        if manifest is not held:
            self._manifest_file.write_bytes(manifest.encoded)
            self._manifest = manifest
        return model, manifest

    def _command(self, task: Task, work: Work, model: Path) -> RunTask:
        return RunTask(
            name=task.name,
            kind=task.kind,
            function=task.function,
            settings=task.settings,
            round=work.round_number,
            model=str(model.absolute()),
            manifest=str(self._manifest_file.absolute()),
            update=str(self._update.absolute()),
        )

    async def _contribute(self, task: Task, work: Work, manifest: Manifest, done: TaskDone) -> None:
        """Send a result until it is acknowledged; one that arrives damaged is sent three times at most."""
        trains = task.kind is TaskKind.TRAIN
        result = Contribute(
            experiment_uid=self._engagement.experiment_uid,
            envoy=self._site.envoy,
            attempt=self._engagement.attempt,
            round_number=work.round_number,
            task=task.name,
            samples=done.samples,
            metrics=done.metrics,
            update=Content(done.size_bytes, done.sha256) if trains else None,
            manifest_digest=manifest.digest if trains else "",
        )
        for _ in range(DAMAGED_UPDATES - 1):
            try:
                return await self._client.contribute(result, self._update if trains else None)
            except Corrupt as error:
                log.warning("round %d: %s arrived damaged: %s", work.round_number, task.name, error)
        return await self._client.contribute(result, self._update if trains else None)
