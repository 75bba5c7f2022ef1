"""An envoy's part in one experiment, from its archive to its last task.

No record of progress is kept: the director's word counts, also backwards. What goes wrong is told to the director.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from director.concurrency import uninterrupted
from director.domain.messages import Content, Contribute
from director.domain.types import TaskKind
from director.envoy.answers import Engagement, Order, Quit, Work
from director.envoy.connections import until_answered
from director.envoy.director_client import DirectorClient
from director.envoy.protocol import RunTask, TaskDone, clipped
from director.envoy.shard_descriptor import ShardSpec
from director.envoy.side_by_side import in_daemon_thread
from director.envoy.worker_process import Worker
from director.envoy.workspace import unpack
from director.errors import Corrupt, DirectorError, Forbidden, ModelNotFound, NotFound, RoundClosed, StaleAttempt

DAMAGED_UPDATES = 3
MOVED_ON_SECONDS = 1.0

Review = Callable[[Path], bool]
"""Looks at an unpacked workspace and says whether its code may run here."""

log = logging.getLogger("director.envoy")


@dataclass(frozen=True, slots=True)
class Site:
    """What stays the same from one experiment to the next: who the envoy is, its shard, and where it works."""

    envoy: str
    shard: ShardSpec
    directory: Path
    review: Review | None


async def take_part(client: DirectorClient, engagement: Engagement, site: Site) -> None:
    """Do what the director asks for in an experiment, until the envoy's part in it is over.

    Raises:
        StaleAttempt: the experiment was handed out again since; the envoy may not go on with this attempt.
    """
    directory = site.directory / f"{engagement.experiment_id}-{engagement.attempt}"
    log.info("takes part in experiment %s, attempt %d", engagement.experiment_name, engagement.attempt)
    try:
        await _Part(client, engagement, site, directory).run()
    except StaleAttempt:
        raise
    except NotFound as error:
        log.info("experiment %s is over: %s", engagement.experiment_name, error)
    except DirectorError as error:
        await _report(client, engagement, str(error))
    except Exception as error:
        log.exception("experiment %s: a defect of the envoy", engagement.experiment_name)
        await _report(client, engagement, f"the envoy itself failed: {type(error).__name__}: {error}")
    finally:
        await uninterrupted(asyncio.to_thread(remove, directory))


def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, as far as that is possible."""
    shutil.rmtree(directory, ignore_errors=True)


async def _report(client: DirectorClient, engagement: Engagement, text: str) -> None:
    log.error("experiment %s failed here: %s", engagement.experiment_name, text)
    try:
        await client.report_failure(engagement, clipped(text))
    except DirectorError as error:
        log.info("the director does not take the failure: %s", error)


class _Part:
    def __init__(self, client: DirectorClient, engagement: Engagement, site: Site, directory: Path) -> None:
        self._client = client
        self._engagement = engagement
        self._site = site
        self._directory = directory
        self._workspace = directory / "workspace"
        self._update = directory / "update"

    async def run(self) -> None:
        await self._fetch_workspace()
        await self._review()
        async with Worker(self._workspace, self._site.shard) as worker:
            while True:
                answer: Work | Quit = await until_answered(lambda: self._client.get_tasks(self._engagement))
                if isinstance(answer, Quit):
                    log.info("experiment %s is over: %s", self._engagement.experiment_name, answer.reason)
                    return
                await self._work(worker, answer)

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
            model = await self._fetch_model(work)
        except ModelNotFound as error:  # the round has closed since; ask what to do now
            log.info("round %d: %s", work.round_number, error)
            await asyncio.sleep(MOVED_ON_SECONDS)
            return
        for order in work.orders:
            done = await worker.run(self._command(order, work, model))
            log.info("round %d: %s done, %s", work.round_number, order.name, dict(done.metrics))
            try:
                await self._contribute(order, work, done)
            except RoundClosed as error:
                log.info("round %d: %s came late: %s", work.round_number, order.name, error)
                return

    async def _fetch_model(self, work: Work) -> Path:
        """Return the file with the base model, which is downloaded unless it is the one held."""
        model = self._directory / f"model-{work.digest}"
        if not model.exists():
            for older in self._directory.glob("model-*"):
                older.unlink()
            digest = await self._client.download_model(self._engagement, work.base_model, model)
            if digest != work.digest:
                model.unlink()
                raise ModelNotFound(f"model {work.base_model} is another one by now")
        return model

    def _command(self, order: Order, work: Work, model: Path) -> RunTask:
        return RunTask(
            name=order.name,
            kind=order.kind,
            function=order.function,
            settings=order.settings,
            round=work.round_number,
            model=str(model.absolute()),
            manifest=work.manifest.to_json(),
            update=str(self._update.absolute()),
        )

    async def _contribute(self, order: Order, work: Work, done: TaskDone) -> None:
        """Send a result until it is acknowledged; bytes that arrive damaged are sent again, a few times."""
        trains = order.kind is TaskKind.TRAIN
        result = Contribute(
            experiment_id=self._engagement.experiment_id,
            envoy=self._site.envoy,
            attempt=self._engagement.attempt,
            round_number=work.round_number,
            task=order.name,
            samples=done.samples,
            metrics=done.metrics,
            update=Content(done.size_bytes, done.sha256) if trains else None,
            manifest=work.manifest if trains else None,
        )
        for _ in range(DAMAGED_UPDATES - 1):
            try:
                return await self._client.contribute(result, self._update if trains else None)
            except Corrupt as error:
                log.warning("round %d: %s arrived damaged: %s", work.round_number, order.name, error)
        return await self._client.contribute(result, self._update if trains else None)
