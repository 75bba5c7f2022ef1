"""A value comes back from either engine as it went in."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from director.domain.types import BlobState
from director.store.engine.database import Database
from director.store.tables import blobs, shards
from tests.store.words import rows

NOON = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


async def shard(db: Database, **values: Any) -> Any:
    """Store a shard and return its row."""
    row = {"envoy": "a", "description": "", "samples": 1, "sample_shape": [], "target_shape": [], "retired_at": None}
    async with db.write("test") as tx:
        await tx.add(shards, row | {"registered_at": NOON, "updated_at": NOON} | values)
    async with db.read() as tx:
        return (await tx.execute(select(shards).where(shards.c.envoy == values.get("envoy", "a")))).one()


@pytest.mark.parametrize(
    "instant",
    [NOON, NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), datetime(1970, 1, 1, tzinfo=UTC)],
    ids=["UTC", "another zone", "the epoch"],
)
async def test_instant_is_the_same_to_the_microsecond_and_in_utc(db: Database, instant: datetime) -> None:
    found = (await shard(db, registered_at=instant)).registered_at

    assert found == instant
    assert found.utcoffset() == timedelta(0)


async def test_instant_without_a_zone_is_refused(db: Database) -> None:
    with pytest.raises(StatementError, match="needs a time zone"):
        await shard(db, registered_at=NOON.replace(tzinfo=None))

    assert await rows(db, "SELECT envoy FROM shards") == []


async def test_instants_are_compared_as_instants(db: Database) -> None:
    for number in range(3):
        await shard(db, envoy=f"e{number}", registered_at=NOON + timedelta(microseconds=number))

    later = select(shards.c.envoy).where(shards.c.registered_at > NOON).order_by(shards.c.registered_at)

    assert await rows(db, later) == ["e1", "e2"]


@pytest.mark.parametrize("shape", [[], [1], [2**40, 0, 3]])
async def test_document_comes_back_as_it_was(db: Database, shape: list[int]) -> None:
    assert (await shard(db, sample_shape=shape)).sample_shape == shape


@pytest.mark.parametrize("text", ["", "ünï ✓ 🚀", "a'b\"c\\d\n", "x" * 60000])
async def test_text_comes_back_as_it_was(db: Database, text: str) -> None:
    assert (await shard(db, description=text)).description == text


@pytest.mark.parametrize("samples", [0, 2**31, 2**63 - 1])
async def test_number_of_64_bits_comes_back_as_it_was(db: Database, samples: int) -> None:
    assert (await shard(db, samples=samples)).samples == samples


async def test_state_comes_back_as_a_member_of_its_enumeration(db: Database) -> None:
    row = {"purpose": "p", "digest": None, "size_bytes": 0, "chunk_bytes": 1, "created_at": NOON, "expires_at": NOON}
    async with db.write("test") as tx:
        await tx.add(blobs, row | {"state": BlobState.RECEIVING})
    async with db.read() as tx:
        assert (await tx.execute(select(blobs.c.state))).scalar_one() is BlobState.RECEIVING
