"""Many rows at once: PostgreSQL's planner prefers to read a small table whole, and some lists are long."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from director.store import clock
from director.store.engine.database import Database
from director.store.tables import heartbeats, shards
from tests.tables.statements import change


async def crowd(db: Database, experiment_id: int) -> None:
    """Add experiments like one, and envoys, collaborators and metrics."""
    if not db.replicated:
        return
    ended = "'state', 'finished', 'finished_at', now(), 'director_id', NULL, 'archive_blob_id', NULL"
    named = "'id', 1000 + n, 'uid', 'n' || n, 'name', 'n' || n, 'submission_id', 'n' || n"
    for statement in (
        f"INSERT INTO experiments SELECT (jsonb_populate_record(e, jsonb_build_object({named}, {ended}))).* "
        "FROM experiments e, generate_series(1, 3000) n WHERE e.id = :id",
        "INSERT INTO shards (envoy, description, samples, sample_shape, target_shape, registered_at, updated_at) "
        "SELECT 'e' || n, '', 1, '[]', '[]', now(), now() FROM generate_series(1, 3000) n",
        "INSERT INTO collaborators (experiment_id, envoy, state, attempt, ended_at) "
        "SELECT :id, 'e' || n, 'released', 1, now() FROM generate_series(1, 3000) n",
        "INSERT INTO metrics SELECT id, 1, 1, 'a', 'train', 'loss', 0.5, now() FROM experiments WHERE id > 1000",
        "ANALYZE",
    ):
        await change(db, statement, **({"id": experiment_id} if ":id" in statement else {}))


async def crowd_uploads(db: Database) -> None:
    """Add uploads that nobody goes on with."""
    if not db.replicated:
        return
    await change(
        db,
        "INSERT INTO blobs (upload_key, digest, size_bytes, chunk_bytes, state, created_at, expires_at) "
        "SELECT 'other ' || n, '', 1, 1, 'complete', now(), now() FROM generate_series(1, 5000) n",
    )
    await change(db, "ANALYZE blobs")


async def add_envoys(
    db: Database,
    names: Sequence[str],
    *,
    offline: Collection[str] = (),
    retired: Collection[str] = (),
    description: str = "",
) -> None:
    """Add envoys that have registered just now, and are online unless they are named otherwise."""
    async with db.write("add envoys") as tx:
        now, time = await tx.now(), await clock.now(tx)
        shard = {"description": description, "samples": 1, "sample_shape": [], "target_shape": []}
        shard |= {"registered_at": now, "updated_at": now, "sdk_version": "", "python_version": ""}
        beat = {"seen_at": now, "seen_service": time.now, "period_seconds": timedelta(hours=1).total_seconds()}
        beat |= {"experiment_running": False, "devices": [], "session_id": None}
        left = {*offline, *retired}
        for start in range(0, len(names), 1000):
            some = names[start : start + 1000]
            entered = [shard | {"envoy": each, "retired_at": now if each in retired else None} for each in some]
            heard = [beat | {"envoy": each, "left_at": now if each in left else None} for each in some]
            await tx.add(shards, *entered)
            await tx.add(heartbeats, *heard)
