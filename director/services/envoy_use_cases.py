"""What envoys do outside rounds: register, send heartbeats, wait for experiments, report failures, leave."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta

from director.domain.commands import Heartbeat
from director.domain.envoy import Device, Engagement, Pulse, Session, Shard, check_fit
from director.domain.experiment import Failure
from director.domain.fields import json_value
from director.domain.history import EventKind, Occurrence
from director.domain.names import LONGEST, LONGEST_TEXT, check_name, check_text, storable
from director.domain.scoring import AGGREGATOR
from director.domain.types import ExperimentId
from director.errors import InvalidArgument, InvalidPlan, NotFound, ShardRejected
from director.services.handouts import Handouts
from director.services.heartbeats import Heartbeats
from director.services.runtime import Runtime
from director.store import envoys, events, experiments, queues, rounds, stash
from director.store.engine.database import Transaction
from director.store.stash import Blob

log = logging.getLogger(__name__)

MAX_DEVICES = 64


class Envoys:
    """The use cases of envoys."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime
        self._db = runtime.db
        self._heartbeats = Heartbeats(runtime)
        self._handouts = Handouts(runtime)

    @property
    def period(self) -> timedelta:
        """How often envoys send heartbeats."""
        return self._runtime.settings.envoy_health_check_period

    async def register(self, shard: Shard, *, sdk_version: str = "", python_version: str = "") -> Session:
        """Enter a shard, or replace its description; a new session of its envoy begins.

        Raises:
            InvalidArgument: a bad name, text, shape or number.
            ShardRejected: its shapes are not the federation's.
            EnvoyRetired: an operator retired the envoy.
        """
        check_shard(shard)
        for what, version in (("the SDK's version", sdk_version), ("Python's version", python_version)):
            if version:
                check_name(what, version)
        settings = self._runtime.settings
        try:
            check_fit(shard, sample_shape=settings.sample_shape, target_shape=settings.target_shape)
        except ShardRejected as error:
            log.warning("refused: %s", error)
            raise
        session = Session(self._runtime.entropy.token(), self.period)
        async with self._db.write("register") as tx:
            await envoys.register(
                tx,
                shard,
                session_id=session.id,
                period=self.period,
                sdk_version=sdk_version,
                python_version=python_version,
            )
        log.info("envoy %s registered its shard", shard.envoy)
        return session

    async def heartbeat(self, heartbeat: Heartbeat) -> Pulse:
        """Store that an envoy is alive; return what it should be working on.

        Raises:
            EnvoyNotFound: it never registered.
            EnvoyRetired: an operator retired it.
            StaleSession: the session has ended; nothing was stored.
            InvalidArgument: its devices cannot be stored.
        """
        check_devices(heartbeat.devices)
        return Pulse(self.period, await self._heartbeats.beat(heartbeat))

    async def leave(self, envoy: str, session_id: str) -> None:
        """Note that an envoy said goodbye; in an older session nothing changes."""
        async with self._db.write("leave envoy") as tx:
            await envoys.leave(tx, envoy, session_id)

    async def wait_experiment(
        self, envoy: str, *, session_id: str | None = None, seconds: float | None = None
    ) -> Engagement | None:
        """Wait for an experiment; None if there is none in time: ask again.

        Raises:
            EnvoyNotFound: it never registered.
            EnvoyRetired: an operator retired it.
            StaleSession: the session has ended.
        """
        patience = self._runtime.settings.long_poll.total_seconds() if seconds is None else seconds
        return await self._handouts.wait(envoy, session_id=session_id, seconds=patience)

    async def archive(self, envoy: str, uid: str) -> Blob:
        """Return the archive of an experiment that the envoy takes part in.

        Raises:
            NotFound: it takes no part, or the experiment was removed.
            EnvoyRetired: an operator retired it.
        """
        async with self._db.read() as tx:
            await envoys.refuse(tx, envoy)
            experiment_id = await experiments.id_of(tx, uid)
            await queues.get(tx, experiment_id, envoy)
            experiment = await experiments.get(tx, experiment_id)
            if experiment.archive_blob_id is None:
                raise NotFound(f"experiment {uid} was removed, and its archive with it")
            return await stash.get(tx, experiment.archive_blob_id)

    async def report_failure(self, envoy: str, uid: str, *, attempt: int | None, failure: Failure) -> None:
        """Take an envoy out of an experiment that it cannot go on with; what it completed still counts.

        Raises:
            NotFound: it takes no part.
            EnvoyRetired: an operator retired it.
            StaleAttempt: the experiment was handed to it again since.
        """
        async with self._db.write("report failure") as tx:
            await envoys.refuse(tx, envoy)
            experiment_id = await experiments.id_of(tx, uid)
            await experiments.lock(tx, experiment_id)
            part = await queues.get(tx, experiment_id, envoy, attempt=attempt)
            if part.state.engaged:
                await fail(tx, experiment_id, envoy, storable_failure(failure), actor=envoy)


async def fail(tx: Transaction, experiment_id: ExperimentId, envoy: str, failure: Failure, *, actor: str) -> None:
    """Take an envoy out of an experiment. The caller holds the experiment's row."""
    assignment = await rounds.assignment(tx, experiment_id, envoy)
    if assignment is not None and assignment.todo:
        await queues.fail_assignment(tx, experiment_id, envoy)
    if await queues.fail(tx, experiment_id, envoy, failure):
        details = {"envoy": envoy, "task": failure.task, "error_type": failure.error_type}
        happened = Occurrence(EventKind.COLLABORATOR_FAILED, actor, str(failure), details)
        await events.append(tx, experiment_id, happened)


def storable_failure(failure: Failure) -> Failure:
    """Return a failure in a form that can be stored: the end of a long text, the beginning of a long name."""
    return replace(
        failure,
        message=storable(failure.message) or "no reason given",
        task=storable(failure.task)[:LONGEST],
        error_type=storable(failure.error_type)[:LONGEST],
    )


def check_shard(shard: Shard) -> None:
    """Refuse a shard that cannot be stored.

    Raises:
        InvalidArgument: a bad name, text, shape or number.
    """
    check_name("the envoy's name", shard.envoy)
    if shard.envoy == AGGREGATOR:
        raise InvalidArgument(f"an envoy cannot have the name {AGGREGATOR!r}: averages carry it; choose another one")
    if not 0 <= shard.samples < 1 << 63 or any(length < 0 for length in shard.sample_shape + shard.target_shape):
        raise InvalidArgument(f"shard of envoy {shard.envoy!r}: samples and shapes cannot be negative")
    check_text("the shard's description", shard.description)


def check_devices(devices: Sequence[Device]) -> None:
    """Refuse devices that cannot be stored, before they share a transaction with the heartbeats of others.

    Raises:
        InvalidArgument: the text says what is wrong.
    """
    if len(devices) > MAX_DEVICES:
        raise InvalidArgument(f"{len(devices)} devices; at most {MAX_DEVICES} are taken")
    try:
        found = json_value([asdict(device) for device in devices], "devices")
    except InvalidPlan as error:
        raise InvalidArgument(str(error)) from None
    if len(json.dumps(found)) > LONGEST_TEXT:
        raise InvalidArgument(f"the devices take more than {LONGEST_TEXT} characters")
