"""`director serve` as an operator runs it: what it says when it starts, when it cannot, and when it stops."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.postgres import PostgresServer


def director(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "director.cli.main", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}  # the package may not be installed
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments: str, folder: Path) -> tuple[int, str, str]:
    process = director(*arguments, folder=folder)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@contextmanager
def serving(*arguments: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = director("serve", "--listen", "127.0.0.1:0", *arguments, folder=folder)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("director ready on "), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def test_embedded_database_is_made_and_a_stop_is_a_success(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as (process, address):
        assert (tmp_path / "director.db").exists()
        code, output, _ = run("envoys", "--director", address, folder=tmp_path)
        assert (code, output) == (0, "no envoy has registered yet\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_second_director_on_one_file_is_refused(tmp_path: Path) -> None:
    with serving(folder=tmp_path):
        code, _, errors = run("serve", "--listen", "127.0.0.1:0", folder=tmp_path)

    assert code == 1
    assert errors == (
        "Error: another director is running on director.db; a SQLite database takes one (PostgreSQL takes any number)\n"
    )


def test_postgresql_is_upgraded_by_a_command_that_serve_names(postgres: PostgresServer, tmp_path: Path) -> None:
    url = asyncio.run(postgres.create_database("served"))

    code, _, errors = run("serve", "--database", url, folder=tmp_path)
    assert code == 1
    assert f"run `director db upgrade --database {url}`" in errors
    assert run("db", "upgrade", "--database", url, folder=tmp_path)[:2] == (
        0,
        "the schema is 0001 now; it was not there\n",
    )
    with serving("--database", url, folder=tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "nowhere"], "no address"),
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--database", "mysql://localhost/db"], "no database URL"),
        (["--database", "postgresql://postgres@127.0.0.1:1/none"], "cannot be reached"),
        (["--director-config-path", "missing.yaml"], "missing.yaml"),
        (["--certificate", "a.pem"], "all three"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, errors = run("serve", *arguments, folder=tmp_path)

    last = errors.splitlines()[-1]
    assert code == 1
    assert last.startswith("Error: ")
    assert message in last
    assert "Traceback" not in errors


def test_port_in_use_is_said_to_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = run("serve", "--listen", f"127.0.0.1:{port}", folder=tmp_path)

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors.splitlines()[-1]


def test_settings_come_from_options_then_the_environment_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "director.yaml").write_text("settings: {listen_host: 127.0.0.2, database: 'sqlite:///file.db'}\n")
    monkeypatch.setenv("DIRECTOR_DATABASE", "sqlite:///environment.db")

    with serving("--director-config-path", "director.yaml", folder=tmp_path) as (_, address):
        assert address.startswith("127.0.0.1:")
        assert sorted(path.name for path in tmp_path.glob("*.db")) == ["environment.db"]
