"""The reporting views are the same on both engines: stable columns, with types, over stored values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from director.domain.experiment import Failure
from director.effects import ManualClock
from director.errors import InvalidArgument
from director.store import reports
from director.store.engine.database import Database
from director.store.reports import ReportRows
from director.store.views import VIEWS
from tests.store.words import explained, live, owned
from tests.tables.crowds import crowd
from tests.tables.statements import rows
from tests.world import World

WHOLE, TEXT, REAL, INSTANT = "whole", "text", "real", "instant"

EXPERIMENT = {"experiment_id": WHOLE, "experiment": TEXT}
UID = {"experiment_uid": TEXT}
COLUMNS: dict[str, dict[str, str]] = {
    "report_experiments": EXPERIMENT
    | {"owner": TEXT, "state": TEXT, "reason": TEXT, "rule": TEXT, "priority": WHOLE, "rounds_total": WHOLE}
    | {"round": WHOLE, "last_model": WHOLE, "best_model": WHOLE, "best_score": REAL, "submitted_at": INSTANT}
    | {"eligible_at": INSTANT, "started_at": INSTANT, "finished_at": INSTANT, "removed_at": INSTANT}
    | {"queued_seconds": REAL, "running_seconds": REAL}
    | UID,
    "report_rounds": EXPERIMENT
    | {"round": WHOLE, "kind": TEXT, "state": TEXT, "opened_at": INSTANT, "frozen_at": INSTANT, "closed_at": INSTANT}
    | {"collecting_seconds": REAL, "round_seconds": REAL, "asked": WHOLE, "counted": WHOLE, "missed": WHOLE}
    | {"failed": WHOLE, "samples": WHOLE, "score": REAL}
    | UID,
    "report_contributions": EXPERIMENT
    | {"round": WHOLE, "envoy": TEXT, "task": TEXT, "assignment_state": TEXT, "samples": WHOLE, "digest": TEXT}
    | {"attempt": WHOLE, "asked_at": INSTANT, "given_at": INSTANT, "received_at": INSTANT, "working_seconds": REAL}
    | UID,
    "report_metrics": EXPERIMENT
    | {"seq": WHOLE, "round": WHOLE, "origin": TEXT, "task": TEXT, "metric": TEXT, "value": REAL}
    | {"recorded_at": INSTANT}
    | UID,
    "report_envoy_uptime": {"envoy": TEXT, "session_id": WHOLE, "month": TEXT, "online_at": INSTANT}
    | {"last_seen_at": INSTANT, "offline_at": INSTANT, "online_seconds": REAL},
    "report_failures": EXPERIMENT
    | {"experiment_state": TEXT, "experiment_reason": TEXT, "envoy": TEXT, "collaborator_state": TEXT}
    | {"attempt": WHOLE, "error": TEXT, "ended_at": INSTANT}
    | {"task": TEXT, "error_type": TEXT}
    | UID,
}
"""Others rely on these names and their order: a column may be added at the end, none may change or go."""

POSTGRESQL_TYPES = {
    "bigint": WHOLE,
    "integer": WHOLE,
    "character varying": TEXT,
    "text": TEXT,
    "double precision": REAL,
    "timestamp with time zone": INSTANT,
}
SQLITE_WORDS = {"int": WHOLE, "char": TEXT, "text": TEXT, "doub": REAL, "time": INSTANT}
"""By which parts of a declared type programs that read an SQLite file, DuckDB among them, know what a column holds."""


async def columns(db: Database, view: str) -> dict[str, str]:
    """Return a view's columns, and what other programs take them for."""
    if db.replicated:
        query = (
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = :view ORDER BY ordinal_position"
        )
        return {name: POSTGRESQL_TYPES[kind] for name, kind in await rows(db, query, view=view)}
    found = await rows(db, f"SELECT name, lower(type) FROM pragma_table_info('{view}')")
    return {name: next(kind for word, kind in SQLITE_WORDS.items() if word in declared) for name, declared in found}


PLAN = """
rounds: 2
min_collaborators: 2
tasks:
  - {name: train, kind: train, function: "work:train"}
  - {name: validate, kind: validate, function: "work:validate"}
"""


@pytest.fixture
async def history(timed: World, clock: ManualClock) -> World:
    """Two envoys that work for 4 and 9 seconds in each of two rounds, and a third that fails in the first."""
    fence = await owned(timed, envoys=("a", "b", "c"), plan=PLAN)
    await timed.drive(fence)
    given = {envoy: await timed.wait(envoy) for envoy in ("a", "b", "c")}
    await timed.work(given["c"], "c")
    failure = Failure("no disk", task="train", error_type="OSError")
    await timed.process.envoys.report_failure("c", given["c"].experiment_uid, attempt=1, failure=failure)
    del given["c"]
    for number in (1, 2, 3):
        for envoy in given:
            await timed.work(given[envoy], envoy)
        clock.advance(timedelta(seconds=4))
        await timed.finish_round({"a": given["a"]}, value=number)
        clock.advance(timedelta(seconds=5))
        await timed.finish_round({"b": given["b"]}, value=number + 2)
        await timed.drive(fence)
        await live(timed, clock, 10)
        await timed.process.periodic_jobs.reconcile_sessions()
    return timed


def test_all_views_are_described_here() -> None:
    assert COLUMNS.keys() == VIEWS.keys() == {f"report_{name}" for name in reports.ORDER}


@pytest.mark.parametrize("view", COLUMNS)
async def test_view_has_its_columns_with_their_types(db: Database, view: str) -> None:
    assert list((await columns(db, view)).items()) == list(COLUMNS[view].items())


@pytest.mark.parametrize("view", COLUMNS)
def test_view_uses_no_function_that_an_engine_may_lack(view: str) -> None:
    assert "(" not in VIEWS[view]


async def read(db: Database, name: str, **how: Any) -> ReportRows:
    async with db.read() as tx:
        return await reports.read(tx, name, **({"experiment": None, "limit": 100} | how))


async def test_each_report_shows_its_view_in_order(history: World) -> None:
    for name in reports.ORDER:
        found = await read(history.db, name)
        assert list(found.columns) == list(COLUMNS[f"report_{name}"])
        assert found.rows
        assert len((await read(history.db, name, limit=1)).rows) == 1

    keys = [(row[2], row[3], row[4]) for row in (await read(history.db, "contributions")).rows]
    assert keys == sorted(keys)
    assert [row[2] for row in (await read(history.db, "metrics")).rows] == list(range(1, 16))


async def test_report_is_of_one_experiment_if_one_is_named(history: World) -> None:
    uid = (await history.row("experiment")).uid
    for name in reports.ORDER.keys() - reports.ENVOY_REPORTS:
        by_name = (await read(history.db, name, experiment="experiment")).rows
        assert by_name
        assert (await read(history.db, name, experiment=uid.upper())).rows == by_name
        assert (await read(history.db, name, experiment=uid[::-1])).rows == []
        assert (await read(history.db, name, experiment="other")).rows == []


async def test_report_that_does_not_exist_or_is_not_about_experiments_is_refused(db: Database) -> None:
    with pytest.raises(InvalidArgument, match="there are experiments, rounds"):
        await read(db, "secrets; DROP TABLE experiments")
    with pytest.raises(InvalidArgument, match="not about experiments"):
        await read(db, "envoy_uptime", experiment="experiment")


async def test_experiments_report_tells_how_each_went(history: World) -> None:
    query = """
        SELECT experiment, owner, state, rule, rounds_total, round, last_model, best_model, best_score,
               queued_seconds, running_seconds FROM report_experiments
    """
    [found] = await rows(history.db, query)

    assert found[:8] == ("experiment", "researcher", "finished", "weighted_average", 2, 3, 2, 2)
    assert found[8:] == (pytest.approx(0.4), 0.0, pytest.approx(47, abs=0.1))


async def test_duration_per_round(history: World) -> None:
    query = """
        SELECT round, kind, state, asked, counted, missed, failed, samples, collecting_seconds, round_seconds
        FROM report_rounds WHERE experiment = 'experiment' ORDER BY round
    """
    assert await rows(history.db, query) == [
        (1, "train", "closed", 3, 2, 0, 1, 20, 9.0, 9.0),
        (2, "train", "closed", 2, 2, 0, 0, 20, pytest.approx(19, abs=0.1), pytest.approx(19, abs=0.1)),
        (3, "final", "closed", 2, 2, 0, 0, 0, pytest.approx(19, abs=0.1), pytest.approx(19, abs=0.1)),
    ]


async def test_slowest_collaborator(history: World) -> None:
    query = """
        SELECT envoy, max(working_seconds) AS slowest FROM report_contributions
        WHERE experiment = 'experiment' AND task = 'train' GROUP BY envoy ORDER BY slowest DESC
    """
    assert await rows(history.db, query) == [("b", 9.0), ("a", 4.0)]


async def test_metric_history(history: World) -> None:
    query = """
        SELECT round, value FROM report_metrics
        WHERE experiment = 'experiment' AND origin = 'aggregator' AND task = 'validate' AND metric = 'accuracy'
        ORDER BY round
    """
    assert await rows(history.db, query) == [(1, pytest.approx(0.2)), (2, pytest.approx(0.3)), (3, pytest.approx(0.4))]


async def test_failure_reasons(history: World) -> None:
    query = """
        SELECT experiment, experiment_state, envoy, collaborator_state, attempt, task, error_type, error
        FROM report_failures
    """
    failed = ("experiment", "finished", "c", "failed", 1, "train", "OSError", "no disk")

    assert await rows(history.db, query) == [failed]


async def test_uptime_per_month(history: World) -> None:
    query = "SELECT envoy, month, sum(online_seconds) FROM report_envoy_uptime GROUP BY envoy, month ORDER BY envoy"

    assert [row[:2] for row in await rows(history.db, query)] == [
        ("a", "2030-01"),
        ("b", "2030-01"),
        ("c", "2030-01"),
    ]


async def test_instants_are_the_same_on_both_engines(history: World, engine_kind: str) -> None:
    found = await rows(history.db, "SELECT opened_at FROM report_rounds WHERE round = 1")

    shown = datetime.fromisoformat(f"{found[0]}+00:00") if engine_kind == "sqlite" else found[0]
    assert shown == datetime(2030, 1, 1, tzinfo=UTC)


async def test_metrics_of_one_experiment_are_found_by_their_key(history: World) -> None:
    await crowd(history.db, 1)

    plan = await explained(history.db, "SELECT * FROM report_metrics WHERE experiment_id = 1 AND round = 2", ())

    assert "ix_metrics_experiment_id_round" in plan or "pk_metrics" in plan or "sqlite_autoindex_metrics" in plan
