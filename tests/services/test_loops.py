"""Every background loop of a director survives every error, and is watched."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from director.services import execution, supervision
from director.services.periodic_jobs import Ticker
from director.services.process import Process
from director.store.engine import notifications, postgresql
from director.store.engine.database import Failpoints
from tests.services.replicas import running as at_work
from tests.store.words import only_postgresql, running
from tests.tables import experiment_rows
from tests.world import World, world

FAILURES = 4
PATIENCE = 30
POLL = timedelta(milliseconds=20)

Broken = Callable[[Process, pytest.MonkeyPatch, "Breaking"], None]


class Breaking:
    """Lets a function raise the first times; then it does its work."""

    def __init__(self, error: Callable[[], BaseException], *, times: int = FAILURES) -> None:
        self.error = error
        self.left = times
        self.worked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def breaking(*arguments: Any, **more: Any) -> Any:
            if self.left:
                self.left -= 1
                raise self.error()
            result = await work(*arguments, **more)
            self._loop.call_soon_threadsafe(self.worked.set)
            return result

        return breaking


def in_method(part: str, method: str) -> Broken:
    """Break a method of a part of the process."""

    def break_it(process: Process, patch: pytest.MonkeyPatch, breaking: Breaking) -> None:
        owner = getattr(process, part)
        patch.setattr(owner, method, breaking(getattr(owner, method)))

    return break_it


def in_job(name: str) -> Broken:
    """Break one of the periodic jobs."""

    def break_it(process: Process, _patch: pytest.MonkeyPatch, breaking: Breaking) -> None:
        jobs = process.periodic_jobs
        jobs.each = {**jobs.each, name: breaking(jobs.each[name])}

    return break_it


def in_renewal(process: Process, patch: pytest.MonkeyPatch, breaking: Breaking) -> None:
    thread = process.presence.lease_thread
    patch.setattr(thread, "_renew", breaking(thread._renew))


def in_connection(_process: Process, patch: pytest.MonkeyPatch, breaking: Breaking) -> None:
    patch.setattr(notifications, "connect", breaking(postgresql.connect))


LOOPS: dict[str, Broken] = {
    "service time": in_method("ticker", "tick"),
    "admission": in_method("admission", "admit"),
    "claiming": in_method("execution", "reconcile"),
    "sessions": in_job("sessions"),
    "retired envoys": in_job("retired envoys"),
    "sweeping": in_job("sweeping"),
    "retention": in_job("retention"),
    "free space": in_job("free space"),
}
REPLICATED: dict[str, Broken] = {
    "presence": in_method("presence", "expire_leases"),
    "lease thread": in_renewal,
    "notifications": in_connection,
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again nearly at once."""
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", 0.001)


@pytest.fixture
async def quick(migrated_url: str) -> AsyncIterator[World]:
    async with world(migrated_url, poll=POLL) as opened:
        yield opened


def no_such_luck() -> Exception:
    return ZeroDivisionError("no such luck")


async def test_every_loop_is_broken_in_these_tests(quick: World) -> None:
    assert set(quick.process.loops()) == {*LOOPS, *(REPLICATED if quick.db.replicated else {})}


async def survived(federation: World, name: str, patch: pytest.MonkeyPatch, broken: Broken) -> None:
    """Break a loop for some tries; see it work again, while the director goes on."""
    breaking = Breaking(no_such_luck)
    broken(federation.process, patch, breaking)
    async with at_work(federation), asyncio.timeout(PATIENCE):
        await breaking.worked.wait()
        assert breaking.left == 0, f"{name} was tried again"


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.usefixtures("impatient")
async def test_loop_survives_an_arbitrary_error_and_logs_it_once(
    quick: World, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await survived(quick, name, monkeypatch, LOOPS[name])

    [record] = errors(caplog)
    assert record.getMessage() == f"{name}: failed, trying again: ZeroDivisionError: no such luck"
    assert record.exc_info is not None


@only_postgresql
@pytest.mark.parametrize("name", REPLICATED)
@pytest.mark.usefixtures("impatient")
async def test_loop_between_directors_survives_an_arbitrary_error_and_logs_it_once(
    quick: World, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await survived(quick, name, monkeypatch, REPLICATED[name])

    [record] = errors(caplog)
    assert record.getMessage().endswith("failed, trying again: ZeroDivisionError: no such luck")
    assert record.exc_info is not None


@pytest.mark.usefixtures("impatient")
async def test_loop_that_ends_without_being_stopped_is_started_again(
    quick: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran = Ticker.run
    starts = 0

    async def ending(ticker: Ticker, succeeded: Callable[[], None]) -> None:
        nonlocal starts
        starts += 1
        if starts > FAILURES:
            await ran(ticker, succeeded)

    monkeypatch.setattr(Ticker, "run", ending)
    ticked = Breaking(no_such_luck, times=0)
    monkeypatch.setattr(quick.process.ticker, "tick", ticked(quick.process.ticker.tick))
    async with at_work(quick), asyncio.timeout(PATIENCE):
        await ticked.worked.wait()

    [record] = errors(caplog)
    assert record.getMessage() == "service time: failed, trying again: RuntimeError: the loop returned"


@pytest.mark.usefixtures("impatient")
async def test_experiments_are_driven_on_while_claiming_fails(quick: World, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id = await running(quick)
    name = f"experiment {experiment_id}"
    async with at_work(quick):
        async with asyncio.timeout(PATIENCE):
            while not (driving := [task for task in asyncio.all_tasks() if task.get_name() == name]):
                await asyncio.sleep(0.01)
        breaking = Breaking(no_such_luck)
        in_method("execution", "reconcile")(quick.process, monkeypatch, breaking)
        async with asyncio.timeout(PATIENCE):
            await breaking.worked.wait()

        assert [task for task in asyncio.all_tasks() if task.get_name() == name] == driving
    assert driving[0].cancelled(), "a director that stops ends what it drives"


class Defective(Failpoints):
    """Has a defect in the first transactions of some names."""

    def __init__(self, **times: int) -> None:
        self.left = times

    def before(self, name: str) -> None:
        if self.left.get(name.replace(" ", "_"), 0):
            self.left[name.replace(" ", "_")] -= 1
            raise ZeroDivisionError(f"no {name}")


@pytest.mark.usefixtures("impatient")
async def test_experiment_that_cannot_even_be_given_up_is_tried_again(
    quick: World, caplog: pytest.LogCaptureFixture
) -> None:
    await running(quick)
    quick.db.failpoints = Defective(open_round=execution.TRIES + 1, give_up=1)
    async with at_work(quick), asyncio.timeout(PATIENCE):
        while await experiment_rows.states(quick.db) != ["failed"]:
            await asyncio.sleep(0.01)

    assert [record.getMessage().split(": ", 1)[1] for record in errors(caplog)] == [
        "failed, trying again: ZeroDivisionError: no open round",
        "failed, trying again: ZeroDivisionError: no give up",
        f"given up after {execution.TRIES + 1} failed steps",
    ]


async def test_director_that_cannot_release_its_experiments_stops_all_the_same(
    quick: World, caplog: pytest.LogCaptureFixture
) -> None:
    await running(quick)
    await quick.claim()
    quick.db.failpoints = Defective(release=1)

    await quick.process.drain()

    [record] = errors(caplog)
    assert "could not be released" in record.getMessage()


async def test_director_that_cannot_end_its_lease_still_lets_the_file_and_the_database_go(migrated_url: str) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with world(migrated_url) as defective:
            defective.db.failpoints = Defective(leave=1)

    async with world(migrated_url, seed=2) as next_one:
        assert next_one.process.presence.director_id is not None
