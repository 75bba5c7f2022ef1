"""What must hold at the end of any run, whatever went wrong in it: what fsck looks at, and what only we know."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from director.domain.types import BlobId, ExperimentState
from director.services import checking
from director.store import contents, stash
from director.store.engine.database import Database
from tests.simulation import laboratory
from tests.simulation.actors import Client
from tests.simulation.endings import broken_promises
from tests.simulation.envoys import EXCUSE
from tests.simulation.researchers import Submission
from tests.store.words import rows

NOTHING = {
    "an envoy that is complete and does not count": "SELECT a.experiment_id, a.round, a.envoy, a.state "
    "FROM assignments a "
    "JOIN rounds r ON r.experiment_id = a.experiment_id AND r.number = a.round AND r.state = 'closed' "
    "JOIN contributions c ON c.experiment_id = a.experiment_id AND c.round = a.round AND c.envoy = a.envoy "
    "WHERE a.state <> 'counted' GROUP BY a.experiment_id, a.round, a.envoy, a.state, a.tasks "
    "HAVING count(*) = json_array_length(a.tasks)",
    "two owners with the same fence": "SELECT stream, fence FROM (SELECT stream, details ->> 'fence' AS fence "
    "FROM events WHERE kind = 'experiment_claimed') AS claims GROUP BY stream, fence HAVING count(*) > 1",
    "more after the end than late results": "SELECT v.stream, v.kind FROM events v JOIN events t "
    "ON t.stream = v.stream AND t.seq < v.seq AND t.kind IN ('experiment_finished', 'experiment_failed', "
    "'experiment_cancelled') WHERE v.kind <> 'contribution_late'",
}
"""Queries that find nothing."""


async def violations(db: Database, clients: Iterable[Client], submissions: Iterable[Submission]) -> list[str]:
    """Look at the rows and at the ledgers; return what does not hold."""
    said = [finding.text async for finding in checking.findings(db)]
    said += [f"{what}: {found}" for what, query in NOTHING.items() if (found := await rows(db, query))]
    said += await broken_promises(db, clients)
    for submission in submissions:
        said += await wrong_end(db, submission)
        said += await wrong_models(db, submission)
    return said


async def wrong_end(db: Database, submission: Submission) -> list[str]:
    """Say how an experiment ended that should not have ended so: no weather makes one fail."""
    query = "SELECT state, reason, last_model, rounds_total FROM experiments WHERE name = :name"
    [(state, reason, last_model, rounds_total)] = await rows(db, query, name=submission.name)
    fine = {
        ExperimentState.FINISHED: last_model == rounds_total,
        ExperimentState.CANCELLED: submission.cancelled_by is not None,
        ExperimentState.FAILED: EXCUSE in (reason or ""),
    }
    return [] if fine.get(state, False) else [f"{submission.name} is {state} ({reason}) with model {last_model}"]


async def wrong_models(db: Database, submission: Submission) -> list[str]:
    """Reckon every model again from its base and from those who count; return those that differ."""
    name = submission.name
    query = "SELECT a.round, a.envoy FROM assignments a JOIN experiments e ON e.id = a.experiment_id "
    counted: defaultdict[int, list[str]] = defaultdict(list)
    for number, envoy in await rows(db, query + "WHERE e.name = :name AND a.state = 'counted'", name=name):
        counted[number].append(envoy)
    query = "SELECT m.number, m.payload_blob_id FROM models m JOIN experiments e ON e.id = m.experiment_id "
    expected, said = submission.weights.tobytes(), []
    for number, blob_id in await rows(db, query + "WHERE e.name = :name ORDER BY m.number", name=name):
        if number > 0:
            expected = laboratory.next_model(name, number, counted[number], expected)
        if await payload(db, blob_id) != expected:
            said.append(f"model {number} of {name} is not what {counted[number]} make of model {number - 1}")
    return said


async def payload(db: Database, blob_id: Any) -> bytes:
    """Return a blob's bytes."""
    async with db.read() as tx:
        blob = await stash.get(tx, BlobId(blob_id))
    return b"".join([data async for _number, data in contents.chunks(db, blob)])
