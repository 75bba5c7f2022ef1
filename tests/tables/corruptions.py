"""Rows that say what no director would have written, each for one invariant, in a database without its own guards.

The experiments are those of `tests.services.populated`.
"""

import asyncio
import sqlite3

import asyncpg

from director.store.engine.opening import sqlite_path

Corruption = tuple[str, ...]
"""Statements, each of which changes something."""


def corrupt(url: str, *corruptions: Corruption) -> None:
    """Change rows behind the director's back."""
    statements = [statement for corruption in corruptions for statement in corruption]
    path = sqlite_path(url)
    if path is None:
        asyncio.run(corrupt_postgresql(url, statements))
        return
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, f"nothing was changed by {statement}"
    connection.commit()
    connection.close()


async def corrupt_postgresql(url: str, statements: list[str]) -> None:
    """Do so on PostgreSQL."""
    connection = await asyncpg.connect(url)
    for statement in statements:
        done = await connection.execute(statement)
        assert not done.endswith(" 0"), f"nothing was changed by {statement}"
    await connection.close()


def of(name: str) -> str:
    """The id of an experiment."""
    return f"(SELECT id FROM experiments WHERE name = '{name}')"


def round_of(name: str, number: int) -> str:
    """The condition that a row belongs to a round."""
    return f"experiment_id = {of(name)} AND round = {number}"


def member(name: str, envoy: str) -> str:
    """The condition that a row is a collaborator."""
    return f"experiment_id = {of(name)} AND envoy = '{envoy}'"


def update(name: str, number: int, envoy: str) -> str:
    """The blob of an update."""
    found = f"{round_of(name, number)} AND envoy = '{envoy}' AND task = 'train'"
    return f"(SELECT blob_id FROM contributions WHERE {found})"


def the_round(name: str, number: int) -> str:
    """The condition that a row is a round, or the model of this number."""
    return f"experiment_id = {of(name)} AND number = {number}"


def model(name: str, number: int) -> str:
    """The blob of a model."""
    return f"(SELECT payload_blob_id FROM models WHERE {the_round(name, number)})"


def archive(name: str) -> str:
    """The blob of an archive."""
    return f"(SELECT archive_blob_id FROM experiments WHERE name = '{name}')"


def untake(blob: str) -> str:
    """Let a blob have no owner."""
    return f"UPDATE blobs SET state = 'complete', expires_at = created_at WHERE id = {blob}"


def a_metric(name: str, origin: str, number: int) -> Corruption:
    """Record a metric, numbered as it should be."""
    return (
        f"UPDATE experiments SET metric_seq = metric_seq + 1 WHERE name = '{name}'",
        "INSERT INTO metrics (experiment_id, seq, round, origin, task, name, value, recorded_at) "
        f"SELECT id, metric_seq, {number}, '{origin}', 'validate', 'accuracy', 0.5, submitted_at "
        f"FROM experiments WHERE name = '{name}'",
    )


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
NEWEST_BLOB = "(SELECT max(id) FROM blobs)"

# Blobs

BLOB_OF_NO_ROW = (
    "INSERT INTO blobs (digest, size_bytes, chunk_bytes, state, created_at) "
    f"SELECT '{EMPTY}', 0, 4096, 'taken', created_at FROM federations",
)
ARCHIVE_NOT_TAKEN = (untake(archive("finished")),)
BLOB_OF_TWO_COLUMNS = (f"UPDATE models SET state_blob_id = payload_blob_id WHERE {the_round('finished', 1)}",)
ARCHIVE_DELETED = (
    f"DELETE FROM blob_chunks WHERE blob_id = {archive('finished')}",
    f"DELETE FROM blobs WHERE id = {archive('finished')}",
)
MODEL_WITH_ANOTHER_DIGEST = (f"UPDATE models SET digest = '{EMPTY}' WHERE {the_round('finished', 1)}",)
MODEL_WITH_ANOTHER_SIZE = (f"UPDATE models SET size_bytes = 1 WHERE {the_round('finished', 1)}",)
CHUNK_DELETED = (f"DELETE FROM blob_chunks WHERE blob_id = {model('finished', 1)}",)
CHUNK_WITH_ANOTHER_NUMBER = (f"UPDATE blob_chunks SET number = 1 WHERE blob_id = {model('finished', 1)}",)
CHUNK_TOO_SHORT = (f"UPDATE blob_chunks SET data = substr(data, 1, 5) WHERE blob_id = {model('finished', 1)}",)
BYTES_OF_ANOTHER_MODEL = (
    f"UPDATE blob_chunks SET data = (SELECT data FROM blob_chunks WHERE blob_id = {model('finished', 2)}) "
    f"WHERE blob_id = {model('finished', 1)}",
)
ARCHIVE_DROPPED = (
    untake(archive("finished")),
    "UPDATE experiments SET archive_blob_id = NULL WHERE name = 'finished'",
)
LAST_MODEL_DROPPED = (
    untake(model("finished", 2)),
    f"UPDATE models SET payload_blob_id = NULL, pruned_at = created_at WHERE {the_round('finished', 2)}",
)
MODEL_OF_REMOVED_EXPERIMENT_KEPT = (
    *BLOB_OF_NO_ROW,
    f"UPDATE models SET state_blob_id = {NEWEST_BLOB} WHERE {the_round('removed', 1)}",
)
UPDATE_OF_FROZEN_ROUND_DROPPED = (
    untake(update("aggregating", 1, "e")),
    f"UPDATE contributions SET blob_id = NULL WHERE {round_of('aggregating', 1)} AND envoy = 'e'",
)
UPDATE_OF_CLOSED_ROUND_HELD = (
    # Of one who counts alone the update is the model.
    "INSERT INTO blobs (digest, size_bytes, chunk_bytes, state, created_at) SELECT digest, size_bytes, "
    f"chunk_bytes, state, created_at FROM blobs WHERE id = {model('relaxed', 1)}",
    f"INSERT INTO blob_chunks SELECT {NEWEST_BLOB}, number, data FROM blob_chunks "
    f"WHERE blob_id = {model('relaxed', 1)}",
    f"UPDATE contributions SET blob_id = {NEWEST_BLOB} WHERE {round_of('relaxed', 1)} AND task = 'train'",
)
UPDATE_WITHOUT_DIGEST = (
    f"UPDATE contributions SET digest = NULL WHERE {round_of('finished', 1)} AND envoy = 'a' AND task = 'train'",
)

# Streams

LAST_METRIC_DELETED = (f"DELETE FROM metrics WHERE {round_of('collecting', 2)}",)
METRICS_NUMBERED_LOWER = ("UPDATE experiments SET metric_seq = metric_seq - 1 WHERE name = 'finished'",)
EVENT_DELETED = (f"DELETE FROM events WHERE stream = {of('finished')} AND kind = 'round_frozen'",)
EVENTS_OF_FEDERATION_NUMBERED_HIGHER = ("UPDATE federations SET event_seq = event_seq + 1",)

# Ends

FINISHED_AND_OWNED = ("UPDATE experiments SET director_id = (SELECT max(id) FROM directors) WHERE name = 'finished'",)
CANCELLED_AND_COLLECTING = (
    f"UPDATE rounds SET state = 'collecting', closed_at = NULL WHERE experiment_id = {of('cancelled')}",
)
PENDING_WITH_A_ROUND = (
    "INSERT INTO rounds (experiment_id, number, kind, state, deadline_service, opened_at, asked) "
    "SELECT id, 1, 'train', 'collecting', 0, submitted_at, 0 FROM experiments WHERE name = 'waiting'",
    "UPDATE experiments SET round = 1 WHERE name = 'waiting'",
)
FAILED_AND_TOLD_CANCELLED = ("UPDATE experiments SET state = 'failed' WHERE name = 'cancelled'",)
RUNNING_AND_TOLD_FAILED = (
    f"UPDATE events SET kind = 'experiment_failed' WHERE stream = {of('aggregating')} AND kind = 'round_frozen'",
)

# Collaborators

FINISHED_AND_WORKING = (f"UPDATE collaborators SET state = 'working', ended_at = NULL WHERE {member('finished', 'a')}",)
RUNNING_AND_WAITING = (f"UPDATE collaborators SET state = 'waiting' WHERE {member('collecting', 'c')}",)
ENGAGED_TWICE = (f"UPDATE collaborators SET envoy = 'c' WHERE {member('relaxed', 'i')}",)

# Models

LAST_MODEL_TOO_LOW = ("UPDATE experiments SET last_model = 1 WHERE name = 'finished'",)
ONE_MODEL_TOO_MANY = (
    "INSERT INTO models (experiment_id, number, digest, size_bytes, created_at, pruned_at) "
    "SELECT experiment_id, 3, digest, size_bytes, created_at, created_at "
    f"FROM models WHERE {the_round('removed', 2)}",
    "UPDATE experiments SET last_model = 3 WHERE name = 'removed'",
)
BEST_MODEL_WITH_LOWER_SCORE = ("UPDATE experiments SET best_model = 2 WHERE name = 'finished'",)
BEST_MODEL_NOT_THE_FIRST = ("UPDATE experiments SET best_model = 1 WHERE name = 'removed'",)

# Rounds

ROUND_MISSING = ("UPDATE experiments SET round = 4 WHERE name = 'finished'",)
FINAL_TOO_EARLY = (f"UPDATE rounds SET kind = 'final' WHERE {the_round('collecting', 2)}",)
ROUND_AFTER_ABANDONED = (
    "INSERT INTO rounds (experiment_id, number, kind, state, deadline_service, opened_at, closed_at, "
    "asked, counted, missed, failed) SELECT id, 2, 'train', 'abandoned', 0, submitted_at, submitted_at, "
    "0, 0, 0, 0 FROM experiments WHERE name = 'cancelled'",
    "UPDATE experiments SET round = 2 WHERE name = 'cancelled'",
)
ABANDONED_AND_RUNNING = (
    "UPDATE rounds SET state = 'abandoned', closed_at = opened_at, counted = 0, missed = 2, failed = 0 "
    f"WHERE {the_round('collecting', 2)}",
    f"UPDATE assignments SET state = 'missed', ended_at = asked_at WHERE {round_of('collecting', 2)}",
)
CLOSED_AND_ASKED = (
    f"UPDATE assignments SET state = 'asked', ended_at = NULL WHERE {round_of('relaxed', 1)} AND envoy = 'i'",
    f"UPDATE rounds SET missed = 0 WHERE {the_round('relaxed', 1)}",
)
WRONG_TALLIES: dict[str, Corruption] = {
    name: (f"UPDATE rounds SET {name} = 7 WHERE {the_round('relaxed', 1)}",)
    for name in ("asked", "counted", "missed", "failed", "samples")
}
"""By the names that fsck gives them."""

# Contributions and what is computed from them

ONE_MORE_TASK = (
    """UPDATE assignments SET tasks = '["train", "validate", "more"]' """
    f"WHERE {round_of('finished', 1)} AND envoy = 'a'",
)
ONE_TASK_LESS = (f"""UPDATE assignments SET tasks = '["train"]' WHERE {round_of("finished", 1)} AND envoy = 'a'""",)
LAST_CONTRIBUTION_TOLD_LATE = (
    f"UPDATE events SET kind = 'contribution_late' WHERE stream = {of('aggregating')} AND seq = "
    f"(SELECT max(seq) FROM events WHERE stream = {of('aggregating')} AND kind = 'contribution_received')",
)
METRIC_RECORDED_TWICE = a_metric("collecting", "c", 2)
METRIC_WITHOUT_CONTRIBUTION = a_metric("collecting", "d", 2)
WRONG_AVERAGE = (
    f"UPDATE metrics SET value = value + 1 WHERE {round_of('finished', 1)} "
    "AND origin = 'aggregator' AND task = 'train'",
)
AVERAGE_OF_NOTHING = a_metric("collecting", "aggregator", 2)
WRONG_SCORE_OF_ROUND = (f"UPDATE rounds SET score = 0.5 WHERE {the_round('finished', 2)}",)
WRONG_SCORE_OF_MODEL = (f"UPDATE models SET score = 0.01 WHERE {the_round('finished', 0)}",)

# Sessions

FIRST_SESSION_STILL_OPEN = ("UPDATE envoy_sessions SET offline_at = NULL WHERE envoy = 'a'",)
FIRST_SESSION_TOO_LONG = (
    "UPDATE envoy_sessions SET offline_at = (SELECT max(submitted_at) FROM experiments) "
    "WHERE envoy = 'a' AND offline_at IS NOT NULL",
)
