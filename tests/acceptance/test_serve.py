"""`director serve` as an operator runs it: what it says when it starts, when it cannot, and when it stops."""

import asyncio
import socket

import pytest

from tests.acceptance.processes import Machine
from tests.postgres import PostgresServer


def test_embedded_database_is_made_and_a_stop_is_a_success(machine: Machine) -> None:
    director = machine.serve()

    assert (machine.folder / "director.db").exists()
    assert machine.say("envoys") == "no envoy has registered yet\n"
    assert director.stop() == 0
    assert [line.split(": ")[1] for line in director.lines] == ["stopping"]


def test_second_director_on_one_file_is_refused(machine: Machine) -> None:
    machine.serve()

    assert machine.refusal("serve", "--listen", "127.0.0.1:0") == (
        "another director is running on director.db; a SQLite database takes one (PostgreSQL takes any number)"
    )


def test_postgresql_is_upgraded_by_a_command_that_serve_names(machine: Machine, postgres: PostgresServer) -> None:
    url = asyncio.run(postgres.create_database("served"))

    assert machine.refusal("serve", "--database", url) == (
        f"the database has no schema yet: run `director db upgrade --database {url}`"
    )
    assert machine.say("db", "upgrade", "--database", url) == "the schema is 0002 now; it was not there\n"
    assert machine.say("db", "upgrade", "--database", url) == "the schema is 0002 already\n"
    assert machine.serve("--database", url).stop() == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--listen", "nowhere"], "'nowhere' is no address; expected HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "without TLS a director listens on loopback only"),
        (["--database", "mysql://localhost/db"], "'mysql://localhost/db' is no database URL"),
        (["--database", "sqlite:////nowhere/at/all.db"], "there is no folder /nowhere/at"),
        (["--database", "postgresql://postgres@127.0.0.1:1/none"], "the database cannot be reached"),
        (["--director-config-path", "missing.yaml"], "the settings file missing.yaml cannot be read"),
        (["--director-config-path", "wrong.yaml"], "settings: listen_prot: "),
        (["--certificate", "a.pem"], "mutual TLS needs all three"),
        (
            ["--root-certificate", "ca.pem", "--certificate", "a.pem", "--private-key", "a.key"],
            "the root certificate 'ca.pem' cannot be read",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(machine: Machine, arguments: list[str], reason: str) -> None:
    (machine.folder / "wrong.yaml").write_text("settings: {listen_prot: 50052}\n")

    assert reason in machine.refusal("serve", *arguments)


def test_port_in_use_is_said_to_be(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        reason = machine.refusal("serve", "--listen", address)

    assert reason == f"cannot listen on {address}: it is taken, or not this machine's"


def test_settings_come_from_options_then_the_environment_then_the_file(machine: Machine) -> None:
    text = "settings: {listen_host: 127.0.0.2, listen_port: 1, database: 'sqlite:///file.db', operators: [olga]}\n"
    (machine.folder / "director.yaml").write_text(text)
    machine.environment["DIRECTOR_DATABASE"] = "sqlite:///environment.db"

    machine.serve("--director-config-path", "director.yaml")

    assert machine.environment["DIRECTOR_ADDRESS"].startswith("127.0.0.1:")
    assert [path.name for path in machine.folder.glob("*.db")] == ["environment.db"]
