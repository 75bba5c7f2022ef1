"""A value comes back from either engine as it went in."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy.exc import StatementError

from director.domain.types import BlobState
from director.store.engine.database import Database
from tests.tables import blob_rows, changes, presence_rows
from tests.tables.presence_rows import RegisteredShard

NOON = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


async def shard(db: Database, envoy: str = "a", *, at: datetime = NOON, **values: Any) -> RegisteredShard:
    """Store a shard, and read it again."""
    await changes.add_shard(db, envoy, at=at, **values)
    return await presence_rows.shard(db, envoy)


@pytest.mark.parametrize(
    "instant",
    [NOON, NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), datetime(1970, 1, 1, tzinfo=UTC)],
    ids=["UTC", "another zone", "the epoch"],
)
async def test_instant_is_the_same_to_the_microsecond_and_in_utc(db: Database, instant: datetime) -> None:
    found = (await shard(db, at=instant)).at

    assert found == instant
    assert found.utcoffset() == timedelta(0)


async def test_instant_without_a_zone_is_refused(db: Database) -> None:
    with pytest.raises(StatementError, match="needs a time zone"):
        await shard(db, at=NOON.replace(tzinfo=None))

    assert await presence_rows.envoys(db) == []


async def test_instants_are_compared_as_instants(db: Database) -> None:
    for number in range(3):
        await shard(db, f"e{number}", at=NOON + timedelta(microseconds=number))

    assert await presence_rows.envoys_registered_after(db, NOON) == ["e1", "e2"]


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
    await changes.add_upload(db, at=NOON)

    assert await blob_rows.typed_state(db) is BlobState.RECEIVING
