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
from tests.services.populated import corrupt, populate, unguard
from tests.world import PLAN, RESEARCHER

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
A_BLOB = (
    "INSERT INTO blobs (digest, size_bytes, chunk_bytes, state, created_at) "
    f"SELECT '{EMPTY}', 0, 4096, 'taken', created_at FROM federations"
)
LONG = PLAN.replace("rounds: 2", "rounds: 6")
NEWEST_BLOB = "(SELECT max(id) FROM blobs)"


def of(name: str) -> str:
    """The id of an experiment."""
    return f"(SELECT id FROM experiments WHERE name = '{name}')"


def round_of(name: str, number: int) -> str:
    """The condition that a row belongs to a round."""
    return f"experiment_id = {of(name)} AND round = {number}"


def member(name: str, envoy: str) -> str:
    """The condition that a row is a collaborator."""
    return f"experiment_id = {of(name)} AND envoy = '{envoy}'"


def update(name: str, number: int, envoy: str) -> str:
    """The blob of an update."""
    found = f"{round_of(name, number)} AND envoy = '{envoy}' AND task = 'train'"
    return f"(SELECT blob_id FROM contributions WHERE {found})"


def the_round(name: str, number: int) -> str:
    """The condition that a row is a round."""
    return f"experiment_id = {of(name)} AND number = {number}"


def model(name: str, number: int) -> str:
    """The blob of a model."""
    return f"(SELECT payload_blob_id FROM models WHERE {the_round(name, number)})"


def archive(name: str) -> str:
    """The blob of an archive."""
    return f"(SELECT archive_blob_id FROM experiments WHERE name = '{name}')"


def untake(blob: str) -> str:
    """Let a blob be nobody's."""
    return f"UPDATE blobs SET state = 'complete', expires_at = created_at WHERE id = {blob}"


def a_metric(name: str, origin: str, number: int) -> tuple[str, str]:
    """Record a metric, numbered as it should be."""
    return (
        f"UPDATE experiments SET metric_seq = metric_seq + 1 WHERE name = '{name}'",
        "INSERT INTO metrics (experiment_id, seq, round, origin, task, name, value, recorded_at) "
        f"SELECT id, metric_seq, {number}, '{origin}', 'validate', 'accuracy', 0.5, submitted_at "
        f"FROM experiments WHERE name = '{name}'",
    )


TRAINED = f"{round_of('finished', 1)} AND envoy = 'a' AND task = 'train'"
BROKEN = [
    (Check.BLOB_OWNER, "it is taken, but by no row", [A_BLOB]),
    (Check.BLOB_OWNER, "it is complete, but the archive of experiment", [untake(archive("finished"))]),
    (
        Check.BLOB_OWNER,
        "it is taken by more than one row: model 1 of experiment",
        [f"UPDATE models SET state_blob_id = payload_blob_id WHERE {the_round('finished', 1)}"],
    ),
    (
        Check.BLOB_OWNER,
        "refers to it, and it is not there",
        [
            f"DELETE FROM blob_chunks WHERE blob_id = {archive('finished')}",
            f"DELETE FROM blobs WHERE id = {archive('finished')}",
        ],
    ),
    (
        Check.BLOB_DIGEST,
        "its content is not the one of model 1 of experiment",
        [f"UPDATE models SET digest = '{EMPTY}' WHERE {the_round('finished', 1)}"],
    ),
    (
        Check.BLOB_DIGEST,
        "its content is not the one of model 1 of experiment",
        [f"UPDATE models SET size_bytes = 1 WHERE {the_round('finished', 1)}"],
    ),
    (
        Check.BLOB_CHUNKS,
        "1 chunks are expected, there are none",
        [f"DELETE FROM blob_chunks WHERE blob_id = {model('finished', 1)}"],
    ),
    (
        Check.BLOB_CHUNKS,
        "1 chunks are expected, there are 1 chunks, numbered 1 to 1",
        [f"UPDATE blob_chunks SET number = 1 WHERE blob_id = {model('finished', 1)}"],
    ),
    (
        Check.BLOB_CHUNKS,
        "1 of its chunks have a wrong length",
        [f"UPDATE blob_chunks SET data = substr(data, 1, 5) WHERE blob_id = {model('finished', 1)}"],
    ),
    (
        Check.BLOB_BYTES,
        "its bytes have the digest",
        [
            f"UPDATE blob_chunks SET data = (SELECT data FROM blob_chunks WHERE blob_id = {model('finished', 2)}) "
            f"WHERE blob_id = {model('finished', 1)}"
        ],
    ),
    (
        Check.METRIC_STREAM,
        "metrics: numbers 1 to 7 are expected; there are 6 rows up to 6",
        [f"DELETE FROM metrics WHERE {round_of('collecting', 2)}"],
    ),
    (
        Check.METRIC_STREAM,
        "up to",
        ["UPDATE experiments SET metric_seq = metric_seq - 1 WHERE name = 'finished'"],
    ),
    (
        Check.EVENT_STREAM,
        "events: numbers 1 to",
        [f"DELETE FROM events WHERE stream = {of('finished')} AND kind = 'round_frozen'"],
    ),
    (Check.EVENT_STREAM, "the federation's events", ["UPDATE federations SET event_seq = event_seq + 1"]),
    (
        Check.ENDED,
        "it is finished, but director",
        ["UPDATE experiments SET director_id = (SELECT max(id) FROM directors) WHERE name = 'finished'"],
    ),
    (
        Check.ENDED,
        "it is cancelled, but round 1 is collecting",
        [f"UPDATE rounds SET state = 'collecting', closed_at = NULL WHERE experiment_id = {of('cancelled')}"],
    ),
    (
        Check.ENDED,
        "it is pending, but it has 1 rounds",
        [
            "INSERT INTO rounds (experiment_id, number, kind, state, deadline_service, opened_at, asked) "
            "SELECT id, 1, 'train', 'collecting', 0, submitted_at, 0 FROM experiments WHERE name = 'waiting'",
            "UPDATE experiments SET round = 1 WHERE name = 'waiting'",
        ],
    ),
    (
        Check.ENDED_ONCE,
        "it is failed, its events tell experiment_cancelled",
        ["UPDATE experiments SET state = 'failed' WHERE name = 'cancelled'"],
    ),
    (
        Check.ENDED_ONCE,
        "it is in_progress, its events tell experiment_failed",
        [
            "UPDATE events SET kind = 'experiment_failed' "
            f"WHERE stream = {of('aggregating')} AND kind = 'round_frozen'",
        ],
    ),
    (
        Check.COLLABORATOR_STATE,
        "it is finished, but envoy 'a' is working in it",
        [f"UPDATE collaborators SET state = 'working', ended_at = NULL WHERE {member('finished', 'a')}"],
    ),
    (
        Check.COLLABORATOR_STATE,
        "it is in_progress, but envoy 'c' is waiting in it",
        [f"UPDATE collaborators SET state = 'waiting' WHERE {member('collecting', 'c')}"],
    ),
    (
        Check.ENGAGED_ONCE,
        "envoy 'c': it serves 2 experiments",
        [f"UPDATE collaborators SET envoy = 'c' WHERE {member('relaxed', 'i')}"],
    ),
    (
        Check.MODELS,
        "models 0 to 1 are expected; there are 3, numbered 0 to 2",
        ["UPDATE experiments SET last_model = 1 WHERE name = 'finished'"],
    ),
    (
        Check.MODELS,
        "its last model is 3, but 2 train rounds are closed",
        [
            "INSERT INTO models (experiment_id, number, digest, size_bytes, created_at, pruned_at) "
            "SELECT experiment_id, 3, digest, size_bytes, created_at, created_at "
            f"FROM models WHERE {the_round('removed', 2)}",
            "UPDATE experiments SET last_model = 3 WHERE name = 'removed'",
        ],
    ),
    (
        Check.BEST_MODEL,
        "its best model is 2",
        ["UPDATE experiments SET best_model = 2 WHERE name = 'finished'"],
    ),
    (
        Check.BEST_MODEL,
        "by the scores it is 0",
        ["UPDATE experiments SET best_model = 1 WHERE name = 'removed'"],
    ),
    (
        Check.BYTES_KEPT,
        "its archive is gone",
        [untake(archive("finished")), "UPDATE experiments SET archive_blob_id = NULL WHERE name = 'finished'"],
    ),
    (
        Check.BYTES_KEPT,
        "model 2 is kept no longer",
        [
            untake(model("finished", 2)),
            f"UPDATE models SET payload_blob_id = NULL, pruned_at = created_at WHERE {the_round('finished', 2)}",
        ],
    ),
    (
        Check.BYTES_KEPT,
        "it is removed, but model 1 is kept",
        [A_BLOB, f"UPDATE models SET state_blob_id = {NEWEST_BLOB} WHERE {the_round('removed', 1)}"],
    ),
    (
        Check.ROUND_NUMBERS,
        "rounds 1 to 4 are expected; there are 1, 2, 3",
        ["UPDATE experiments SET round = 4 WHERE name = 'finished'"],
    ),
    (
        Check.ROUND_STATE,
        "it is a final round; the plan has 2 rounds",
        [f"UPDATE rounds SET kind = 'final' WHERE {the_round('collecting', 2)}"],
    ),
    (
        Check.ROUND_STATE,
        "round 1: it is abandoned, but round 2 was opened after it",
        [
            "INSERT INTO rounds (experiment_id, number, kind, state, deadline_service, opened_at, closed_at, "
            "asked, counted, missed, failed) SELECT id, 2, 'train', 'abandoned', 0, submitted_at, submitted_at, "
            "0, 0, 0, 0 FROM experiments WHERE name = 'cancelled'",
            "UPDATE experiments SET round = 2 WHERE name = 'cancelled'",
        ],
    ),
    (
        Check.ROUND_STATE,
        "it is abandoned, but its experiment is in_progress",
        [
            "UPDATE rounds SET state = 'abandoned', closed_at = opened_at, counted = 0, missed = 2, failed = 0 "
            f"WHERE {the_round('collecting', 2)}",
            f"UPDATE assignments SET state = 'missed', ended_at = asked_at WHERE {round_of('collecting', 2)}",
        ],
    ),
    (
        Check.ROUND_STATE,
        "it is closed, but envoy 'i' is still asked",
        [
            f"UPDATE assignments SET state = 'asked', ended_at = NULL WHERE {round_of('relaxed', 1)} AND envoy = 'i'",
            f"UPDATE rounds SET missed = 0 WHERE {the_round('relaxed', 1)}",
        ],
    ),
    *(
        (Check.TALLY, f"{name} is 7, its rows say", [f"UPDATE rounds SET {name} = 7 WHERE {the_round('relaxed', 1)}"])
        for name in ("asked", "counted", "missed", "failed", "samples")
    ),
    (
        Check.COUNTED_COMPLETE,
        "envoy 'a' counts, but did not contribute to 'more'",
        [
            """UPDATE assignments SET tasks = '["train", "validate", "more"]' """
            f"WHERE {round_of('finished', 1)} AND envoy = 'a'"
        ],
    ),
    (
        Check.CONTRIBUTION_ASKED,
        "envoy 'a' contributed to 'validate', which it was not asked",
        [f"""UPDATE assignments SET tasks = '["train"]' WHERE {round_of("finished", 1)} AND envoy = 'a'"""],
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "it holds 4 contributions, its events tell of 3",
        [
            f"UPDATE events SET kind = 'contribution_late' WHERE stream = {of('aggregating')} AND seq = "
            f"(SELECT max(seq) FROM events WHERE stream = {of('aggregating')} AND kind = 'contribution_received')"
        ],
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "the metric 'accuracy' of 'c' in 'validate' is recorded 2 times",
        a_metric("collecting", "c", 2),
    ),
    (
        Check.CONTRIBUTION_ONCE,
        "the metric 'accuracy' of 'd' is recorded, but not its contribution to 'validate'",
        a_metric("collecting", "d", 2),
    ),
    (
        Check.UPDATE_BYTES,
        "it is aggregating, but the update of envoy 'e' is not held",
        [
            untake(update("aggregating", 1, "e")),
            f"UPDATE contributions SET blob_id = NULL WHERE {round_of('aggregating', 1)} AND envoy = 'e'",
        ],
    ),
    (
        Check.UPDATE_BYTES,
        "it is closed, but the update of envoy 'g' is held",
        [
            # Of one who counts alone the update is the model.
            "INSERT INTO blobs (digest, size_bytes, chunk_bytes, state, created_at) SELECT digest, size_bytes, "
            f"chunk_bytes, state, created_at FROM blobs WHERE id = {model('relaxed', 1)}",
            f"INSERT INTO blob_chunks SELECT {NEWEST_BLOB}, number, data FROM blob_chunks "
            f"WHERE blob_id = {model('relaxed', 1)}",
            f"UPDATE contributions SET blob_id = {NEWEST_BLOB} WHERE {round_of('relaxed', 1)} AND task = 'train'",
        ],
    ),
    (
        Check.UPDATE_BYTES,
        "the contribution of envoy 'a' to 'train' has no update",
        [f"UPDATE contributions SET digest = NULL WHERE {TRAINED}"],
    ),
    (
        Check.AVERAGE,
        "the average of 'accuracy' in 'train' is",
        [
            f"UPDATE metrics SET value = value + 1 WHERE {round_of('finished', 1)} "
            "AND origin = 'aggregator' AND task = 'train'"
        ],
    ),
    (
        Check.AVERAGE,
        "the average of 'accuracy' in 'validate' is 0.5, by its contributions there is none",
        a_metric("collecting", "aggregator", 2),
    ),
    (
        Check.SCORE,
        "its score is 0.5, by its contributions",
        [f"UPDATE rounds SET score = 0.5 WHERE {the_round('finished', 2)}"],
    ),
    (
        Check.SCORE,
        "the score of model 0 is 0.01, by its contributions",
        [f"UPDATE models SET score = 0.01 WHERE {the_round('finished', 0)}"],
    ),
    (
        Check.SESSIONS,
        "begins before session",
        ["UPDATE envoy_sessions SET offline_at = NULL WHERE envoy = 'a'"],
    ),
    (
        Check.SESSIONS,
        "begins before session",
        [
            "UPDATE envoy_sessions SET offline_at = (SELECT max(submitted_at) FROM experiments) "
            "WHERE envoy = 'a' AND offline_at IS NOT NULL"
        ],
    ),
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

    assert report == checking.Report(len(Check), [])


async def test_healthy_federation_gives_no_finding_page_by_page(db: Database, small_pages: None) -> None:
    assert (await checking.report(db)).findings == []


async def test_new_database_gives_no_finding(migrated_url: str) -> None:
    db = open_database(migrated_url)

    found = (await checking.report(db)).findings

    assert found == []
    await db.close()


@pytest.mark.parametrize(
    ("check", "text", "statements"), BROKEN, ids=[f"{check}-{number}" for number, (check, *_) in enumerate(BROKEN)]
)
async def test_each_broken_invariant_is_found_and_nothing_else(
    db: Database, url: str, check: Check, text: str, statements: list[str]
) -> None:
    await asyncio.to_thread(corrupt, url, *statements)

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
    corrupt(url, A_BLOB, "UPDATE federations SET event_seq = event_seq + 1")

    status = run(["db", "fsck", "--database", url])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert [line.partition(":")[0] for line in lines] == ["event_stream", "blob_owner"]


def test_command_gives_its_findings_to_programs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(url, A_BLOB)

    status = run(["db", "fsck", "--json", "--database", url])

    report = json.loads(capsys.readouterr().out)
    assert (status, report["checks"]) == (1, len(Check))
    assert [(each["check"], sorted(each)) for each in report["findings"]] == [("blob_owner", ["check", "text"])]
