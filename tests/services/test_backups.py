"""A backup taken under load is a database that a director goes on with, in a new epoch."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from director.cli.main import run
from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import AlreadyExists, Conflict, LeaseLost, NotFound, PreconditionFailed, Unavailable
from director.services import backups, checking, dumps
from director.store import leases
from director.store.engine.opening import open_database
from tests.postgres import PostgresServer
from tests.services.busy import busy
from tests.store.words import only_postgresql, only_sqlite, owned
from tests.tables import event_rows, everything, experiment_rows, presence_rows
from tests.world import PLAN, RESEARCHER, World, world

LONG = PLAN.replace("rounds: 2", "rounds: 8")
Restore = Callable[[Path], Awaitable[str]]


@pytest.fixture
def on_path(engine_kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own programs, where a user has them."""
    if engine_kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("PATH", str(server.programs), prepend=os.pathsep)


@pytest.fixture
async def restore(engine_kind: str, request: pytest.FixtureRequest, on_path: None) -> AsyncIterator[Restore]:
    """Makes a database of a backup, as the manual says, and returns its URL."""
    given_back = []

    async def on_sqlite(backup: Path) -> str:
        return f"sqlite:///{backup}"

    async def on_postgresql(backup: Path) -> str:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = await server.create_database("restored")
        given_back.append("restored")
        command = ["pg_restore", "--exit-on-error", f"--dbname={url}", str(backup)]
        await asyncio.to_thread(subprocess.run, command, check=True)
        await backups.new_epoch(url)
        return url

    yield on_sqlite if engine_kind == "sqlite" else on_postgresql
    for name in given_back:
        request.getfixturevalue("postgres").give_back(name)


async def last_models(federation: World, *names: str) -> list[str]:
    found = []
    for name in names:
        _, model = await federation.process.experiments.model(name, RESEARCHER, "last")
        found.append(model.digest)
    return found


@pytest.mark.system
async def test_backup_taken_under_load_is_whole_and_goes_on_to_the_same_models(
    migrated_url: str, restore: Restore, tmp_path: Path
) -> None:
    names = "first", "second"
    async with busy(migrated_url, "abc") as federation:
        for name in names:
            await federation.world.submit(name, envoys="abc", plan=LONG)
        await federation.reached("first", 3)
        backup = await backups.backup(migrated_url, tmp_path / "backup")
        assert {await federation.ended(name) for name in names} == {ExperimentState.FINISHED}
        expected = await last_models(federation.world, *names)

    restored_url = await restore(backup)

    restored = open_database(restored_url)
    assert (await checking.report(restored)).findings == []
    assert await experiment_rows.state(restored, "first") == "in_progress"
    await restored.close()
    async with busy(restored_url, "abc") as federation:
        assert {await federation.ended(name) for name in names} == {ExperimentState.FINISHED}
        assert await last_models(federation.world, *names) == expected
        assert (await checking.report(federation.world.db)).findings == []


@only_sqlite
async def test_copy_of_a_file_begins_a_new_epoch(federation: World, tmp_path: Path) -> None:
    fence = await owned(federation)

    backup = await backups.backup(federation.db.url, tmp_path / "backup.db")

    copy = open_database(f"sqlite:///{backup}")
    assert await everything.epoch(copy) != await everything.epoch(federation.db)
    assert await experiment_rows.fences(copy) == [fence.number + 1]
    assert await experiment_rows.fences(federation.db) == [fence.number]
    assert await presence_rows.directors_alive(copy) == []
    await copy.close()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("backup")] == ["backup.db"]


async def test_backup_in_a_directory_is_named_after_its_instant(
    federation: World, engine_kind: str, on_path: None, tmp_path: Path
) -> None:
    clock = ManualClock(datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC))
    (tmp_path / "backups").mkdir()

    backup = await backups.backup(federation.db.url, tmp_path / "backups", clock=clock)

    suffix = "db" if engine_kind == "sqlite" else "dump"
    assert backup == tmp_path / "backups" / f"director-20300506T070809Z.{suffix}"
    assert list(backup.parent.iterdir()) == [backup]


async def test_backup_replaces_nothing(federation: World, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a year's work")

    with pytest.raises(AlreadyExists, match="exists already"):
        await backups.backup(federation.db.url, tmp_path / "precious")
    with pytest.raises(NotFound, match="no directory"):
        await backups.backup(federation.db.url, tmp_path / "nowhere" / "backup")

    assert (tmp_path / "precious").read_text() == "a year's work"


@only_sqlite
async def test_copy_that_fails_leaves_nothing_behind(federation: World, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "backup.part").mkdir()  # in the way

    with pytest.raises(OSError, match=r"backup\.part"):
        await backups.backup(federation.db.url, tmp_path / "full" / "backup")

    assert not (tmp_path / "full" / "backup").exists()


@pytest.fixture
def pg_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts another program in the place of `pg_dump`; it writes down how it was called."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(dumps, "PACKAGED", ())

    def install(version: str) -> Path:
        program = programs / "pg_dump"
        program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) {version}"; exit; fi\n'
            f'echo "$@" >{calls}; echo "$PGPASSWORD" >>{calls}; echo "no such\ntable" >&2; exit 1\n'
        )
        program.chmod(0o755)
        return calls

    return install


@only_postgresql
async def test_what_pg_dump_complains_about_is_told(
    federation: World, pg_dump: Callable[[str], Path], tmp_path: Path
) -> None:
    pg_dump("99.1")

    with pytest.raises(Unavailable, match="pg_dump failed: no such table"):
        await backups.backup(federation.db.url, tmp_path / "backup")

    assert not (tmp_path / "backup").exists()


@only_postgresql
async def test_password_is_not_on_the_command_line(
    federation: World, pg_dump: Callable[[str], Path], tmp_path: Path
) -> None:
    calls = pg_dump("99.1")
    url = federation.db.url.replace("postgres@", "postgres:s%40cret@")

    with pytest.raises(Unavailable):
        await backups.backup(url, tmp_path / "backup")

    arguments, password = calls.read_text().splitlines()
    assert "cret" not in arguments
    assert f"--dbname={federation.db.url}" in arguments
    assert password == "s@cret"


@only_postgresql
async def test_pg_dump_that_is_too_old_is_not_used(
    federation: World, pg_dump: Callable[[str], Path], tmp_path: Path
) -> None:
    calls = pg_dump("9.6.1")

    with pytest.raises(PreconditionFailed, match="install the package postgresql-client-"):
        await backups.backup(federation.db.url, tmp_path / "backup")

    assert not calls.exists()


async def test_new_epoch_frees_every_experiment_under_a_higher_fence(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        fence = await owned(federation)
        before = await everything.epoch(federation.db)

    begun = await backups.new_epoch(migrated_url)

    db = open_database(migrated_url)
    assert begun.token == await everything.epoch(db) != before
    assert await experiment_rows.owners(db) == [(fence.experiment_id, None, fence.number + 1)]
    [*_, last] = await event_rows.of_the_federation(db)
    assert (last.kind, last.details) == (
        "epoch_began",
        {
            "epoch": begun.token,
            "directors": [],
            "directors_count": 0,
            "experiments": [fence.experiment_id],
            "experiments_count": 1,
        },
    )
    with pytest.raises(LeaseLost):
        async with db.write("stale") as tx:
            await leases.hold(tx, fence, [ExperimentState.IN_PROGRESS])
    await db.close()


async def test_cursor_of_another_epoch_is_refused(migrated_url: str) -> None:
    async with world(migrated_url) as federation:
        await owned(federation)
        [*_, last] = await anext(federation.process.streams.events("experiment", RESEARCHER))
    await backups.new_epoch(migrated_url)

    async with world(migrated_url, seed=2) as federation:
        stream = federation.process.streams.events("experiment", RESEARCHER, after=last.cursor)
        with pytest.raises(Conflict, match="start without one"):
            await anext(stream)


@only_postgresql
async def test_directors_that_run_meanwhile_enter_again_and_go_on(migrated_url: str) -> None:
    async with busy(migrated_url, "ab", lease="PT1S") as federation:
        await federation.world.submit("long", envoys="ab", plan=LONG)
        await federation.reached("long", 2)

        begun = await backups.new_epoch(migrated_url)

        assert (begun.directors, begun.experiments) == (1, 1)
        assert await federation.ended("long") is ExperimentState.FINISHED
        assert (await checking.report(federation.world.db)).findings == []


@only_sqlite
async def test_new_epoch_is_refused_while_a_director_runs_on_the_file(federation: World) -> None:
    with pytest.raises(PreconditionFailed, match="another director is running"):
        await backups.new_epoch(federation.db.url)


async def test_new_epoch_is_refused_where_no_director_ever_ran(migrated_url: str) -> None:
    with pytest.raises(PreconditionFailed, match="no director has run"):
        await backups.new_epoch(migrated_url)


async def test_database_on_which_no_director_ever_ran_is_backed_up(
    migrated_url: str, on_path: None, tmp_path: Path
) -> None:
    assert (await backups.backup(migrated_url, tmp_path / "backup")).stat().st_size > 0


def test_commands_say_what_they_did(
    migrated_url: str, on_path: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(run_a_director(migrated_url))
    database = "--database", migrated_url
    file = tmp_path / "backup"

    statuses = [run(["db", "backup", *database, "--output", str(file)]), run(["db", "new-epoch", *database])]
    said = capsys.readouterr().out.splitlines()
    as_json = run(["db", "backup", *database, "--output", str(tmp_path / "other"), "--json"])
    told = json.loads(capsys.readouterr().out)
    failed = run(["db", "backup", *database, "--output", str(file)])

    assert statuses == [0, 0]
    assert said[0] == f"{file} ({file.stat().st_size} bytes)"
    assert said[1].endswith(": 0 directors declared dead, 0 experiments freed")
    assert (as_json, told) == (
        0,
        {"file": str(tmp_path / "other"), "size_bytes": (tmp_path / "other").stat().st_size},
    )
    assert (failed, capsys.readouterr().err) == (
        1,
        f"Error: {file} exists already; a backup never replaces a file\n",
    )


async def run_a_director(url: str) -> None:
    async with world(url):
        pass
