"""What the rows of contributions, metrics and models say."""

from typing import NamedTuple

from director.store.engine.database import Database
from tests.tables.statements import one, rows


class Contributed(NamedTuple):
    """A contribution, as it is stored."""

    experiment_id: int
    round: int
    envoy: str
    task: str
    samples: int
    digest: str | None
    blob: int | None
    attempt: int
    seconds: float | None
    """How long the envoy worked."""


async def contributions(db: Database) -> list[Contributed]:
    """Return every contribution in the order of rounds, envoys and tasks."""
    found = await rows(
        db,
        "SELECT experiment_id, round, envoy, task, samples, digest, blob_id, attempt, working_seconds "
        "FROM contributions ORDER BY experiment_id, round, envoy, task",
    )
    return [Contributed(*row) for row in found]


async def receipts(db: Database) -> list[tuple[str, int, str, str, int, str | None]]:
    """Return every contribution as an envoy remembers it: the experiment's uid, round, envoy, task, samples, digest."""
    found = await rows(
        db,
        "SELECT e.uid, c.round, c.envoy, c.task, c.samples, c.digest FROM contributions c "
        "JOIN experiments e ON e.id = c.experiment_id ORDER BY e.id, c.round, c.envoy, c.task",
    )
    return [tuple(row) for row in found]


async def contributed(db: Database) -> list[tuple[str, str]]:
    """Return who contributed to which tasks."""
    return [(each.envoy, each.task) for each in await contributions(db)]


async def contributed_samples(db: Database) -> list[int]:
    return [each.samples for each in await contributions(db)]


async def updates_held(db: Database) -> list[int]:
    """Return the blobs of contributions."""
    return [each.blob for each in await contributions(db) if each.blob is not None]


class Metric(NamedTuple):
    """A metric, as it is stored."""

    seq: int
    round: int
    origin: str
    task: str
    name: str
    value: float | None


async def metrics(db: Database, experiment_id: int | None = None) -> list[Metric]:
    """Return an experiment's metrics in the order of their numbers; those of all, without one."""
    condition = "" if experiment_id is None else "WHERE experiment_id = :id"
    query = f"SELECT seq, round, origin, task, name, value FROM metrics {condition} ORDER BY experiment_id, seq"
    found = await rows(db, query, **({} if experiment_id is None else {"id": experiment_id}))
    return [Metric(*row) for row in found]


async def mean_metric_by_sql(db: Database) -> float:
    return float(await one(db, "SELECT avg(value) FROM metrics"))


async def model_digests(db: Database, experiment_id: int | None = None) -> list[tuple[int, str]]:
    """Return the numbers and digests of an experiment's models; of all, without one."""
    if experiment_id is None:
        return await rows(db, "SELECT number, digest FROM models ORDER BY number")
    query = "SELECT number, digest FROM models WHERE experiment_id = :id ORDER BY number"
    return await rows(db, query, id=experiment_id)


async def model_blobs(db: Database) -> list[int | None]:
    """Return the blobs of the models' bytes."""
    return await rows(db, "SELECT payload_blob_id FROM models ORDER BY number")


async def models_kept(db: Database, experiment_id: int) -> list[int]:
    """Return the numbers of the models that were not pruned."""
    query = "SELECT number FROM models WHERE pruned_at IS NULL AND experiment_id = :id ORDER BY number"
    return await rows(db, query, id=experiment_id)
