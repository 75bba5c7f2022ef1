"""Gathers what an experiment's waiting is explained from."""

from director.domain.types import ExperimentState
from director.domain.waiting import Circumstances, Presence, why
from director.services.runtime import Caller, Runtime
from director.store import envoys, experiments, leases, pending, queues, snapshots
from director.store.engine.database import Transaction
from director.store.experiments import Experiment

UNKNOWN = Presence(online=False, absence=0.0, serving=None)


class Explaining:
    """Answers why an experiment waits."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime

    async def why(self, name: str, caller: Caller) -> list[str]:
        """Say what an experiment waits for, most important first.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
        """
        full = await self._runtime.disk.lacks()
        async with self._runtime.db.read() as tx:
            experiment = await experiments.find(tx, name, caller=caller.scope)
            snapshot = await snapshots.read(tx, experiment, lease=self._runtime.settings.lease)
            around = await self._circumstances(tx, experiment, caller, full=full)
        return why(snapshot, around)

    async def _circumstances(
        self, tx: Transaction, experiment: Experiment, caller: Caller, *, full: str | None
    ) -> Circumstances:
        lease, limit = self._runtime.settings.lease, self._runtime.settings.max_running_experiments
        found = await envoys.listed(tx, lease=lease)
        serving = [each.experiment_id for each in found if each.experiment_id is not None]
        visible = await experiments.names(tx, serving, caller=caller.scope)
        known = {
            each.shard.envoy: Presence(
                each.is_online,
                each.absence_seconds,
                visible.get(each.experiment_id, "of another user") if each.experiment_id is not None else None,
            )
            for each in found
        }
        members = [each.envoy for each in await queues.of_experiment(tx, experiment.id)]
        ahead: list[str] = []
        if experiment.state is ExperimentState.PENDING:
            ahead = await pending.ahead_of(tx, experiment.id, experiment.rank, caller=caller.scope)
        return Circumstances(
            envoys={name: known.get(name, UNKNOWN) for name in members},
            eligible=experiment.eligible_at is not None,
            owned=experiment.director_id is not None,
            manual_review=experiment.plan.manual_review,
            ahead=ahead,
            running=sum((await pending.running(tx)).values()),
            limit=limit,
            full=full,
            rests_seconds=leases.rests(experiment.claimable_from, await tx.now()).total_seconds(),
        )
