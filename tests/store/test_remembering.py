"""What a transaction remembers saves queries, and reaches others only when it has committed."""

import asyncio

import pytest

from director.store import experiments
from director.store.engine import database
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from tests.store.words import recorded_statements
from tests.tables import experiment_rows
from tests.world import World


async def recalled(db: Database, key: str) -> object:
    async with db.read() as tx:
        return tx.recall(key)


async def test_lasting_value_is_recalled_by_the_transaction_itself_and_by_later_ones(plain: Database) -> None:
    async with plain.write("test") as tx:
        tx.remember("key", "value", lasting_bytes=10)
        assert tx.recall("key") == "value"

    assert await recalled(plain, "key") == "value"


async def test_lasting_value_that_was_only_read_is_recalled_later(plain: Database) -> None:
    async with plain.read() as tx:
        tx.remember("key", "value", lasting_bytes=10)

    assert await recalled(plain, "key") == "value"


async def test_other_value_ends_with_its_transaction(plain: Database) -> None:
    async with plain.write("test") as tx:
        tx.remember("key", "value")
        assert tx.recall("key") == "value"

    assert await recalled(plain, "key") is None


async def test_forgotten_value_is_not_recalled(plain: Database) -> None:
    async with plain.write("test") as tx:
        tx.remember("key", "value")
        tx.forget("key")

        assert tx.recall("key") is None


async def test_value_of_a_transaction_that_is_still_open_is_unknown_to_others(plain: Database) -> None:
    async with plain.write("test") as tx:
        tx.remember("key", "value", lasting_bytes=10)

        assert await recalled(plain, "key") is None


@pytest.mark.parametrize("how", ["it fails", "its caller is cancelled"])
async def test_value_of_a_transaction_that_was_rolled_back_is_forgotten(plain: Database, how: str) -> None:
    failure = ValueError if how == "it fails" else asyncio.CancelledError
    with pytest.raises(failure):
        async with plain.write("test") as tx:
            tx.remember("key", "value", lasting_bytes=10)
            raise failure

    assert await recalled(plain, "key") is None


@pytest.mark.parametrize("room", [True, False], ids=["that fits", "that is too large"])
async def test_plan_and_manifest_are_read_once_where_there_is_room_for_them(
    federation: World, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    await federation.register("a")
    submitted = await federation.submit(envoys=("a",))
    if not room:
        monkeypatch.setattr(database, "CACHE_BYTES", 100)
    db = open_database(federation.db.url, clock=federation.db.clock)

    reads = []
    for _ in range(2):
        with recorded_statements() as statements:
            async with db.read() as tx:
                found = await experiments.get(tx, submitted.id)
        assert (found.plan, found.manifest) == (submitted.plan, submitted.manifest)
        reads.append(sum(experiment_rows.MANIFEST.search(statement) is not None for statement, _ in statements))

    assert reads == ([1, 0] if room else [1, 1])
    await db.close()
