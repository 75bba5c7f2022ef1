"""What the how-to pages tell people to type works, on a federation like the one that they speak of."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from director.domain.history import Cursor
from tests.acceptance.material import WARDS, lay_out, submit
from tests.acceptance.processes import Machine
from tests.docs.pages import page
from tests.docs.reader import Reader
from tests.postgres import PostgresServer
from tests.wire.running import Collaborator


def test_commands_for_operators_work(tmp_path: Path) -> None:
    lay_out(tmp_path, more="review: manual\n")
    with Machine(tmp_path, {"DIRECTOR_CLIENT_ID": "ann", "DIRECTOR_OPERATORS": '["ann"]'}) as machine:
        machine.serve()
        for name in WARDS:
            Collaborator(machine.environment["DIRECTOR_ADDRESS"], name).close()  # registered, which is all it takes
        machine.say(*submit("digits"))

        Reader(machine).follow(page("howto/operate.md"))

        assert [row["state"] for row in machine.ask("report")] == ["cancelled"]
        told = [event["kind"] for event in machine.ask("envoys", "events") if event["actor"] == "ann"]
        assert told == ["envoy_retired", "envoy_restored"]
        place = Cursor.parse((tmp_path / "digits.cursor").read_text())
        assert place.seq >= 2, "follow.py has read the submission and the approval, and stored its place"
        assert [row["reason"] for row in machine.ask("report")] == ["wrong data"]
        assert len(list(tmp_path.glob("director-*.db"))) == 1


def test_federation_is_set_up_on_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    def sql(statements: str) -> None:
        asyncio.run(run(postgres.url("postgres"), statements))

    instead = {
        "postgresql://director@db.example.org/federation": postgres.url("howto").replace("postgres@", "howto@"),
        "ROLE director": "ROLE howto",
        "DATABASE federation OWNER director": "DATABASE howto OWNER howto",
    }
    with Machine(tmp_path) as machine:
        Reader(machine, sql=sql, instead=instead).follow(page("howto/postgresql.md"))

        del machine.environment["DIRECTOR_ADDRESS"]
        machine.serve()  # another one beside it
        assert machine.ask("envoys") == []
    sql("DROP DATABASE howto WITH (FORCE); DROP ROLE howto;")


async def run(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements.split(";")[:-1]:
        await connection.execute(statement)  # one by one: a database is not made inside a transaction
    await connection.close()


@pytest.mark.system
def test_federation_runs_over_tls_with_certificates_made_as_described(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        instead = {"director.example.org:50051": "localhost:PORT", "director.example.org": "localhost"}
        Reader(machine, instead=instead | {"0.0.0.0": "127.0.0.1"}).follow(page("howto/tls.md"))

        assert machine.ask("envoys") == []
        del machine.environment["DIRECTOR_ROOT_CERTIFICATE"]
        assert machine.run("envoys").status == 2
