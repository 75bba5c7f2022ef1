"""The director in process, under the names it has always had: each method hands one command to the services.

Absent and not the caller's are the same here: None, or an empty dict. Everything else is a typed error.
"""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from director.domain.messages import Heartbeat, SubmitExperiment
from director.domain.tensors import Manifest, payload_pieces
from director.domain.types import Array, Tensors
from director.errors import (
    ExperimentNotFound,
    InvalidArgument,
    ModelNotReady,
    NotFound,
    ShardRejected,
    Unavailable,
)
from director.facade.dicts import (
    as_shape,
    describe,
    read_shard,
    status,
    summarize,
    write_envoy,
    write_metric,
    write_shard,
)
from director.facade.pieces import file_pieces, measure, rechunked
from director.services.experiment_use_cases import ExperimentView
from director.services.process import Process
from director.services.reviewing import ReviewCallback
from director.services.runtime import Caller
from director.services.submissions import Submitting
from director.settings import Settings, load_settings
from director.store import contents
from director.store.engine.opening import open_database

log = logging.getLogger(__name__)

NOBODY = Caller("")
EVERYBODY = Caller("", operator=True)


class Director:
    """The central node of a federation, over one SQL database. Use it as an asynchronous context manager."""

    def __init__(
        self,
        *,
        tls: bool = True,
        root_certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        certificate: Path | str | None = None,
        sample_shape: Sequence[int | str] | None = None,
        target_shape: Sequence[int | str] | None = None,
        review_plan_callback: ReviewCallback | None = None,
        envoy_health_check_period: int = 60,
        install_requirements: bool = False,
        database: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Prepare a director; nothing is opened before its first use.

        Args:
            tls: whether a server of this director speaks TLS and asks clients for certificates.
            root_certificate: CA certificates that clients' are checked against, as a PEM file.
            private_key: the director's private key, as a PEM file.
            certificate: the director's certificate chain, as a PEM file.
            sample_shape: the shape of one sample that every shard must have; any if None.
            target_shape: the shape of one target that every shard must have; any if None.
            review_plan_callback: asked with an experiment's name and the path of its plan, before it may run.
            envoy_health_check_period: seconds between an envoy's heartbeats.
            install_requirements: refused when true: the director runs no code of others.
            database: a database URL, by default `sqlite:///director.db`.
            settings: everything at once, in place of the other arguments.

        Raises:
            InvalidArgument: a wrong setting; the text names it.
        """
        self.tls = tls
        self.settings = settings or load_settings(
            database=database,
            root_certificate=root_certificate,
            private_key=private_key,
            certificate=certificate,
            sample_shape=as_shape(sample_shape),
            target_shape=as_shape(target_shape),
            envoy_health_check_period=envoy_health_check_period,
            install_requirements=install_requirements,
        )
        if self.settings.install_requirements:
            raise InvalidArgument("install_requirements must be false: the director runs no code of others")
        self.process = Process(open_database(self.settings.database), self.settings, review=review_plan_callback)
        self._opening: asyncio.Task[None] | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        """Open the database and enter the federation."""
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the federation."""
        await self.close()

    async def open(self) -> None:
        """Open the database and enter the federation; once, whoever comes first.

        Raises:
            SchemaOutdated, PreconditionFailed, Unavailable: the text says what to do.
        """
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.ensure_future(self.process.open())
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Let the experiments go, leave the federation, and delete the files that were handed out."""
        await self.process.drain()
        await self.process.close()
        if self._files is not None:
            self._files.cleanup()

    # Envoys

    async def acknowledge_shard(self, shard_info: Mapping[str, Any]) -> bool:
        """Register a shard; False if its shapes are not the federation's (the log says which)."""
        await self.open()
        try:
            await self.process.envoys.register(read_shard(shard_info))
        except ShardRejected:
            return False
        return True

    async def get_dataset_info(self) -> tuple[list[int] | None, list[int] | None]:
        """Return the sample shape and the target shape that every shard must have; None where any will do."""
        shapes = self.settings.sample_shape, self.settings.target_shape
        sample, target = (None if shape is None else list(shape) for shape in shapes)
        return sample, target

    async def get_registered_shards(self) -> list[dict[str, Any]]:
        """Return the shards of all envoys."""
        await self.open()
        return [write_shard(each.shard) for each in await self.process.envoys.listed(NOBODY)]

    async def update_envoy_status(
        self,
        *,
        envoy_name: str,
        is_experiment_running: bool,
        cuda_devices_status: Sequence[Mapping[str, Any]] | None = None,
    ) -> int:
        """Store that an envoy is alive; return after how many seconds to say so again.

        Raises:
            ShardNotFoundError: it never registered.
        """
        await self.open()
        await self.process.envoys.heartbeat(Heartbeat(envoy_name, is_experiment_running, cuda_devices_status or ()))
        return max(1, round(self.process.envoys.period.total_seconds()))

    async def get_envoys(self) -> list[dict[str, Any]]:
        """Return all envoys, whether they are online, and what they serve."""
        await self.open()
        return [write_envoy(each) for each in await self.process.envoys.listed(EVERYBODY)]

    async def wait_experiment(self, envoy_name: str) -> str:
        """Wait, for however long, for the next experiment of an envoy; return its name.

        Raises:
            ShardNotFoundError: the envoy never registered.
            Unavailable: this director is closing.
        """
        await self.open()
        while not self.process.runtime.wakeups.closing:
            given = await self.process.envoys.wait_experiment(envoy_name)
            if given is not None:
                return given.experiment_name
        raise Unavailable("this director is closing; wait at another one")

    async def get_experiment_data(self, experiment_name: str) -> Path:
        """Return an experiment's archive as a temporary file, which goes with this director.

        Raises:
            ExperimentNotFound: there is none of this name.
        """
        await self.open()
        async with self.process.runtime.db.read() as tx:
            archive = await self.process.experiments.archive(tx, experiment_name)
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="director-")
        path = Path(tempfile.mkdtemp(dir=self._files.name)) / "archive.zip"
        with path.open("wb") as file:
            async for _number, data in contents.chunks(self.process.runtime.db, archive):
                await asyncio.to_thread(file.write, data)
        return path

    async def set_experiment_failed(self, *, experiment_name: str, collaborator_name: str) -> None:
        """Take an envoy out of an experiment that it cannot go on with; nothing happens where it takes no part."""
        await self.open()
        try:
            view = await self.process.experiments.get(experiment_name, EVERYBODY)
            await self.process.envoys.report_failure(
                collaborator_name, view.experiment.id, attempt=None, error="reported by the envoy"
            )
        except NotFound as error:
            log.info("ignored a failure report: %s", error)

    # Users

    async def set_new_experiment(
        self,
        *,
        experiment_name: str,
        sender_name: str,
        tensor_dict: Tensors,
        collaborator_names: Sequence[str],
        experiment_archive_path: Path | str,
    ) -> bool:
        """Submit an experiment; sending the same again is the same experiment.

        Raises:
            AlreadyExists: the name is taken by something else; nothing changed.
            InvalidArgument: the text says what is wrong with the archive, the plan, the model or the collaborators.
        """
        await self.open()
        manifest, path = Manifest.of(tensor_dict), Path(experiment_archive_path)
        archive = await asyncio.to_thread(measure, file_pieces(path))
        model = await asyncio.to_thread(measure, payload_pieces(manifest, tensor_dict))
        caller = self.process.caller(sender_name)
        identity = "\0".join([experiment_name, archive.digest, model.digest, *sorted(collaborator_names)])
        command = SubmitExperiment(
            submission_id=await self.process.submissions.unused_id(
                caller, hashlib.sha256(identity.encode()).hexdigest()[:48]
            ),
            name=experiment_name,
            collaborators=list(collaborator_names),
            archive=archive,
            model=model,
            manifest=manifest,
        )
        begun = await self.process.submissions.begin(command, caller)
        if isinstance(begun, Submitting):
            chunks = rechunked(file_pieces(path), begun.archive)
            await self.process.submissions.receive_archive(begun, chunks)
            chunks = rechunked(payload_pieces(manifest, tensor_dict), begun.model)
            await self.process.submissions.receive_model(begun, chunks)
            await self.process.submissions.accept(begun)
        return True

    async def get_experiment_status(self, experiment_name: str, caller: str) -> str | None:
        """Return pending, in_progress, finished, failed or rejected; None if absent or not the caller's."""
        view = await self._find(experiment_name, caller)
        return None if view is None else status(view.experiment.state)

    async def get_experiments_list(self, caller: str) -> list[dict[str, Any]]:
        """Return the caller's experiments, newest first."""
        await self.open()
        found, token = await self.process.experiments.listed(self.process.caller(caller))
        while token:
            more, token = await self.process.experiments.listed(self.process.caller(caller), page_token=token)
            found += more
        return [summarize(view) for view in found]

    async def get_experiment_description(self, caller: str, name: str) -> dict[str, Any]:
        """Return what is known of an experiment; empty if absent or not the caller's."""
        view = await self._find(name, caller)
        return {} if view is None else describe(view)

    async def get_trained_model(self, experiment_name: str, caller: str, model_type: str) -> dict[str, Array] | None:
        """Return the "best" or the "last" model, whole in memory.

        None if there is none yet, or it is not the caller's.
        """
        await self.open()
        if model_type not in ("best", "last"):
            log.error("there is no model type %r; expected best or last", model_type)
            return None
        try:
            experiment, model = await self.process.experiments.model(
                experiment_name, self.process.caller(caller), model_type
            )
            payload = bytearray()
            async for _number, data in contents.chunks(self.process.runtime.db, model.blob):
                payload += data
        except (NotFound, ModelNotReady) as error:
            log.info("no model: %s", error)
            return None
        return experiment.manifest.arrays(payload)

    async def stream_metrics(
        self, experiment_name: str, caller: str, *, after: int = 0
    ) -> AsyncIterator[dict[str, Any] | None]:
        """Yield each metric once, in order; None while there is nothing new; end with the experiment.

        Metrics are numbered without a gap, so a reader that comes back passes as `after` how many it has had.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
        """
        await self.open()
        stream = self.process.streams.metrics(experiment_name, self.process.caller(caller), after=after, follow=True)
        async for metric, _epoch in stream:
            yield None if metric is None else write_metric(metric)

    async def remove_experiment_data(self, experiment_name: str, caller: str) -> bool:
        """Drop an experiment's bytes and take it from its users' lists; False if absent or not the caller's."""
        await self.open()
        try:
            await self.process.experiments.remove(experiment_name, self.process.caller(caller))
        except ExperimentNotFound:
            return False
        return True

    async def start_experiment_execution_loop(self) -> None:
        """Admit, claim and drive experiments, until cancelled.

        Several at once, whatever this process or another left.
        """
        await self.open()
        await self.process.run()

    async def _find(self, name: str, caller: str) -> ExperimentView | None:
        await self.open()
        try:
            return await self.process.experiments.get(name, self.process.caller(caller))
        except ExperimentNotFound:
            return None
