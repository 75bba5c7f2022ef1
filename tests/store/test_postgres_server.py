"""The server that the tests bring keeps what was committed, and only that, through a crash."""

from collections.abc import Iterator

import asyncpg
import pytest

from tests.postgres import PostgresServer


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A running server of the test's own, so that its crash is nobody else's."""
    own = PostgresServer()
    try:
        own.start()
        yield own
    finally:
        own.remove()


async def test_crash_and_restart_keep_committed_rows_and_no_others(server: PostgresServer) -> None:
    url = await server.create_database("ledger")
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE acknowledged (number int)")
    await connection.execute("INSERT INTO acknowledged VALUES (1)")
    await connection.execute("BEGIN; INSERT INTO acknowledged VALUES (2)")

    server.crash()
    server.restart()

    connection.terminate()
    assert await numbers(url) == [1]


async def test_restart_keeps_the_options_of_the_start(server: PostgresServer) -> None:
    server.stop()
    server.start("-c", "work_mem=7MB")

    server.restart()

    assert await value(server.url("postgres"), "SHOW work_mem") == "7MB"


async def test_server_listens_on_no_network_port(server: PostgresServer) -> None:
    addresses = await value(server.url("postgres"), "SHOW listen_addresses")

    assert addresses == ""


async def test_database_made_from_a_template_starts_with_its_rows_and_goes_its_own_way(server: PostgresServer) -> None:
    template = await server.create_database("template")
    await execute(template, "CREATE TABLE acknowledged (number int); INSERT INTO acknowledged VALUES (1)")

    copy = await server.create_database("copy", template="template")
    await execute(copy, "INSERT INTO acknowledged VALUES (2)")

    assert await numbers(copy) == [1, 2]
    assert await numbers(template) == [1]


def test_start_that_fails_says_why(server: PostgresServer) -> None:
    server.stop()

    with pytest.raises(RuntimeError, match="unrecognized configuration parameter"):
        server.start("-c", "no_such_parameter=1")


def test_removed_server_leaves_no_files(server: PostgresServer) -> None:
    server.remove()

    assert not server.home.exists()


async def value(url: str, query: str) -> object:
    """Return the one value that a query answers."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def numbers(url: str) -> object:
    """Return what the table holds, in order."""
    return await value(url, "SELECT array_agg(number ORDER BY number) FROM acknowledged")


async def execute(url: str, script: str) -> None:
    """Run statements, committed together."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()
