"""Lists of envoys, page by page: complete, in order, as filtered, and bounded however many there are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from director.client import Federation
from director.errors import InvalidArgument
from director.v1 import federation_pb2
from tests.tables import crowds
from tests.wire.calls import on_both_engines, refused

MANY = [f"envoy-{number:05}" for number in range(10_000)]
NAMES = [*"ABCZabcz", "0", "10", "2", "rom", "rom-1", "rome", "Ä", "ä", "é", "ж", "模", "\U0001f642"]
"""Names that other collations order in other ways."""

Pages = Callable[..., AsyncIterator[list[str]]]


@pytest.fixture
def pages(clients: Any) -> Pages:
    """Yields the names on each page."""
    stub = clients("anybody").federation

    async def each(**wanted: Any) -> AsyncIterator[list[str]]:
        request = federation_pb2.ListEnvoysRequest(**wanted)
        while True:
            page = await stub.ListEnvoys(request)
            yield [envoy.shard.envoy for envoy in page.envoys]
            if not (token := page.next_page_token):
                return
            request.page_token = token

    return each


async def names_of(pages: AsyncIterator[list[str]]) -> list[str]:
    return [name async for page in pages for name in page]


@on_both_engines
async def test_ten_thousand_envoys_are_listed_in_order_over_bounded_pages(traffic, federation, port):
    await crowds.add_envoys(federation.db, MANY[::-1])

    def listed() -> list[str]:
        with Federation(f"127.0.0.1:{port}", client_id="anybody") as far:
            return [each.name for each in far.envoys()]

    assert await asyncio.to_thread(listed) == MANY
    assert len(traffic.messages) == 2 * 100
    assert traffic.largest < 64 << 10


@on_both_engines
async def test_order_is_that_of_the_names_bytes_whatever_the_engine(federation, pages):
    await crowds.add_envoys(federation.db, NAMES)

    for size in (1, 3, 100):
        assert await names_of(pages(page_size=size)) == sorted(NAMES, key=str.encode)


@pytest.mark.parametrize(("asked", "given"), [(0, 100), (1, 1), (999, 999), (1000, 1000), ((1 << 31) - 1, 1000)])
async def test_page_has_the_size_that_is_asked_for_up_to_a_thousand(federation, pages, asked, given):
    await crowds.add_envoys(federation.db, MANY[:1200])

    assert len(await anext(pages(page_size=asked))) == given


async def test_page_of_less_than_nothing_is_refused(pages):
    with refused(InvalidArgument, "page_size is negative"):
        await names_of(pages(page_size=-1))


async def test_last_page_that_is_full_is_the_last(federation, pages):
    await crowds.add_envoys(federation.db, MANY[:20])

    assert [len(page) async for page in pages(page_size=10)] == [10, 10]


@on_both_engines
async def test_envoys_are_filtered_by_names_by_presence_and_by_both(federation, pages):
    online, offline, retired = MANY[0:30:3], MANY[1:30:3], MANY[2:30:3]
    await crowds.add_envoys(federation.db, MANY[:30], offline=offline, retired=retired)

    async def found(**wanted: Any) -> list[str]:
        return await names_of(pages(page_size=4, **wanted))

    assert await found() == sorted(online + offline)
    assert await found(show_retired=True) == MANY[:30]
    assert await found(online=True) == online
    assert await found(online=False) == offline
    assert await found(online=True, show_retired=True) == online
    assert await found(online=False, show_retired=True) == sorted(offline + retired)
    some = ["nobody", *MANY[9:0:-1], *MANY[4:6]]
    assert await found(names=some, show_retired=True) == MANY[1:10]
    assert await found(names=some, online=True) == [name for name in MANY[1:10] if name in online]
    assert await found(names=["nobody"]) == []


@on_both_engines
async def test_thousand_names_may_be_asked_for_and_no_more(federation, pages):
    await crowds.add_envoys(federation.db, MANY[:1500])

    assert await names_of(pages(names=MANY[:1000])) == MANY[:1000]
    with refused(InvalidArgument, "1001 names; ask for at most 1000"):
        await names_of(pages(names=MANY[:1001]))


async def test_page_ends_early_at_a_mebibyte_and_loses_nothing(traffic, federation, pages):
    await crowds.add_envoys(federation.db, MANY[:100], description="ä" * 60_000)

    sizes = [len(page) async for page in pages(page_size=100)]

    assert await names_of(pages(page_size=100)) == MANY[:100]
    assert sizes == [8] * 12 + [4]
    assert traffic.largest <= 1 << 20


async def test_envoys_that_register_while_pages_are_read_move_no_others(federation, pages):
    await crowds.add_envoys(federation.db, MANY[10:20])
    reading = pages(page_size=4)

    first = await anext(reading)
    await crowds.add_envoys(federation.db, MANY[:5] + MANY[30:32])
    rest = [name async for page in reading for name in page]

    assert first + rest == MANY[10:20] + MANY[30:32]
