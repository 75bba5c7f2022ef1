"""The SQL reference describes every view column by column, and its queries give what they promise."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.effects import ManualClock
from director.services.runtime import Caller
from director.store.engine.database import Transaction
from director.store.views import VIEWS
from tests.docs.pages import blocks, page, quoted, rows, sections
from tests.store.words import only_postgresql
from tests.world import PLAN, World, world

PAGE = sections(page("reference/sql.md"))
DOCUMENTED = {view: rows(section) for view, section in PAGE.items() if view.startswith("report_")}
TYPES = {word: names for word, *names, _ in rows(PAGE["What is stable"])}
QUERIES = {block.before: block.code for block in blocks(PAGE["Ready queries"])}
ONE_ROUND = PLAN.replace("rounds: 2", "rounds: 1")
GUEST = Caller("guest")


async def read(tx: Transaction, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in (await tx.execute(text(query), parameters)).all()]


@pytest.fixture
async def history(migrated_url: str) -> AsyncIterator[World]:
    """Two experiments on the last evening of a January.

    In `digits` envoy `a` trains for 30 seconds and `b` for 60, who then fails in the final validation. `letters` waits
    for that, and fails with its only envoy. `b` is heard of for half an hour, `a` until half past two.
    """
    clock = ManualClock(datetime(2030, 1, 31, 20, 0, tzinfo=UTC))
    async with world(migrated_url, clock=clock, lease=timedelta(hours=2)) as federation:
        await federation.register("a", "b")
        await federation.submit("digits", plan=ONE_ROUND)
        await federation.submit("letters", plan=ONE_ROUND, envoys=["a"], caller=GUEST)
        await federation.admit()
        [fence] = await federation.claim()
        await federation.drive(fence)
        given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
        for envoy in given:
            await federation.work(given[envoy], envoy)
        clock.advance(timedelta(seconds=30))
        await federation.finish_round({"a": given["a"]}, value=2.0)
        clock.advance(timedelta(seconds=30))
        await federation.finish_round({"b": given["b"]}, value=4.0)
        await federation.drive(fence)
        await fail(federation, "b", given["b"], Failure("out of memory", "validate", "MemoryError"))
        await federation.finish_round({"a": given["a"]}, value=6.0)
        await federation.drive(fence)

        await federation.admit()
        [fence] = await federation.claim()
        await federation.drive(fence)
        wanted = await federation.wait("a")
        clock.advance(timedelta(seconds=20))
        await fail(federation, "a", wanted, Failure("no such file", "train", "FileNotFoundError"))
        await federation.drive(fence)

        clock.advance(timedelta(minutes=30) - timedelta(seconds=80))
        await beat(federation, "b")
        for _ in range(6):
            clock.advance(timedelta(hours=1))
            await federation.process.ticker.tick()
            await beat(federation, "a")
            await federation.process.periodic_jobs.reconcile_sessions()
        yield federation


async def fail(federation: World, envoy: str, given: Engagement, failure: Failure) -> None:
    await federation.process.envoys.report_failure(envoy, given.experiment_uid, attempt=1, failure=failure)


async def beat(federation: World, envoy: str) -> None:
    await federation.process.envoys.heartbeat(Heartbeat(envoy, experiment_running=False))


@pytest.fixture
async def tx(history: World) -> AsyncIterator[Transaction]:
    async with history.db.read() as opened:
        yield opened


def test_every_view_is_documented_and_no_other() -> None:
    assert DOCUMENTED.keys() == VIEWS.keys()


async def test_views_have_the_columns_that_are_documented_in_their_order_and_of_their_types(tx: Transaction) -> None:
    found = {view: await columns(tx, view) for view in VIEWS}

    assert found == {
        view: [(quoted(name), word) for name, word, *_ in documented] for view, documented in DOCUMENTED.items()
    }


async def columns(tx: Transaction, view: str) -> list[tuple[str, str]]:
    """Return a view's columns, each with the page's word for its type on this engine."""
    if tx.postgresql:
        query = (
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = :view ORDER BY ordinal_position"
        )
        found = await read(tx, query, view=view)
    else:
        found = await read(tx, f"SELECT name, type FROM pragma_table_info('{view}')")
    return [(name, word_for(kind, postgresql=tx.postgresql)) for name, kind in found]


def word_for(kind: str, *, postgresql: bool) -> str:
    """Return the page's word for an engine's type."""
    plain = kind.partition("(")[0]
    [word] = [word for word, names in TYPES.items() if plain in names[postgresql].replace("(n)", "").split("`")]
    return word


async def test_columns_that_are_documented_as_never_null_are_not(tx: Transaction) -> None:
    for view, documented in DOCUMENTED.items():
        never = [quoted(name) for name, _, null, _ in documented if null == "never"]
        absent = " OR ".join(f"{name} IS NULL" for name in never)
        assert await read(tx, f"SELECT * FROM {view}"), f"{view} is empty"
        assert await read(tx, f"SELECT * FROM {view} WHERE {absent}") == []


async def test_ready_queries_give_what_they_promise(tx: Transaction) -> None:
    found = {question: await read(tx, query) for question, query in QUERIES.items()}

    assert found == {
        "How long did each round take?": [
            (1, "train", "closed", 2, 2, 60.0, 60.0),
            (2, "final", "closed", 2, 1, 0.0, 0.0),
        ],
        "Which collaborator is the slowest?": [("b", 1, 60.0, 60.0), ("a", 1, 30.0, 30.0)],
        "How did the accuracy develop, over all collaborators?": [(1, near(0.3)), (2, near(0.6))],
        "How far is each envoy from the average?": [
            (1, "a", near(0.2), near(-0.1)),
            (1, "b", near(0.4), near(0.1)),
            (2, "a", near(0.6), near(0.0)),
        ],
        "Which rounds went on without somebody who was asked?": [
            ("digits", 2, 2, 1, 0, 1),
            ("letters", 1, 1, 0, 0, 1),
        ],
        "Which experiments ended without success, and why?": [
            (
                "letters",
                "guest",
                "failed",
                1,
                1,
                "round 1 cannot reach its minimum of 1 collaborators; "
                "a failed: task 'train' failed: FileNotFoundError: no such file",
            )
        ],
        "Which envoys failed, and with what error?": [
            ("digits", "finished", "b", "validate", "MemoryError", "out of memory"),
            ("letters", "failed", "a", "train", "FileNotFoundError", "no such file"),
        ],
        "For how many hours was each envoy online, month by month?": [
            ("a", "2030-01", 1, 4.0),
            ("a", "2030-02", 1, 2.5),
            ("b", "2030-01", 1, 0.5),
        ],
        "How long do the experiments of each user wait, and run?": [
            ("guest", 1, 60.0, 20.0),
            ("researcher", 1, 0.0, 60.0),
        ],
    }


@only_postgresql
async def test_role_for_reports_reads_the_views_and_nothing_else(migrated_url: str) -> None:
    [how_to] = [block.code for block in blocks(PAGE["Opening the database"]) if block.language == "sql"]
    connection = await asyncpg.connect(migrated_url)
    await connection.execute(how_to)
    try:
        await connection.execute("SET ROLE reporter")

        for view in VIEWS:
            assert await connection.fetch(f"SELECT * FROM {view}") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM experiments")
    finally:
        await connection.execute("RESET ROLE; DROP OWNED BY reporter; DROP ROLE reporter")
        await connection.close()


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)
