"""Words for what the tests of the services do, besides those of `tests.world`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.history import Event
from director.domain.types import ExperimentId, ExperimentState
from director.services.runtime import Caller
from director.store import events
from director.store.contributions import Stored
from director.store.engine.database import Transaction
from director.store.leases import Fence
from tests.store.words import owned
from tests.world import World

OPERATOR = Caller("operator", operator=True)


@dataclass(frozen=True)
class Collecting:
    """An experiment whose first round collects, and what its envoys were given."""

    id: ExperimentId
    uid: str
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
    return Collecting(fence.experiment_id, given[envoys[0]].experiment_uid, fence, given)


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
    return (await federation.process.experiments.get(name, OPERATOR)).state


async def reason_of(federation: World, name: str = "experiment") -> str:
    """Return why an experiment ended; empty where no reason was given."""
    return (await federation.process.experiments.get(name, OPERATOR)).reason


async def fail(federation: World, envoy: str, uid: str, text: str = "CUDA out of memory", **more: Any) -> None:
    """Have an envoy report that it cannot go on."""
    await federation.process.envoys.report_failure(envoy, uid, attempt=None, failure=Failure(text, **more))


async def history(federation: World, stream: int) -> list[Event]:
    """Return everything that happened to an experiment, removed or not; in stream 0, to the federation itself."""
    async with federation.db.read() as tx:
        return await events.after(tx, stream, 0, name="history", epoch="", limit=1000)


@contextmanager
def rows_read() -> Iterator[list[int]]:
    """Count meanwhile how many rows each query of this process reads."""
    read: list[int] = []
    execute = Transaction.execute

    async def counting(tx: Transaction, *query: Any) -> Any:
        result = await execute(tx, *query)
        if not result.returns_rows:
            return result
        found = result.freeze()
        read.append(len(found.data))
        return found()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "execute", counting)
        yield read
