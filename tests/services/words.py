"""Words for what the tests of the services do, besides those of `tests.world`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from director.domain.types import ExperimentId, ExperimentState
from director.services.runtime import Caller
from director.store import events
from director.store.contributions import Stored
from director.store.envoys import Engagement
from director.store.events import Recorded
from director.store.leases import Fence
from tests.store.words import owned, rows
from tests.world import World

OPERATOR = Caller("operator", operator=True)


@dataclass(frozen=True)
class Collecting:
    """An experiment whose first round collects, and what its envoys were given."""

    id: ExperimentId
    fence: Fence
    given: dict[str, Engagement]


async def collecting(
    federation: World, name: str = "experiment", envoys: Sequence[str] = ("a", "b"), **more: Any
) -> Collecting:
    """Start an experiment, and give it to its envoys; the first one of them has asked for its tasks."""
    fence = await owned(federation, name, envoys, **more)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in envoys}
    await federation.work(given[envoys[0]], envoys[0])
    return Collecting(fence.experiment_id, fence, given)


async def finished(federation: World, name: str = "experiment", envoys: Sequence[str] = ("a", "b")) -> ExperimentId:
    """Run an experiment to its end."""
    begun = await collecting(federation, name, envoys)
    value = 1.0
    while await federation.drive(begun.fence) is not None:
        await federation.finish_round(begun.given, value=value)
        value += 1
    return begun.id


async def train(
    federation: World, begun: Collecting, envoy: str, *, value: float = 1.0, round_number: int = 1, samples: int = 10
) -> Stored:
    """Have an envoy hand in an update."""
    update = {"weights": np.full(8, value, np.float32)}
    given = begun.given[envoy]
    return await federation.contribute(
        given, envoy, "train", round_number=round_number, samples=samples, update=update, metrics={"loss": value}
    )


async def validate(federation: World, begun: Collecting, envoy: str, *, round_number: int = 1) -> Stored:
    """Have an envoy hand in what it measured."""
    return await federation.contribute(
        begun.given[envoy], envoy, "validate", round_number=round_number, metrics={"accuracy": 0.5}
    )


async def complete(federation: World, begun: Collecting, *envoys: str, round_number: int = 1) -> None:
    """Have envoys hand in everything that a round asks of them."""
    for envoy in envoys:
        await federation.work(begun.given[envoy], envoy)
        await train(federation, begun, envoy, round_number=round_number)
        await validate(federation, begun, envoy, round_number=round_number)


async def state_of(federation: World, name: str = "experiment") -> ExperimentState:
    """Return an experiment's state."""
    return (await federation.process.experiments.get(name, OPERATOR)).experiment.state


async def reason_of(federation: World, name: str = "experiment") -> str | None:
    """Return why an experiment ended."""
    return (await federation.process.experiments.get(name, OPERATOR)).experiment.reason


async def history(federation: World, experiment_id: int) -> list[Recorded]:
    """Return everything that happened to an experiment, removed or not."""
    async with federation.db.read() as tx:
        return await events.after(tx, experiment_id, 0, limit=1000)


async def states(federation: World, table: str, experiment_id: int) -> list[Any]:
    """Return the states of an experiment's collaborators or assignments in the envoys' order, or of its rounds."""
    order = "number" if table == "rounds" else "envoy"
    return await rows(
        federation.db, f"SELECT state FROM {table} WHERE experiment_id = :id ORDER BY {order}", id=experiment_id
    )


async def uploads_left(federation: World) -> int:
    """Count the uploads that could still be gone on with."""
    return len(await rows(federation.db, "SELECT id FROM blobs WHERE purpose IS NOT NULL AND state <> 'taken'"))
