"""What the rows of rounds say, of those who are asked in them, and of those who take part in experiments."""

from typing import Any

from director.store.engine.database import Database
from tests.tables.statements import one, rows

ENGAGED_INDEX = "uq_collaborators_engaged"
"""The index of the collaborators that serve an experiment."""


async def numbers(db: Database) -> list[int]:
    return await rows(db, "SELECT number FROM rounds ORDER BY number")


async def states(db: Database, experiment_id: int | None = None) -> list[str]:
    """Return the states of an experiment's rounds; of every round, without one."""
    if experiment_id is None:
        return await rows(db, "SELECT state FROM rounds ORDER BY number")
    return await rows(db, "SELECT state FROM rounds WHERE experiment_id = :id ORDER BY number", id=experiment_id)


async def tally(db: Database, number: int) -> tuple[Any, ...]:
    """Return a round's state, how many were asked, counted, missed and failed, their samples and its score."""
    query = "SELECT state, asked, counted, missed, failed, samples, score FROM rounds WHERE number = :number"
    found: tuple[Any, ...] = await one(db, query, number=number)
    return found


async def lengths(db: Database, number: int) -> tuple[float | None, float | None]:
    """Return for how long a round collected, and lasted."""
    query = "SELECT collecting_seconds, round_seconds FROM rounds WHERE number = :number"
    collecting, whole = await one(db, query, number=number)
    return collecting, whole


async def first_task_given(db: Database) -> float | None:
    """Return the service time at which the only round gave its first tasks."""
    found: float | None = await one(db, "SELECT first_task_service FROM rounds")
    return found


async def last_number(db: Database, experiment_id: int) -> int:
    return int(await one(db, "SELECT max(number) FROM rounds WHERE experiment_id = :id", id=experiment_id))


async def not_closed(db: Database) -> list[int]:
    return await rows(db, "SELECT number FROM rounds WHERE closed_at IS NULL")


async def assignments(db: Database, number: int) -> list[tuple[str, str]]:
    """Return the envoys that a round asked, and the states of their assignments."""
    return await rows(db, "SELECT envoy, state FROM assignments WHERE round = :number ORDER BY envoy", number=number)


async def assignments_of_all(db: Database) -> list[tuple[int, str, str]]:
    """Return the same of every round."""
    return await rows(db, "SELECT round, envoy, state FROM assignments ORDER BY round, envoy")


async def assignment_states(db: Database, experiment_id: int | None = None) -> list[str]:
    """Return the states of an experiment's assignments in the envoys' order; of all, without one."""
    if experiment_id is None:
        return await rows(db, "SELECT state FROM assignments ORDER BY envoy")
    return await rows(db, "SELECT state FROM assignments WHERE experiment_id = :id ORDER BY envoy", id=experiment_id)


async def given_their_tasks(db: Database) -> list[str]:
    """Return the envoys that were given tasks, the first one first."""
    return await rows(db, "SELECT envoy FROM assignments WHERE given_at IS NOT NULL ORDER BY given_at")


async def was_given_tasks(db: Database, number: int, envoy: str) -> bool:
    query = "SELECT given_at FROM assignments WHERE round = :number AND envoy = :envoy AND given_at IS NOT NULL"
    return bool(await rows(db, query, number=number, envoy=envoy))


async def open_assignments(db: Database) -> list[str]:
    return await rows(db, "SELECT envoy FROM assignments WHERE ended_at IS NULL")


async def collaborators(db: Database) -> list[tuple[str, str]]:
    """Return the collaborators of every experiment and their states."""
    return await rows(db, "SELECT envoy, state FROM collaborators ORDER BY experiment_id, envoy")


async def collaborator_states(db: Database, experiment_id: int) -> list[str]:
    """Return the states of an experiment's collaborators in the envoys' order."""
    return await rows(db, "SELECT state FROM collaborators WHERE experiment_id = :id ORDER BY envoy", id=experiment_id)


async def attempts(db: Database) -> list[tuple[str, int]]:
    """Return the collaborators and how often each was handed its experiment."""
    return await rows(db, "SELECT envoy, attempt FROM collaborators ORDER BY envoy")


async def errors(db: Database) -> list[str]:
    """Return why collaborators failed."""
    return await rows(db, "SELECT error FROM collaborators WHERE state = 'failed'")


async def engaged(db: Database) -> list[str]:
    """Return the envoys that serve an experiment, each once for each."""
    return await rows(db, "SELECT envoy FROM collaborators WHERE state IN ('queued', 'assigned', 'working')")


async def collaborators_not_ended(db: Database) -> list[str]:
    return await rows(db, "SELECT envoy FROM collaborators WHERE ended_at IS NULL")


async def collaborators_of_removed_experiments(db: Database) -> list[str]:
    query = "SELECT c.envoy FROM collaborators c JOIN experiments e ON e.id = c.experiment_id"
    return await rows(db, f"{query} WHERE e.removed_at IS NOT NULL")
