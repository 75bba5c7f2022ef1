"""The SQL reference describes every view column by column, and its queries give what they promise."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from director.domain.types import ExperimentId
from director.effects import ManualClock
from director.store.views import VIEWS
from tests.world import PLAN, World, world

PAGE = Path("docs/reference/sql.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^([^\n]*\?)\n\n```sql\n(.*?);\n```", PAGE, re.MULTILINE | re.DOTALL)


def documented() -> dict[str, list[str]]:
    """Return the columns that each view has according to the page, in order."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return {
        section.split("\n", 1)[0]: re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        for section in sections
        if section.startswith("report_")
    }


@pytest.mark.parametrize("view", VIEWS)
async def test_view_has_the_columns_that_are_documented(federation: World, view: str) -> None:
    async with federation.db.read() as tx:
        columns = list((await tx.execute(text(f"SELECT * FROM {view}"))).keys())

    assert documented()[view] == columns


def test_no_other_view_is_documented() -> None:
    assert documented().keys() == VIEWS.keys()


async def answers(migrated_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Run the page's queries on a federation whose story is known."""
    clock = ManualClock(datetime(2030, 1, 31, 23, 0, tzinfo=UTC))
    async with world(migrated_url, clock=clock, lease=timedelta(hours=12), poll=timedelta(seconds=1)) as federation:
        await federation.register("a", "b")
        await federation.submit("digits", plan=PLAN.replace("rounds: 2", "rounds: 1"))
        await federation.admit()
        [fence] = await federation.claim()
        await federation.drive(fence)
        given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
        for envoy in ("a", "b"):
            await federation.work(given[envoy], envoy)
            clock.advance(timedelta(seconds=30))
            await federation.finish_round({envoy: given[envoy]}, value=2.0)
        await federation.drive(fence)
        await federation.work(given["a"], "a")
        await federation.process.envoys.report_failure(
            "b", ExperimentId(given["b"].experiment_id), attempt=1, error="out of memory"
        )
        await federation.finish_round({"a": given["a"]}, value=4.0)
        await federation.drive(fence)
        clock.advance(timedelta(hours=3))
        await federation.process.envoys.register(
            next(each.shard for each in await federation.process.envoys.listed(federation.process.caller("x")))
        )
        await federation.process.ticker.tick()
        await federation.process.housekeeping.look_at_sessions()
        async with federation.db.read() as tx:
            found = {}
            for question, query in QUERIES:
                found[question] = [tuple(row) for row in (await tx.execute(text(query))).all()]
            return found


async def test_ready_queries_give_what_they_promise(migrated_url: str) -> None:
    found = await answers(migrated_url)

    assert len(found) == len(QUERIES) == 5
    rounds, slowest, history, failures, uptime = found.values()
    assert [row[:5] for row in rounds] == [(1, "train", "closed", 2, 2), (2, "final", "closed", 2, 1)]
    assert rounds[0][5:] == (60.0, 60.0)
    assert [(row[0], row[1], row[2]) for row in slowest] == [("b", 2, 30.0), ("a", 3, 20.0)]
    assert history == [(1, pytest.approx(0.2)), (2, pytest.approx(0.4))]
    assert failures == [("digits", "finished", "b", "out of memory")]
    assert [(row[0], row[1]) for row in uptime][:2] == [("a", "2030-01"), ("a", "2030-02")]
    assert uptime[0][3] == pytest.approx(1.0)
