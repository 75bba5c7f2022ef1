"""What a federation leaves behind, by the names of experiments; and what must not be left behind by any."""

from typing import Any

from director.store.engine.database import Database
from tests.tables.statements import rows

OF = "JOIN experiments e ON e.id ="
CONTRIBUTIONS = (
    "SELECT e.name, c.round, c.envoy, c.task, c.samples, c.digest, c.blob_id IS NULL "
    f"FROM contributions c {OF} c.experiment_id"
)
ASPECTS = {
    "experiment": "SELECT name, state, reason, round, last_model, best_model, best_score FROM experiments",
    "model": f"SELECT e.name, m.number, m.digest, m.size_bytes, m.score FROM models m {OF} m.experiment_id",
    "metric": f"SELECT e.name, m.round, m.origin, m.task, m.name, m.value FROM metrics m {OF} m.experiment_id",
    "contribution": CONTRIBUTIONS,
    "round": "SELECT e.name, r.number, r.kind, r.state, r.asked, r.counted, r.missed, r.failed, r.samples, r.score "
    f"FROM rounds r {OF} r.experiment_id",
    "assignment": f"SELECT e.name, a.round, a.envoy, a.state FROM assignments a {OF} a.experiment_id",
    "collaborator": f"SELECT e.name, c.envoy, c.state, c.error FROM collaborators c {OF} c.experiment_id",
    "taken blobs": "SELECT count(*) FROM blobs WHERE state = 'taken'",
    "gap in metrics": "SELECT e.name FROM experiments e LEFT JOIN metrics m ON m.experiment_id = e.id "
    "GROUP BY e.id, e.name, e.metric_seq "
    "HAVING count(m.seq) <> e.metric_seq OR coalesce(max(m.seq), 0) <> e.metric_seq",
    "gap in events": "SELECT e.name FROM experiments e LEFT JOIN events v ON v.stream = e.id "
    "GROUP BY e.id, e.name, e.event_seq "
    "HAVING count(v.seq) <> e.event_seq OR coalesce(max(v.seq), 0) <> e.event_seq",
}
"""All that must be the same however often directors died on the way."""
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


async def aspects(db: Database) -> dict[str, list[Any]]:
    return {aspect: await rows(db, query) for aspect, query in ASPECTS.items()}


async def contributions(db: Database) -> list[Any]:
    """Return every contribution: experiment, round, envoy, task, samples, digest, and whether its bytes are dropped."""
    return await rows(db, CONTRIBUTIONS)


async def history(db: Database) -> list[Any]:
    """Return every event of an experiment: its name, actor, kind, reason and details."""
    query = f"SELECT e.name, v.actor, v.kind, v.reason, v.details FROM events v {OF} v.stream"
    return await rows(db, f"{query} ORDER BY v.stream, v.seq")


async def violations(db: Database) -> dict[str, list[Any]]:
    """Return what is there and must not be."""
    return {what: found for what, query in NOTHING.items() if (found := await rows(db, query))}


async def counted(db: Database, name: str) -> list[tuple[int, str]]:
    """Return the rounds of an experiment and who counted in them."""
    query = f"SELECT a.round, a.envoy FROM assignments a {OF} a.experiment_id"
    return await rows(db, f"{query} WHERE e.name = :name AND a.state = 'counted'", name=name)


async def model_blobs(db: Database, name: str) -> list[tuple[int, int]]:
    """Return the numbers of an experiment's models and the blobs of their bytes."""
    query = f"SELECT m.number, m.payload_blob_id FROM models m {OF} m.experiment_id"
    return await rows(db, f"{query} WHERE e.name = :name ORDER BY m.number", name=name)


async def model_digests(db: Database, name: str) -> list[tuple[int, str]]:
    query = f"SELECT m.number, m.digest FROM models m {OF} m.experiment_id"
    return await rows(db, f"{query} WHERE e.name = :name ORDER BY m.number", name=name)


async def unfinished(db: Database) -> list[tuple[str, str, str | None]]:
    """Return the experiments that were not removed and are not finished: names, states and reasons."""
    return await rows(
        db, "SELECT name, state, reason FROM experiments WHERE state <> 'finished' AND removed_at IS NULL"
    )


async def dropped_out(db: Database) -> list[tuple[str, str, str | None]]:
    """Return the collaborators of experiments that were not removed that are not done: envoys, states and errors."""
    query = f"SELECT c.envoy, c.state, c.error FROM collaborators c {OF} c.experiment_id"
    return await rows(db, f"{query} WHERE c.state <> 'done' AND e.removed_at IS NULL")
