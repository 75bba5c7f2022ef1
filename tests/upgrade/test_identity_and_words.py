"""Revision 0002 keeps every row: experiments get a uid and a manifest in its canonical form, and names change."""

import time
from collections.abc import Mapping

import pytest
from alembic.script import ScriptDirectory

from director.domain.names import is_uid
from director.domain.plan import PLAN_VERSION, Plan
from director.domain.tensor_info import DTYPES, TensorInfo, layout_order
from director.domain.tensors import Manifest
from director.domain.types import ExperimentId
from director.services import checking
from director.store import experiments
from director.store.engine import schema
from director.store.engine.opening import open_database
from director.store.experiment_rows import ExperimentRow
from tests.tables import experiment_rows
from tests.upgrade.kept import RELEASES
from tests.upgrade.schemas import Row, Rows, crowd, downgrade, upgrade, whole

TABLES = {"duties": "periodic_jobs"}
COLUMNS = {"purpose": "upload_key", "is_experiment_running": "experiment_running"}
ADDED = {
    "experiments": {"uid", "manifest_digest", "plan_version"},
    "heartbeats": {"session_id", "left_at"},
    "shards": {"sdk_version", "python_version"},
    "collaborators": {"failed_task", "error_type"},
}
CHANGED = {"manifest"}
"""Columns whose values change their form."""
OLD = [each for each in RELEASES if each.startswith(("0.1.", "0.2."))]
"""The releases whose schema was 0001."""
SECONDS = 30
"""Enough for 2,000 experiments on a busy machine; one statement after the other for each would take longer."""


@pytest.fixture(params=OLD)
def release(request: pytest.FixtureRequest) -> str:
    """Each release before this revision in turn."""
    return str(request.param)


def renamed(row: Row) -> Row:
    return {COLUMNS.get(name, name): value for name, value in row.items() if name not in CHANGED}


def but_added(table: str, row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ADDED.get(table, set()) | CHANGED}


async def every_experiment(url: str) -> list[ExperimentRow]:
    db = open_database(url)
    found = []
    for experiment_id in await experiment_rows.ids(db):
        async with db.read() as tx:
            found.append(await experiments.get(tx, ExperimentId(experiment_id)))
    await db.close()
    return found


def tensors_of(old: Mapping[str, object]) -> list[TensorInfo]:
    """Read the manifest of an experiment's row of schema 0001."""
    rows = old["manifest"]
    assert isinstance(rows, list)
    return [TensorInfo(name, dtype, tuple(shape)) for name, dtype, shape in rows]


async def test_upgrade_keeps_every_row(left: str) -> None:
    before = await whole(left)

    await upgrade(left, "0002")

    after = await whole(left)
    assert {TABLES.get(table, table): list(map(renamed, rows)) for table, rows in before.items()} == {
        table: [but_added(table, row) for row in rows] for table, rows in after.items()
    }
    assert {table for table, rows in before.items() if not rows} <= {"experiment_users"}
    for table in ADDED.keys() - {"experiments"}:
        assert {row[name] for row in after[table] for name in ADDED[table]} == {None}


async def test_upgrade_gives_each_experiment_a_uid_a_manifest_and_a_plan_that_are_read(left: str) -> None:
    before = {row["id"]: row for row in (await whole(left))["experiments"]}

    await upgrade(left, "0002")

    found = await every_experiment(left)
    assert [each.id for each in found] == sorted(before)
    assert len({each.uid for each in found}) == len(found)
    for each in found:
        assert is_uid(each.uid)
        assert each.uid == each.uid.lower()
        assert list(each.manifest.tensors) == tensors_of(before[each.id])
        assert each.manifest_digest == each.manifest.digest
        assert isinstance(each.constants.plan, Plan)
        assert each.plan.rounds == before[each.id]["rounds_total"]
    versions = {row["plan_version"] for row in (await whole(left))["experiments"]}
    assert versions == {PLAN_VERSION}


async def test_two_upgrades_give_different_uids(left: str) -> None:
    await upgrade(left, "0002")
    first = {each.uid for each in await every_experiment(left)}
    await downgrade(left, "0001")

    await upgrade(left, "0002")

    assert first.isdisjoint({each.uid for each in await every_experiment(left)})


async def test_downgrade_brings_the_rows_back(left: str) -> None:
    before = await whole(left)
    await upgrade(left, "0002")

    await downgrade(left, "0001")

    assert await whole(left) == before


async def test_upgraded_database_keeps_its_invariants(upgraded: str) -> None:
    db = open_database(upgraded)

    found = [finding async for finding in checking.findings(db)]

    await db.close()
    assert found == []


async def test_thousands_of_experiments_are_upgraded_in_seconds_and_no_uid_is_given_twice(left: str) -> None:
    await crowd(left, 2000)
    before = len((await whole(left))["experiments"])
    begun = time.monotonic()

    await upgrade(left, "0002")

    assert time.monotonic() - begun < SECONDS
    after: Rows = await whole(left)
    assert before == len({row["uid"] for row in after["experiments"]}) > 2000


def test_manifest_of_every_element_type_is_written_in_its_canonical_form() -> None:
    tensors = [TensorInfo(f"{name} ✓", name, (2, 3)) for name in DTYPES]
    manifest = Manifest(sorted([TensorInfo("a scalar", "F64", ()), *tensors], key=layout_order))
    rows = [[each.name, each.dtype, list(each.shape)] for each in manifest.tensors]
    module = ScriptDirectory.from_config(schema.alembic_config()).get_revision("0002").module

    header = module.header_of(rows)

    assert Manifest.from_header(header) == manifest
    assert module.digest_of(header) == manifest.digest
    assert module.rows_of(header) == rows
