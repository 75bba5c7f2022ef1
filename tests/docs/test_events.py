"""The reference of events, against a history in which every kind of them happens."""

import shutil
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.history import EventKind
from director.effects import ManualClock
from director.errors import RoundClosed
from director.services import backups
from director.services.runtime import Caller
from director.store.engine.opening import open_database
from tests.docs.pages import page, quoted, rows, sections
from tests.tables import event_rows
from tests.tables.event_rows import Happened
from tests.world import PLAN, RESEARCHER, World, world

PAGE = sections(page("reference/events.md"))
FEDERATION, EXPERIMENTS = PAGE["The federation"], PAGE["Experiments"] + PAGE["Rounds"]
FIRST_DONE_IS_ENOUGH = f"{PLAN.replace('rounds: 2', 'rounds: 1')}\npercentage: 0.5"
MANUAL = f"{PLAN}\nreview: manual"
OPERATOR = Caller("olga", operator=True)


class Documented(NamedTuple):
    """A row of the page."""

    actor: str
    details: set[str]
    when: str


def documented(text: str) -> dict[str, Documented]:
    """Return the events that a part of the page describes."""
    return {
        quoted(kind): Documented(
            actor, set(details.replace("none", "").replace("`", "").replace(",", "").split()), when
        )
        for kind, actor, details, when in rows(text)
    }


@pytest.fixture(scope="module")
def copied(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "director.db"
    shutil.copy(migrated_sqlite, path)
    return path


@pytest.fixture
async def history(copied: Path) -> dict[str, list[Happened]]:
    """All that happened in a federation to which everything happens, by kind."""
    url, clock = f"sqlite:///{copied}", ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    async with world(url, clock=clock) as federation:
        await federation.register("a", "b")
        await finish_without_b(federation)
        await review(federation)
        await fail_and_cancel(federation)
        await federation.process.experiments.remove("finished", RESEARCHER)
        await leave_retire_and_restore(federation)
        await fall_silent(federation, clock)
        await federation.process.presence.enter()  # as after a crash: the previous director is dead
    await backups.new_epoch(url)
    return await read(url)


async def read(url: str) -> dict[str, list[Happened]]:
    found, db = defaultdict(list), open_database(url)
    for event in await event_rows.everything(db):
        found[event.kind].append(event)
    await db.close()
    return found


async def finish_without_b(federation: World) -> None:
    """One experiment to its end: `b` is late in the round that trains, and fails in the final one."""
    await federation.submit("finished", plan=FIRST_DONE_IS_ENOUGH)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    a, b = await federation.wait("a"), await federation.wait("b")
    await federation.finish_round({"a": a})
    await federation.drive(fence)
    with pytest.raises(RoundClosed):
        await federation.contribute(b, "b", "validate", round_number=1)
    await fail(federation, b)
    await federation.finish_round({"a": a})
    await federation.drive(fence)


async def fail(federation: World, given: Engagement) -> None:
    failure = Failure("no disk", task="train", error_type="OSError")
    await federation.process.envoys.report_failure("b", given.experiment_uid, attempt=1, failure=failure)


async def review(federation: World) -> None:
    """An operator refuses one experiment and lets another one pass."""
    for name in ("rejected", "cancelled"):
        await federation.submit(name, plan=MANUAL, envoys=["a"])
    await federation.process.experiments.review("rejected", OPERATOR, approve=False)
    await federation.process.experiments.review("cancelled", OPERATOR, approve=True, reason="well done")


async def fail_and_cancel(federation: World) -> None:
    """An experiment that its only envoy cannot do, and one that is cancelled after a director let it go."""
    await federation.submit("failed", envoys=["b"])
    await federation.admit()
    owned = await federation.claim()
    b = await federation.wait("b")
    await fail(federation, b)
    for fence in owned:
        await federation.drive(fence)
    await federation.process.execution.drain()
    await federation.process.experiments.cancel("cancelled", RESEARCHER)


async def leave_retire_and_restore(federation: World) -> None:
    """An envoy says goodbye; an operator retires it and restores it."""
    [session] = await federation.register("c")
    await federation.process.envoys.leave("c", session.id)
    await federation.process.federation.retire("c", OPERATOR)
    await federation.process.federation.restore("c", OPERATOR)


async def fall_silent(federation: World, clock: ManualClock) -> None:
    """No envoy sends a heartbeat for three minutes."""
    for _ in range(40):
        clock.advance(timedelta(seconds=5))
        await federation.process.ticker.tick()
    await federation.process.periodic_jobs.reconcile_sessions()


def test_every_kind_of_event_is_documented_and_no_other() -> None:
    assert documented(FEDERATION).keys() | documented(EXPERIMENTS).keys() == set(EventKind)


async def test_events_are_as_the_page_says(history: dict[str, list[Happened]]) -> None:
    page_says = documented(FEDERATION) | documented(EXPERIMENTS)

    assert history.keys() == page_says.keys()
    for kind, told in history.items():
        says = page_says[kind]
        assert {frozenset(each.details) for each in told} == {frozenset(says.details)}, kind
        assert {each.stream == 0 for each in told} == {kind in documented(FEDERATION)}, kind
        assert any(each.reason for each in told) == ("Reason:" in says.when), kind
        assert all("Reason: always" not in says.when or each.reason for each in told), kind
        assert all(actor_of(each.actor) in says.actor for each in told), kind


def actor_of(name: str) -> str:
    """Return what the page calls an actor."""
    people = {"researcher": "the user", "olga": "the operator", **dict.fromkeys("abc", "the envoy")}
    return people.get(name, f"`{name}`")
