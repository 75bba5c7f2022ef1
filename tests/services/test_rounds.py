"""A whole experiment, step by step, on each engine."""

import numpy as np

from director.domain.types import ExperimentState
from director.store import models
from tests.world import RESEARCHER, World, content_of


async def test_experiment_runs_from_submission_to_its_last_model(federation: World) -> None:
    await federation.register("a", "b")
    submitted = await federation.submit()
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    for number in (1, 2, 3):
        await federation.finish_round(given, value=float(number))
        await federation.drive(fence)

    found = await federation.process.experiments.get("experiment", RESEARCHER)

    assert found.state is ExperimentState.FINISHED
    assert (found.last_model, found.best_model) == (2, 2)
    async with federation.process.runtime.db.read() as tx:
        last = await models.get(tx, submitted.id, 2)
    expected = np.full(8, (10 * 2.0 + 20 * 3.0) / 30, np.float32)
    assert last.digest == content_of(expected.tobytes()).digest
