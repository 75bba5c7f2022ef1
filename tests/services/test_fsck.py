"""A database that keeps its invariants gives no finding; for each way to break one there is exactly one."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from director.cli.main import run
from director.services import checking
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.fsck import Check, blob_checks, envoy_checks, experiment_checks, round_checks, stream_checks
from tests.conftest import lent
from tests.postgres import PostgresServer
from tests.services.busy import busy
from tests.services.populated import populate, unguard
from tests.tables import corruptions
from tests.tables.corruptions import Corruption, corrupt
from tests.world import PLAN, RESEARCHER

LONG = PLAN.replace("rounds: 2", "rounds: 6")
BROKEN = [
    (Check.BLOB_OWNER, "it is taken, but by no row", corruptions.BLOB_OF_NO_ROW),
    (Check.BLOB_OWNER, "it is complete, but the archive of experiment", corruptions.ARCHIVE_NOT_TAKEN),
    (Check.BLOB_OWNER, "it is taken by more than one row: model 1 of experiment", corruptions.BLOB_OF_TWO_COLUMNS),
    (Check.BLOB_OWNER, "refers to it, and it is not there", corruptions.ARCHIVE_DELETED),
    (
        Check.BLOB_DIGEST,
        "its content is not the one of model 1 of experiment",
        corruptions.MODEL_WITH_ANOTHER_DIGEST,
    ),
    (Check.BLOB_DIGEST, "its content is not the one of model 1 of experiment", corruptions.MODEL_WITH_ANOTHER_SIZE),
    (Check.BLOB_CHUNKS, "1 chunks are expected, there are none", corruptions.CHUNK_DELETED),
    (
        Check.BLOB_CHUNKS,
        "1 chunks are expected, there are 1 chunks, numbered 1 to 1",
        corruptions.CHUNK_WITH_ANOTHER_NUMBER,
    ),
    (Check.BLOB_CHUNKS, "1 of its chunks have a wrong length", corruptions.CHUNK_TOO_SHORT),
    (Check.BLOB_BYTES, "its bytes have the digest", corruptions.BYTES_OF_ANOTHER_MODEL),
    (
        Check.METRIC_STREAM,
        "metrics: numbers 1 to 7 are expected; there are 6 rows up to 6",
        corruptions.LAST_METRIC_DELETED,
    ),
    (Check.METRIC_STREAM, "up to", corruptions.METRICS_NUMBERED_LOWER),
    (Check.EVENT_STREAM, "events: numbers 1 to", corruptions.EVENT_DELETED),
    (Check.EVENT_STREAM, "the federation's events", corruptions.EVENTS_OF_FEDERATION_NUMBERED_HIGHER),
    (Check.ENDED, "it is finished, but director", corruptions.FINISHED_AND_OWNED),
    (Check.ENDED, "it is cancelled, but round 1 is collecting", corruptions.CANCELLED_AND_COLLECTING),
    (Check.ENDED, "it is pending, but it has 1 rounds", corruptions.PENDING_WITH_A_ROUND),
    (
        Check.ENDED_ONCE,
        "it is failed, its events tell experiment_cancelled",
        corruptions.FAILED_AND_TOLD_CANCELLED,
    ),
    (Check.ENDED_ONCE, "it is in_progress, its events tell experiment_failed", corruptions.RUNNING_AND_TOLD_FAILED),
    (
        Check.COLLABORATOR_STATE,
        "it is finished, but envoy 'a' is working in it",
        corruptions.FINISHED_AND_WORKING,
    ),
    (
        Check.COLLABORATOR_STATE,
        "it is in_progress, but envoy 'c' is waiting in it",
        corruptions.RUNNING_AND_WAITING,
    ),
    (Check.ENGAGED_ONCE, "envoy 'c': it serves 2 experiments", corruptions.ENGAGED_TWICE),
    (Check.MODELS, "models 0 to 1 are expected; there are 3, numbered 0 to 2", corruptions.LAST_MODEL_TOO_LOW),
    (Check.MODELS, "its last model is 3, but 2 train rounds are closed", corruptions.ONE_MODEL_TOO_MANY),
    (Check.BEST_MODEL, "its best model is 2", corruptions.BEST_MODEL_WITH_LOWER_SCORE),
    (Check.BEST_MODEL, "by the scores it is 0", corruptions.BEST_MODEL_NOT_THE_FIRST),
    (Check.BYTES_KEPT, "its archive is gone", corruptions.ARCHIVE_DROPPED),
    (Check.BYTES_KEPT, "model 2 is kept no longer", corruptions.LAST_MODEL_DROPPED),
    (Check.BYTES_KEPT, "it is removed, but model 1 is kept", corruptions.MODEL_OF_REMOVED_EXPERIMENT_KEPT),
    (Check.ROUND_NUMBERS, "rounds 1 to 4 are expected; there are 1, 2, 3", corruptions.ROUND_MISSING),
    (Check.ROUND_STATE, "it is a final round; the plan has 2 rounds", corruptions.FINAL_TOO_EARLY),
    (
        Check.ROUND_STATE,
        "round 1: it is abandoned, but round 2 was opened after it",
        corruptions.ROUND_AFTER_ABANDONED,
    ),
    (Check.ROUND_STATE, "it is abandoned, but its experiment is in_progress", corruptions.ABANDONED_AND_RUNNING),
    (Check.ROUND_STATE, "it is closed, but envoy 'i' is still asked", corruptions.CLOSED_AND_ASKED),
    *(
        (Check.TALLY, f"{name} is 7, its rows say", corruption)
        for name, corruption in corruptions.WRONG_TALLIES.items()
    ),
    (
        Check.COUNTED_COMPLETE,
        "envoy 'a' counts, but did not contribute to 'more'",
        corruptions.ONE_MORE_TASK,
    ),
    (
        Check.CONTRIBUTION_ASKED,
        "envoy 'a' contributed to 'validate', which it was not asked",
        corruptions.ONE_TASK_LESS,
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "it holds 4 contributions, its events tell of 3",
        corruptions.LAST_CONTRIBUTION_TOLD_LATE,
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "the metric 'accuracy' of 'c' in 'validate' is recorded 2 times",
        corruptions.METRIC_RECORDED_TWICE,
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "the metric 'accuracy' of 'd' is recorded, but not its contribution to 'validate'",
        corruptions.METRIC_WITHOUT_CONTRIBUTION,
    ),
    (
        Check.UPDATE_BYTES,
        "it is aggregating, but the update of envoy 'e' is not held",
        corruptions.UPDATE_OF_FROZEN_ROUND_DROPPED,
    ),
    (
        Check.UPDATE_BYTES,
        "it is closed, but the update of envoy 'g' is held",
        corruptions.UPDATE_OF_CLOSED_ROUND_HELD,
    ),
    (
        Check.UPDATE_BYTES,
        "the contribution of envoy 'a' to 'train' has no update",
        corruptions.UPDATE_WITHOUT_DIGEST,
    ),
    (Check.AVERAGE, "the average of 'accuracy' in 'train' is", corruptions.WRONG_AVERAGE),
    (
        Check.AVERAGE,
        "the average of 'accuracy' in 'validate' is 0.5, by its contributions there is none",
        corruptions.AVERAGE_OF_NOTHING,
    ),
    (Check.SCORE, "its score is 0.5, by its contributions", corruptions.WRONG_SCORE_OF_ROUND),
    (Check.SCORE, "the score of model 0 is 0.01, by its contributions", corruptions.WRONG_SCORE_OF_MODEL),
    (Check.SESSIONS, "begins before session", corruptions.FIRST_SESSION_STILL_OPEN),
    (Check.SESSIONS, "begins before session", corruptions.FIRST_SESSION_TOO_LONG),
]


@pytest.fixture(scope="session")
def populated_sqlite(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A populated file, to copy."""
    path = tmp_path_factory.mktemp("populated") / "director.db"
    shutil.copy(migrated_sqlite, path)
    asyncio.run(populate(f"sqlite:///{path}"))
    unguard(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def populated_postgres(postgres: PostgresServer, migrated_postgres: str) -> str:
    """The name of a populated database, to copy."""
    url = asyncio.run(postgres.create_database("populated", template=migrated_postgres))
    asyncio.run(populate(url))
    unguard(url)
    return "populated"


@pytest.fixture
def url(engine_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A populated database, on each engine in turn."""
    if engine_kind == "sqlite":
        path = tmp_path / "director.db"
        shutil.copy(request.getfixturevalue("populated_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        yield from lent(request.getfixturevalue("postgres"), request.getfixturevalue("populated_postgres"))


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    opened = open_database(url)
    yield opened
    await opened.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything read in many pages."""
    for module, size in (
        (blob_checks, 2),
        (envoy_checks, 2),
        (experiment_checks, 2),
        (round_checks, 1),
        (stream_checks, 3),
    ):
        monkeypatch.setattr(module, "PAGE", size)


async def test_healthy_federation_gives_no_finding(db: Database) -> None:
    report = await checking.report(db)

    assert report == checking.FsckReport(len(Check), [])


async def test_healthy_federation_gives_no_finding_page_by_page(db: Database, small_pages: None) -> None:
    assert (await checking.report(db)).findings == []


async def test_new_database_gives_no_finding(migrated_url: str) -> None:
    db = open_database(migrated_url)

    found = (await checking.report(db)).findings

    assert found == []
    await db.close()


@pytest.mark.parametrize(
    ("check", "text", "corruption"), BROKEN, ids=[f"{check}-{number}" for number, (check, *_) in enumerate(BROKEN)]
)
async def test_each_broken_invariant_is_found_and_nothing_else(
    db: Database, url: str, check: Check, text: str, corruption: Corruption
) -> None:
    await asyncio.to_thread(corrupt, url, corruption)

    found = (await checking.report(db)).findings

    assert [(each.check, text in each.text) for each in found] == [(check, True)], found


def test_each_check_is_broken_by_some_test() -> None:
    assert {check for check, *_ in BROKEN} == set(Check)


@pytest.mark.system
async def test_nothing_is_found_while_directors_work(migrated_url: str) -> None:
    found, looks = [], 0
    async with busy(migrated_url, "abc") as federation:
        for number in range(3):
            await federation.world.submit(f"experiment {number}", envoys="abc", plan=LONG)
        while not (await federation.state("experiment 2")).terminal:
            found += [finding async for finding in checking.findings(federation.world.db)]
            looks += 1
            if looks == 3:
                await federation.world.process.experiments.remove("experiment 0", RESEARCHER)

    assert found == []
    assert looks > 3


def test_command_says_how_much_was_checked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(["db", "fsck", "--database", url])

    assert (status, capsys.readouterr().out) == (0, f"{len(Check)} checks, nothing found\n")


def test_command_prints_a_line_for_each_finding_and_ends_with_1(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(url, corruptions.BLOB_OF_NO_ROW, corruptions.EVENTS_OF_FEDERATION_NUMBERED_HIGHER)

    status = run(["db", "fsck", "--database", url])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert [line.partition(":")[0] for line in lines] == ["event_stream", "blob_owner"]


def test_command_gives_its_findings_to_programs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(url, corruptions.BLOB_OF_NO_ROW)

    status = run(["db", "fsck", "--json", "--database", url])

    report = json.loads(capsys.readouterr().out)
    assert (status, report["checks"]) == (1, len(Check))
    assert [(each["check"], sorted(each)) for each in report["findings"]] == [("blob_owner", ["check", "text"])]
