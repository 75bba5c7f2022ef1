"""Every transaction locks rows in one order, the experiment's first, so that none waits for another in a circle."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest

import director
from director.domain.commands import Heartbeat, ModelReference
from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.effects import ManualClock, SeededEntropy
from director.errors import Corrupt, InvalidArgument, InvalidPlan, RoundClosed
from director.services import backups, uploads
from director.services.runtime import Caller
from director.store.leases import Fence
from director.store.tables import metadata
from tests.conftest import lent
from tests.postgres import PostgresServer
from tests.store.lock_records import Record, locks, recorded
from tests.store.words import LEASE, live
from tests.world import PLAN, RESEARCHER, World, chunks_of, content_of, world

CHANGE = "experiments → rounds → assignments → collaborators → contributions, models, blobs"
LOCKS = {
    "submit": "blobs (skip) → experiments",
    "admission": "periodic_jobs → experiments (skip) → rounds → assignments → collaborators",
    "claim": "experiments (skip)",
    "review": CHANGE,
    "open round": CHANGE,
    "freeze round": CHANGE,
    "close round": f"{CHANGE}, blobs (skip)",
    "finish": f"{CHANGE}, blobs (skip)",
    "fail": CHANGE,
    "give up": CHANGE,
    "cancel": CHANGE,
    "remove": f"{CHANGE}, experiment_users",
    "give tasks": "experiments → rounds → assignments → collaborators",
    "report failure": "experiments → rounds → assignments → collaborators",
    "release": "experiments",
    "contribute": "experiments → blobs (skip)",
    "late contribution": "experiments → blobs",
    "hand out": "experiments (skip) → collaborators",
    "enter": "directors (skip) → federations",
    "renew": "directors",
    "reap": "directors (skip) → federations",
    "free": "experiments (skip)",
    "leave": "directors → federations",
    "tick": "service_clocks (skip)",
    "sessions": "periodic_jobs (skip) → envoy_sessions → federations",
    "heartbeats": "heartbeats (skip)",
    "register": "shards → heartbeats → federations",
    "leave envoy": "heartbeats → envoy_sessions → federations",
    "retire envoy": "shards → heartbeats → envoy_sessions → federations",
    "restore envoy": "shards → federations",
    "release retired": "experiments → rounds → assignments → collaborators",
    "begin submission": "blobs",
    "begin upload": "blobs",
    "put chunk": "blobs",
    "seal upload": "blobs",
    "copy chunks": "blobs",
    "seal copy": "blobs",
    "give up upload": "blobs",
    "refuse submission": "blobs",
    "begin fold": "blobs",
    "put fold chunk": "blobs",
    "seal fold": "blobs",
    "sweep": "blobs (skip) → blob_chunks",
    "prune models": "experiments (skip) → models → blobs",
    # Rows that refer to others go before these; nobody else changes anything of an experiment that was removed.
    "drop history": (
        "experiments (skip) → events → metrics → contributions → assignments → rounds → models → collaborators"
    ),
    "forget": "envoy_sessions (skip) → directors (skip)",
    # On a restored copy, before any director runs.
    "new epoch": "federations → directors → experiments",
}
"""The transactions by name: the rows that they lock, in order, and of which they pass by those that others hold.

Tables that stand together have no order: contributions and models belong to the experiment whose row is held, and
nobody who holds a blob waits for anything else.
"""
DELETED = {
    "sweep": {"blobs", "blob_chunks"},
    "remove": {"experiment_users"},
    "drop history": {"events", "metrics", "contributions", "assignments", "rounds", "models", "collaborators"},
    "forget": {"envoy_sessions", "directors"},
}
"""Whose rows a transaction deletes, for which it needs them alone."""
OPERATOR = Caller("operator", operator=True)


@pytest.fixture(scope="module")
def records(postgres: PostgresServer, migrated_postgres: str) -> Iterator[Mapping[str, list[Record]]]:
    """What is locked in the life of a federation in which everything happens once."""
    for url in lent(postgres, migrated_postgres):
        yield asyncio.run(whole_life(url))


async def whole_life(url: str) -> Mapping[str, list[Record]]:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION pgrowlocks")
    await connection.close()
    clock = ManualClock()
    kept = {"keep_models_every": 5, "history_retention": timedelta(0), "presence_retention": timedelta(0)}
    async with (
        world(url, clock=clock, **kept) as one,
        world(url, clock=clock, seed=2, review=lambda _name, _path: True) as two,
    ):
        with recorded(one.db, two.db, tables=[table.name for table in metadata.sorted_tables]) as found:
            await one.register("a", "b")
            await one.process.envoys.heartbeat(Heartbeat("a", experiment_running=False))
            await trained_to_the_end(one)
            await trained_a_model_of_no_bytes(one)
            await renewed(one, two)
            await ended_early(one)
            await renewed(one, two)
            await reviewed(one, two)
            await came_and_went(one)
            await began_with_a_copy(one)
            await renewed(one, two)
            await uploaded_in_vain(one)
            await one.do_periodic_jobs()
            await one.process.experiments.remove("finished", RESEARCHER)
            await outlived(one, two, clock)
            await live(two, clock, 300)
            await one.do_periodic_jobs()
            await one.process.presence.enter()
            await backups.begin_epoch(one.db, SeededEntropy(3))
            await one.process.presence.leave()
    return found


async def renewed(*directors: World) -> None:
    """Renew leases, which end by the time that really passes, and a slow machine needs much of it."""
    for each in directors:
        await each.process.presence.renew(each.db)


async def begun(federation: World, name: str, **more: Any) -> tuple[Fence, dict[str, Engagement]]:
    """Have an experiment begin its first round."""
    await federation.submit(name, **more)
    await federation.admit()
    [fence] = await federation.claim()
    await federation.drive(fence)
    return fence, {envoy: await federation.wait(envoy) for envoy in ("a", "b")}


async def trained_to_the_end(one: World) -> None:
    fence, given = await begun(one, "finished", plan=PLAN + "percentage: 0.5", users=("colleague",))
    await one.finish_round({"a": given["a"]})
    await one.drive(fence)
    with suppress(RoundClosed):
        await one.contribute(given["b"], "b", "validate", round_number=1)
    for _ in range(2):
        await one.finish_round(given)
        await one.drive(fence)


async def trained_a_model_of_no_bytes(one: World) -> None:
    fence, given = await begun(one, "of no bytes", model={"weights": np.zeros(0, np.float32)})
    await one.finish_round(given)
    await one.drive(fence)
    await one.process.experiments.cancel("of no bytes", RESEARCHER)


async def ended_early(one: World) -> None:
    fence, given = await begun(one, "failed")
    await one.finish_round({"a": given["a"]})
    await one.process.envoys.report_failure(
        "b", given["b"].experiment_uid, attempt=given["b"].attempt, failure=Failure("no memory")
    )
    await one.drive(fence)
    fence, given = await begun(one, "given up")
    await one.finish_round({"a": given["a"]})
    await one.steps(fence).give_up("nothing worked")
    _, given = await begun(one, "cancelled")
    await one.finish_round({"a": given["a"]})
    await one.process.experiments.cancel("cancelled", RESEARCHER)
    await begun(one, "let go")
    await one.process.execution.drain()
    await one.process.experiments.remove("let go", RESEARCHER)


async def reviewed(one: World, two: World) -> None:
    for name, approve in (("approved", True), ("rejected", False)):
        await one.submit(name, plan=PLAN + "review: manual")
        await one.process.experiments.review(name, OPERATOR, approve=approve)
    await one.process.experiments.cancel("approved", RESEARCHER)
    await two.submit("asked about")
    [fence] = await two.claim()
    steps = two.steps(fence, review=lambda _name, _path: True)
    while await steps.next() is not None:
        pass
    await one.process.experiments.cancel("asked about", RESEARCHER)


async def came_and_went(one: World) -> None:
    [session] = await one.register("c")
    await one.process.envoys.leave("c", session.id)
    await one.register("c")
    await begun(one, "with one that is retired", envoys=("a", "b", "c"))
    await one.process.federation.retire("c", OPERATOR)
    await one.process.federation.restore("c", OPERATOR)
    await one.process.experiments.cancel("with one that is retired", RESEARCHER)


async def began_with_a_copy(one: World) -> None:
    uid = (await one.row("finished")).uid
    await one.submit("copied", model=ModelReference(uid, 1))
    await one.process.experiments.cancel("copied", RESEARCHER)


async def uploaded_in_vain(one: World) -> None:
    with suppress(InvalidPlan):
        await one.submit("without a plan", plan="rounds: none")
    runtime, data = one.process.runtime, bytes(3 * one.process.runtime.settings.chunk_bytes)
    announced = content_of(data)

    async def broken_off() -> AsyncIterator[tuple[int, bytes]]:
        async for number, chunk in chunks_of(data, upload):
            if number < 2:
                yield number, chunk

    upload = await uploads.begin(runtime, "resumed", announced)
    with suppress(InvalidArgument):
        await uploads.receive(runtime, upload, announced, broken_off(), check=uploads.accept_anything)
    upload = await uploads.begin(runtime, "resumed", announced)
    await uploads.receive(runtime, upload, announced, chunks_of(data, upload), check=uploads.accept_anything)
    await uploads.begin(runtime, "resumed", content_of(b"something else"))
    upload = await uploads.begin(runtime, "damaged", announced)
    damaged = bytes([1]) + data[1:]
    with suppress(Corrupt):
        await uploads.receive(runtime, upload, announced, chunks_of(damaged, upload), check=uploads.accept_anything)


async def outlived(one: World, two: World, clock: ManualClock) -> None:
    """Let the first director die with an experiment, which the second one frees."""
    await begun(one, "orphaned")
    await live(two, clock, 0.75 * LEASE.total_seconds())
    await two.process.presence.renew(two.db)
    await live(two, clock, 0.75 * LEASE.total_seconds())
    await two.process.presence.expire_leases()
    await two.process.ticker.tick()


def test_every_transaction_is_recorded_and_its_order_is_stated(records: Mapping[str, list[Record]]) -> None:
    source = Path(director.__file__).parent
    named = re.compile(r'\.write\("([^"]+)"\) as tx:$', re.MULTILINE)
    names = {name for path in source.rglob("*.py") for name in named.findall(path.read_text())}

    assert names == set(LOCKS)
    assert names == set(records)


@pytest.mark.parametrize("name", LOCKS)
def test_rows_are_locked_in_the_stated_order(records: Mapping[str, list[Record]], name: str) -> None:
    stated = [group.split(", ") for group in LOCKS[name].split(" → ")]
    place = {table: number for number, group in enumerate(stated) for table in group}

    for record in records[name]:
        assert set(record.order) <= set(place), f"{name} locks {' → '.join(record.order)}"
        places = [place[table] for table in record.order]
        assert places == sorted(places), f"{name} locks {' → '.join(record.order)}"
        assert 0 in places or not places, f"{name} begins with {record.order[0]}"


def test_several_rows_are_locked_in_an_order_of_their_own(records: Mapping[str, list[Record]]) -> None:
    found = {(name, lock) for name, each in records.items() for one in each for lock in one.locks}

    assert [(name, str(lock)) for name, lock in found if not lock.ordered] == []


def test_nobody_shares_a_row_and_nobody_takes_one_alone_but_blobs_and_what_is_deleted(
    records: Mapping[str, list[Record]],
) -> None:
    asked = {(name, lock.table, lock.how) for name, each in records.items() for one in each for lock in one.locks}
    held = {(name, *lock.split(": ")) for name, each in records.items() for one in each for lock in one.held}

    assert not {(name, table) for name, table, how in asked if "SHARE" in how}
    assert not {(name, table) for name, table, kind in held if kind == "For Share"}
    alone = {(name, table) for name, table, kind in asked | held if kind in ("FOR UPDATE", "For Update", "Update")}
    assert {table for name, table in alone if table not in DELETED.get(name, ())} == {"blobs"}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT a.id FROM a WHERE a.id = $1 FOR NO KEY UPDATE", [("a", "FOR NO KEY UPDATE", False, True)]),
        ("SELECT a.id FROM a WHERE a.x IN ($1, $2) FOR UPDATE SKIP LOCKED", [("a", "FOR UPDATE", True, False)]),
        (
            "SELECT a.id FROM a JOIN b ON b.x = a.x WHERE a.id IN (SELECT c.id FROM c) ORDER BY a.id FOR SHARE OF b",
            [("b", "FOR SHARE", False, True)],
        ),
        (
            "WITH c AS (SELECT a.id FROM a ORDER BY a.id FOR NO KEY UPDATE SKIP LOCKED) UPDATE b SET x = 1",
            [("a", "FOR NO KEY UPDATE", True, True), ("b", "UPDATE", False, True)],
        ),
        ("DELETE FROM a WHERE a.id = $1", [("a", "DELETE FROM", False, True)]),
        ("INSERT INTO a (x) VALUES ($1) ON CONFLICT DO NOTHING", []),
        ("INSERT INTO a (x) VALUES ($1) ON CONFLICT (x) DO UPDATE SET y = 1", [("a", "INSERT INTO", False, True)]),
        ("SELECT a.id FROM a", []),
    ],
)
def test_statements_are_understood(statement: str, expected: list[tuple[str, str, bool, bool]]) -> None:
    found = [(lock.table, lock.how, lock.skips, lock.ordered) for lock in locks(statement)]

    assert found == expected
