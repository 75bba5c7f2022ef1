"""What must hold at the end of any run, whatever went wrong in it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from director.domain.types import BlobId, ExperimentState
from director.store import stash
from director.store.database import Database
from tests.simulation import laboratory
from tests.simulation.actors import Client
from tests.simulation.endings import ASPECTS, broken_promises
from tests.simulation.envoys import EXCUSE
from tests.simulation.researchers import Submission
from tests.store.words import rows

NOTHING = {
    "a stream with a gap": f"{ASPECTS['gap in metrics']} UNION {ASPECTS['gap in events']}",
    "somebody still engaged": "SELECT experiment_id, envoy FROM collaborators "
    "WHERE state IN ('waiting', 'queued', 'assigned', 'working')",
    "an owner of what has ended": "SELECT id FROM experiments WHERE director_id IS NOT NULL",
    "an open round": "SELECT experiment_id, number FROM rounds WHERE state IN ('collecting', 'aggregating')",
    "an open assignment": "SELECT experiment_id, round, envoy FROM assignments WHERE state = 'asked'",
    "an update that is kept though its round is over": "SELECT round FROM contributions WHERE blob_id IS NOT NULL",
    "a counted envoy that is not complete, or a complete one that is not counted": "SELECT a.experiment_id, a.round, "
    "a.envoy, a.state FROM assignments a JOIN rounds r ON r.experiment_id = a.experiment_id AND r.number = a.round "
    "LEFT JOIN contributions c ON c.experiment_id = a.experiment_id AND c.round = a.round AND c.envoy = a.envoy "
    "JOIN experiments e ON e.id = a.experiment_id WHERE r.state = 'closed' "
    "GROUP BY a.experiment_id, a.round, a.envoy, a.state, a.tasks "
    "HAVING (count(c.task) = json_array_length(a.tasks)) <> (a.state = 'counted')",
    "a tally that is not that of the assignments": "SELECT r.experiment_id, r.number FROM rounds r JOIN assignments a "
    "ON a.experiment_id = r.experiment_id AND a.round = r.number "
    "GROUP BY r.experiment_id, r.number, r.asked, r.counted, r.missed, r.failed HAVING count(*) <> r.asked "
    "OR sum(CASE a.state WHEN 'counted' THEN 1 ELSE 0 END) <> r.counted "
    "OR sum(CASE a.state WHEN 'missed' THEN 1 ELSE 0 END) <> r.missed "
    "OR sum(CASE a.state WHEN 'failed' THEN 1 ELSE 0 END) <> r.failed",
    "a model without its round, or a round without its model": "SELECT e.id FROM experiments e WHERE e.last_model + 1 "
    "<> (SELECT count(*) FROM models m WHERE m.experiment_id = e.id) OR e.last_model <> (SELECT count(*) FROM rounds r "
    "WHERE r.experiment_id = e.id AND r.state = 'closed' AND r.kind = 'train')",
    "a metric of a contribution twice, or of none": "SELECT m.experiment_id, m.round, m.origin, m.task, m.name, "
    "count(*), count(c.task) FROM metrics m LEFT JOIN contributions c ON c.experiment_id = m.experiment_id "
    "AND c.round = m.round AND c.envoy = m.origin AND c.task = m.task WHERE m.origin <> 'aggregator' "
    "GROUP BY m.experiment_id, m.round, m.origin, m.task, m.name HAVING count(*) <> 1 OR count(c.task) <> 1",
    "a taken blob that is nobody's, or one that is two rows'": "SELECT b.id FROM blobs b WHERE b.state = 'taken' AND "
    "(SELECT count(*) FROM models WHERE payload_blob_id = b.id) "
    "+ (SELECT count(*) FROM experiments WHERE archive_blob_id = b.id) "
    "+ (SELECT count(*) FROM contributions WHERE blob_id = b.id) <> 1",
    "a claim that raised no fence": "SELECT stream, details FROM events WHERE kind = 'experiment_claimed' "
    "GROUP BY stream, details HAVING count(*) > 1",
    "anything after the end but late results": "SELECT v.stream, v.kind FROM events v JOIN events t "
    "ON t.stream = v.stream AND t.seq < v.seq AND t.kind IN ('experiment_finished', 'experiment_failed', "
    "'experiment_cancelled') WHERE v.kind <> 'contribution_late'",
    "a state that the history does not tell": "SELECT e.name, e.state FROM experiments e WHERE 1 <> (SELECT count(*) "
    "FROM events v WHERE v.stream = e.id AND v.kind = 'experiment_' || e.state)",
}
"""Queries that find nothing."""


async def violations(db: Database, clients: Iterable[Client], submissions: Iterable[Submission]) -> list[str]:
    """Look at every invariant that the rows show, and at the ledgers; return what does not hold."""
    said = [f"{what}: {found}" for what, query in NOTHING.items() if (found := await rows(db, query))]
    said += await broken_promises(db, clients)
    for submission in submissions:
        said += await wrong_models(db, submission)
        said += await wrong_end(db, submission)
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
    """Reckon every model again from its base and those who count; return those that differ."""
    name = submission.name
    query = "SELECT m.number, m.payload_blob_id FROM models m JOIN experiments e ON e.id = m.experiment_id "
    stored = await rows(db, query + "WHERE e.name = :name ORDER BY m.number", name=name)
    counted: defaultdict[int, list[str]] = defaultdict(list)
    query = "SELECT a.round, a.envoy FROM assignments a JOIN experiments e ON e.id = a.experiment_id "
    for number, envoy in await rows(db, query + "WHERE e.name = :name AND a.state = 'counted'", name=name):
        counted[number].append(envoy)
    expected, said = submission.weights.tobytes(), []
    for number, blob_id in stored:
        if number > 0:
            expected = laboratory.next_model(name, number, counted[number], expected)
        if await payload(db, blob_id) != expected:
            said.append(f"model {number} of {name} is not what {counted[number]} make of model {number - 1}")
    return said


async def payload(db: Database, blob_id: Any) -> bytes:
    """Return a blob's bytes."""
    async with db.read() as tx:
        blob = await stash.get(tx, BlobId(blob_id))
    return b"".join([data async for _number, data in stash.read_chunks(db, blob)])
