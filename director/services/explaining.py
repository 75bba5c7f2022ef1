"""Gathers what an experiment's waiting is explained from."""

from director.domain.types import ExperimentState
from director.domain.waiting import Circumstances, EnvoyPresence, why
from director.errors import InvalidPlan
from director.services.runtime import Caller, Runtime
from director.store import clock, envoy_lists, envoys, experiments, leases, pending, queues, snapshots
from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow

UNKNOWN = EnvoyPresence(online=False, absence=0.0, serving=None)


class Explaining:
    """Answers why an experiment waits."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime

    async def full(self) -> str | None:
        """Say why the database takes nothing in; None if it does. To be asked before the transaction."""
        return await self._runtime.disk.lacks()

    async def why(self, tx: Transaction, experiment: ExperimentRow, caller: Caller, *, full: str | None) -> list[str]:
        """Say what an experiment waits for, most important first."""
        plan = experiment.constants.plan
        if isinstance(plan, InvalidPlan) and not experiment.state.terminal:
            return [f"a director that can read its plan; this one cannot: {plan}"]
        if experiment.state.terminal:
            return [f"nothing: it is {experiment.state}"]
        snapshot = await snapshots.read(tx, experiment, lease=self._runtime.settings.lease)
        return why(snapshot, await self._circumstances(tx, experiment, caller, full=full))

    async def _circumstances(
        self, tx: Transaction, experiment: ExperimentRow, caller: Caller, *, full: str | None
    ) -> Circumstances:
        ahead: list[int] = []
        if experiment.state is ExperimentState.PENDING:
            ahead = await pending.ahead_of(tx, experiment.id, experiment.rank)
        visible = await experiments.identities(tx, ahead, caller=caller.scope)
        return Circumstances(
            envoys=await self._presence(tx, experiment, caller),
            eligible=experiment.eligible_at is not None,
            owned=experiment.director_id is not None,
            manual_review=experiment.plan.manual_review,
            ahead=[visible[each][1] if each in visible else None for each in ahead],
            running=sum((await pending.running(tx)).values()),
            limit=self._runtime.settings.max_running_experiments,
            full=full,
            rests_seconds=leases.rests(experiment.claimable_from, await tx.now()).total_seconds(),
        )

    async def _presence(self, tx: Transaction, experiment: ExperimentRow, caller: Caller) -> dict[str, EnvoyPresence]:
        """Return what is known of an experiment's own envoys; what they serve is named where the caller may see it."""
        members = [each.envoy for each in await queues.of_experiment(tx, experiment.id)]
        time = await clock.now(tx)
        seen = await envoys.liveness(tx, members, lease=self._runtime.settings.lease)
        serving = await envoy_lists.serving(tx, members)
        visible = await experiments.identities(tx, sorted(set(serving.values())), caller=caller.scope)
        found = dict.fromkeys(members, UNKNOWN)
        for name, liveness in seen.items():
            other = serving.get(name)
            named = None if other is None else visible[other][1] if other in visible else "of another user"
            found[name] = EnvoyPresence(liveness.online(time), liveness.absence(time), named)
        return found
