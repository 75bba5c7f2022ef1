"""What envoys do outside rounds, and who looks at them."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from director.domain.envoys import Shard, check_fit
from director.domain.fields import json_value
from director.domain.messages import Event, EventKind, Heartbeat
from director.domain.names import LONGEST_TEXT, check_name, check_text, storable
from director.domain.scoring import AGGREGATOR
from director.domain.types import ExperimentId
from director.errors import InvalidArgument, InvalidPlan, NotFound, ShardRejected
from director.services.handouts import Handouts
from director.services.heartbeats import Heartbeats
from director.services.runtime import Caller, Runtime
from director.store import envoys, events, experiments, queues, rounds, stash
from director.store.envoys import Engagement, Envoy
from director.store.stash import Blob

log = logging.getLogger(__name__)


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

    async def register(self, shard: Shard) -> timedelta:
        """Enter a shard, or say anew what it is; return the period of heartbeats.

        Raises:
            InvalidArgument: a bad name, text, shape or number.
            ShardRejected: its shapes are not the federation's.
        """
        check_name("the envoy's name", shard.envoy)
        if shard.envoy == AGGREGATOR:
            raise InvalidArgument(f"no envoy is named {AGGREGATOR!r}: averages carry that name; choose another one")
        if not 0 <= shard.samples < 1 << 63 or any(length < 0 for length in shard.sample_shape + shard.target_shape):
            raise InvalidArgument(f"shard of envoy {shard.envoy!r}: samples and shapes cannot be negative")
        check_text("the shard's description", shard.description)
        settings = self._runtime.settings
        try:
            check_fit(shard, sample_shape=settings.sample_shape, target_shape=settings.target_shape)
        except ShardRejected as error:
            log.warning("refused: %s", error)
            raise
        async with self._db.write("register") as tx:
            await envoys.register(tx, shard, period=self.period)
        log.info("envoy %s registered its shard", shard.envoy)
        return self.period

    async def heartbeat(self, heartbeat: Heartbeat) -> Engagement | None:
        """Store that an envoy is alive; return what it should be working on.

        Raises:
            EnvoyNotFound: it never registered.
            InvalidArgument: its devices cannot be stored.
        """
        check_devices(heartbeat.devices)
        return await self._heartbeats.beat(heartbeat)

    async def wait_experiment(self, envoy: str, *, seconds: float | None = None) -> Engagement | None:
        """Wait for an experiment; None if there is none in time: ask again.

        Raises:
            EnvoyNotFound: it never registered.
        """
        patience = self._runtime.settings.long_poll.total_seconds() if seconds is None else seconds
        return await self._handouts.wait(envoy, seconds=patience)

    async def listed(self, caller: Caller) -> list[Envoy]:
        """Return all envoys; what they work on is named only where the caller may see it."""
        async with self._db.read() as tx:
            found = await envoys.listed(tx, lease=self._runtime.settings.lease)
            serving = [each.experiment_id for each in found if each.experiment_id is not None]
            visible = await experiments.names(tx, serving, caller=caller.scope)
        return [each.seen_by(visible) for each in found]

    async def archive(self, envoy: str, experiment_id: ExperimentId) -> Blob:
        """Return the archive of an experiment that the envoy takes part in.

        Raises:
            NotFound: it takes no part, or the experiment was removed.
        """
        async with self._db.read() as tx:
            await queues.get(tx, experiment_id, envoy)
            experiment = await experiments.get(tx, experiment_id)
            if experiment.archive_blob_id is None:
                raise NotFound(f"experiment {experiment_id} was removed, and its archive with it")
            return await stash.get(tx, experiment.archive_blob_id)

    async def report_failure(self, envoy: str, experiment_id: ExperimentId, *, attempt: int | None, error: str) -> None:
        """Take an envoy out of an experiment that it cannot go on with; what it completed still counts.

        Raises:
            NotFound: it takes no part.
            StaleAttempt: the experiment was handed to it again since.
        """
        async with self._db.write("report failure") as tx:
            await experiments.lock(tx, experiment_id)
            part = await queues.get(tx, experiment_id, envoy, attempt=attempt)
            if not part.state.engaged:
                return
            text = storable(error) or "no reason given"
            assignment = await rounds.assignment(tx, experiment_id, envoy)
            if assignment is not None and assignment.todo:
                await queues.fail_assignment(tx, experiment_id, envoy)
            await queues.fail(tx, experiment_id, envoy, text)
            await events.append(tx, experiment_id, Event(EventKind.COLLABORATOR_FAILED, envoy, text))


def check_devices(devices: Sequence[Mapping[str, Any]]) -> None:
    """Refuse devices that cannot be stored, before they share a transaction with the heartbeats of others.

    Raises:
        InvalidArgument: the text says what is wrong.
    """
    try:
        found = json_value([dict(device) for device in devices], "devices")
    except InvalidPlan as error:
        raise InvalidArgument(str(error)) from None
    if len(json.dumps(found)) > LONGEST_TEXT:
        raise InvalidArgument(f"the devices take more than {LONGEST_TEXT} characters")
