"""The director in process, under the names it has always had: each method hands one command to the services.

What is absent or not the caller's is None, or an empty dict. Everything else is a typed error.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from director.domain.commands import Heartbeat, ModelUpload, SubmitExperiment
from director.domain.envoy import Envoy
from director.domain.experiment import Collaborator, Experiment, Failure
from director.domain.history import Cursor, metrics_of
from director.domain.tensors import Manifest, payload_pieces
from director.domain.types import Array, Tensors
from director.errors import (
    ExperimentNotFound,
    ModelNotReady,
    NotFound,
    ShardRejected,
    Unavailable,
)
from director.facade.dicts import (
    describe,
    read_devices,
    read_shard,
    status,
    summarize,
    write_envoy,
    write_shard,
)
from director.facade.opened import Opened
from director.facade.pieces import file_pieces, measure, rechunked
from director.services.runtime import Caller
from director.services.submissions import Wanted
from director.services.uploads import Chunks
from director.store import contents

log = logging.getLogger(__name__)

NOBODY = Caller("")
EVERYBODY = Caller("", operator=True)


class Director(Opened):
    """The central node of a federation, over one SQL database. Use it as an asynchronous context manager."""

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
        return [write_shard(each.shard) async for each in self._envoys(NOBODY)]

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
        heartbeat = Heartbeat(envoy_name, is_experiment_running, read_devices(cuda_devices_status))
        pulse = await self.process.envoys.heartbeat(heartbeat)
        return max(1, round(pulse.period.total_seconds()))

    async def get_envoys(self) -> list[dict[str, Any]]:
        """Return all envoys, whether they are online, and what they serve."""
        await self.open()
        return [write_envoy(each) async for each in self._envoys(EVERYBODY)]

    async def _envoys(self, caller: Caller) -> AsyncIterator[Envoy]:
        page = await self.process.federation.envoys(caller)
        while True:
            for each in page.items:
                yield each
            if not page.next_token:
                return
            page = await self.process.federation.envoys(caller, page_token=page.next_token)

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
            ExperimentNotFound: no experiment has this name.
        """
        await self.open()
        archive = await self.process.experiments.archive(experiment_name)
        path = self.new_directory() / "archive.zip"
        with path.open("wb") as file:
            async for _number, data in contents.chunks(self.process.runtime.db, archive):
                await asyncio.to_thread(file.write, data)
        return path

    async def set_experiment_failed(self, *, experiment_name: str, collaborator_name: str) -> None:
        """Take an envoy out of an experiment that it cannot go on with; nothing happens where it takes no part."""
        await self.open()
        try:
            found = await self.process.experiments.get(experiment_name, EVERYBODY)
            failure = Failure("reported by the envoy")
            await self.process.envoys.report_failure(collaborator_name, found.uid, attempt=None, failure=failure)
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
            model=ModelUpload(model, manifest),
        )

        def chunks_of(wanted: Wanted) -> Chunks:
            pieces = file_pieces(path) if wanted.part == "archive" else payload_pieces(manifest, tensor_dict)
            return rechunked(pieces, wanted.upload)

        async for _step in self.process.submissions.submit(command, caller, chunks_of):
            pass
        return True

    async def get_experiment_status(self, experiment_name: str, caller: str) -> str | None:
        """Return pending, in_progress, finished, failed or rejected; None if absent or not the caller's."""
        found = await self._find(experiment_name, caller)
        return None if found is None else status(found.state)

    async def get_experiments_list(self, caller: str) -> list[dict[str, Any]]:
        """Return the caller's experiments, newest first."""
        await self.open()
        asking, token, found = self.process.caller(caller), "", []
        while True:
            page = await self.process.experiments.listed(asking, page_token=token, plans=True)
            found += [summarize(each) for each in page.items]
            if not (token := page.next_token):
                return found

    async def get_experiment_description(self, caller: str, name: str) -> dict[str, Any]:
        """Return what is known of an experiment; empty if absent or not the caller's."""
        found = await self._find(name, caller)
        return {} if found is None else describe(found, await self._collaborators(found, caller))

    async def _collaborators(self, experiment: Experiment, caller: str) -> list[Collaborator]:
        asking, token, found = self.process.caller(caller), "", list[Collaborator]()
        while True:
            page = await self.process.experiments.collaborators(experiment.uid, asking, page_token=token)
            found += page.items
            if not (token := page.next_token):
                return found

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
        asking = self.process.caller(caller)
        uid = (await self.process.experiments.get(experiment_name, asking)).uid
        epoch = (await self.process.federation.info()).epoch
        cursor = Cursor(metrics_of(uid), epoch, after)
        async for metrics in self.process.streams.metrics(uid, asking, after=cursor, follow=True):
            for each in metrics:
                yield {
                    "metric_origin": each.origin,
                    "task_name": each.task,
                    "metric_name": each.name,
                    "metric_value": each.value,
                    "round": each.round,
                }
            if not metrics:
                yield None

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

        Several at once, also those that a previous process left.
        """
        await self.open()
        await self.process.run()

    async def _find(self, name: str, caller: str) -> Experiment | None:
        await self.open()
        try:
            return await self.process.experiments.get(name, self.process.caller(caller))
        except ExperimentNotFound:
            return None
