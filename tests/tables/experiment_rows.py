"""What the rows of experiments say, in the order of their ids; states are words, as they are stored."""

import re

from sqlalchemy import text

from director.domain.types import ExperimentId
from director.store.engine.database import Database, Transaction
from tests.tables.statements import one, rows, seen_from_outside

CLAIM = "SET director_id"
"""What a statement says that claims experiments."""
MANIFEST = re.compile(r"\bmanifest\b")
"""What a statement says that reads manifests."""
CLAIMABLE_INDEX = "ix_experiments_claimable"
PENDING_INDEX = "ix_experiments_pending"


async def experiment_id(tx: Transaction, which: str) -> ExperimentId:
    """Return the id of the newest experiment of this name, or of this uid, removed or not."""
    query = text("SELECT id FROM experiments WHERE name = :which OR uid = :which ORDER BY id DESC LIMIT 1")
    return ExperimentId((await tx.execute(query, {"which": which})).scalar_one())


async def ids(db: Database) -> list[int]:
    return await rows(db, "SELECT id FROM experiments ORDER BY id")


async def names(db: Database) -> list[str]:
    return await rows(db, "SELECT name FROM experiments ORDER BY id")


async def states(db: Database) -> list[str]:
    return await rows(db, "SELECT state FROM experiments ORDER BY id")


async def outcomes(db: Database) -> list[tuple[str, str | None]]:
    """Return the states and their reasons."""
    return await rows(db, "SELECT state, reason FROM experiments ORDER BY id")


async def fences(db: Database) -> list[int]:
    return await rows(db, "SELECT fence FROM experiments ORDER BY id")


async def owners(db: Database) -> list[tuple[int, str | None, int]]:
    """Return the experiments, the directors that own them, and their fences."""
    return await rows(db, "SELECT id, director_id, fence FROM experiments ORDER BY id")


async def owned(db: Database) -> list[int]:
    return await rows(db, "SELECT id FROM experiments WHERE director_id IS NOT NULL")


def are_owned_from_outside(url: str) -> list[bool]:
    return seen_from_outside(url, "SELECT director_id IS NOT NULL FROM experiments")


async def crashes(db: Database) -> list[int]:
    return await rows(db, "SELECT crashes FROM experiments ORDER BY id")


def crashes_from_outside(url: str) -> list[int]:
    return seen_from_outside(url, "SELECT crashes FROM experiments")


async def current_rounds(db: Database) -> list[int]:
    return await rows(db, "SELECT round FROM experiments ORDER BY id")


async def in_round(db: Database, number: int) -> list[int]:
    """Return the experiments that are in a round, or past it."""
    return await rows(db, "SELECT id FROM experiments WHERE round >= :number", number=number)


async def last_models(db: Database) -> list[int]:
    return await rows(db, "SELECT last_model FROM experiments ORDER BY id")


async def lengths(db: Database) -> list[tuple[float | None, float | None]]:
    """Return for how long they were queued, and ran."""
    return await rows(db, "SELECT queued_seconds, running_seconds FROM experiments ORDER BY id")


async def archives(db: Database) -> list[int | None]:
    """Return the blobs of their archives."""
    return await rows(db, "SELECT archive_blob_id FROM experiments ORDER BY id")


async def archive_digests(db: Database) -> list[str]:
    return await rows(db, "SELECT archive_digest FROM experiments ORDER BY id")


async def numbers_of_metrics(db: Database) -> list[int]:
    """Return the numbers that their metrics have reached."""
    return await rows(db, "SELECT metric_seq FROM experiments ORDER BY id")


async def waits_for_review(db: Database) -> bool:
    """Whether the only experiment waits for its director's review."""
    return bool(await one(db, "SELECT review_due FROM experiments"))


async def are_eligible(db: Database) -> list[bool]:
    """Whether they may start."""
    return [bool(each) for each in await rows(db, "SELECT eligible_at IS NOT NULL FROM experiments ORDER BY id")]


async def users(db: Database) -> list[str]:
    """Return those that experiments are shared with."""
    return await rows(db, "SELECT user_name FROM experiment_users")


async def started(db: Database) -> list[int]:
    return await rows(db, "SELECT id FROM experiments WHERE started_at IS NOT NULL")


async def not_ended(db: Database) -> list[int]:
    return await rows(db, "SELECT id FROM experiments WHERE state IN ('pending', 'in_progress')")


async def ended(db: Database) -> list[int]:
    """Return those that have ended and were not removed."""
    return await rows(db, "SELECT id FROM experiments WHERE finished_at IS NOT NULL AND removed_at IS NULL")


async def id_of(db: Database, name: str) -> int:
    return int(await one(db, "SELECT id FROM experiments WHERE name = :name", name=name))


async def name_of(db: Database, experiment_id: int) -> str:
    return str(await one(db, "SELECT name FROM experiments WHERE id = :id", id=experiment_id))


async def state(db: Database, which: int | str) -> str:
    """Return the state of an experiment by its id or its name."""
    column = "id" if isinstance(which, int) else "name"
    return str(await one(db, f"SELECT state FROM experiments WHERE {column} = :which", which=which))


async def owner(db: Database, name: str) -> list[str]:
    """Return who owns an experiment, if somebody does."""
    query = "SELECT director_id FROM experiments WHERE name = :name AND director_id IS NOT NULL"
    return await rows(db, query, name=name)


async def progress(db: Database, name: str) -> tuple[str, str | None, int, int]:
    """Return the state of an experiment, its reason, its last model, and how many rounds were wanted."""
    query = "SELECT state, reason, last_model, rounds_total FROM experiments WHERE name = :name"
    state, reason, last_model, wanted = await one(db, query, name=name)
    return state, reason, last_model, wanted
