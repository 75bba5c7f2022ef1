"""What earlier releases left behind is upgraded, and the director of today goes on with it.

The wire and the schema break once, at 0.3: nobody runs an earlier release in production. So no wheel of 0.1 and 0.2
serves on the schema of today; what is kept of these releases is their data.
"""

from typing import Any

from director.domain.types import ExperimentState
from director.services import checking
from director.store.engine.database import Database
from tests.services.busy import busy
from tests.tables.statements import rows

FOR_EVER = {
    "experiments that ended": "SELECT * FROM experiments WHERE finished_at IS NOT NULL ORDER BY id",
    "contributions": "SELECT experiment_id, round, envoy, task, samples, digest, received_at FROM contributions",
    "models": "SELECT experiment_id, number, digest FROM models",
    "metrics": "SELECT * FROM metrics",
    "events": "SELECT * FROM events",
}


async def history(db: Database) -> dict[str, set[Any]]:
    return {what: {repr(row) for row in await rows(db, query)} for what, query in FOR_EVER.items()}


async def test_experiments_that_were_on_their_way_go_on_and_nothing_is_lost(upgraded: str) -> None:
    async with busy(upgraded, "abcdefghi") as federation:
        before = await history(federation.world.db)
        states = {
            name: await federation.ended(name)
            for name in ("collecting", "aggregating", "relaxed", "waiting", "finished")
        }
        after = await history(federation.world.db)
        found = (await checking.report(federation.world.db)).findings

    assert set(states.values()) == {ExperimentState.FINISHED}
    assert all(before[what] <= after[what] for what in FOR_EVER)
    assert min(len(kept) for kept in before.values()) > 0
    assert found == []
