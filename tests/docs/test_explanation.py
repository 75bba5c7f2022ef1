"""The explanations name what there is: files, functions, settings, log lines, and SQL that runs."""

import ast
import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from director.effects import SystemClock, SystemEntropy
from director.errors import Unavailable
from director.services import supervision
from director.services.presence import MARGIN
from director.services.supervision import Trouble
from director.settings import Settings
from director.store.clock import TICKS_FORWARD
from director.store.engine.opening import open_database
from tests.docs.pages import CHECKOUT, DOCS, blocks, page, rows, sections

PAGES = [f"explanation/{path.name}" for path in sorted((DOCS / "explanation").glob("*.md"))]
PLACE = re.compile(r"`((?:director|tests|protos|cli|demo|envoy|client|wire|facade|services|store|domain)/[\w./]*)`")
LOGGED = re.compile(r"^(DEBUG|INFO|WARNING|ERROR) ([\w.]+): (.+)$", re.MULTILINE)


def exists(place: str) -> bool:
    """Whether a file, a folder, or a name in a module (`store/leases.hold`) is there; `director/` may be left out."""
    for root in (CHECKOUT, CHECKOUT / "director"):
        if (root / place).exists():
            return True
        module, _, name = place.rpartition(".")
        if name != "py" and (path := root / f"{module}.py").exists():
            return name in names_in(path)
    return False


def names_in(path: Path) -> set[str]:
    """Return the functions, methods and classes of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("name", PAGES)
def test_places_in_the_code_that_an_explanation_names_are_there(name: str) -> None:
    places = PLACE.findall(page(name))

    assert places
    assert [each for each in places if not exists(each)] == []


def test_architecture_names_every_package_and_every_folder_of_tests() -> None:
    found = page("explanation/architecture.md")
    packages = [each.parent for each in (CHECKOUT / "director").glob("*/__init__.py") if each.parent.name != "v1"]
    folders = [each.parent for each in (CHECKOUT / "tests").glob("*/*.py")]

    for each in {*packages, *folders}:
        assert f"`{each.relative_to(CHECKOUT)}/`" in found, each.name


@pytest.mark.parametrize("name", PAGES)
def test_log_lines_that_an_explanation_shows_are_logged_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for level, module, line in LOGGED.findall(page(name)):
        if module == supervision.__name__:
            assert (level, line) in said_by_trouble(line, caplog)
        else:
            assert f'log.{level.lower()}("{line}")' in source_of(module)


def said_by_trouble(line: str, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what a loop logs that fails as a line tells, and then works again."""
    activity, _, told = line.partition(": ")
    assert f'"{activity}"' in source_of("director.services.process") + source_of("director.services.lease_thread")
    failures, seconds = map(int, re.findall(r"\d+", told) or ("1", "0"))
    instants = iter([0.0, *[0.0] * (failures - 1), float(seconds)])
    trouble = Trouble(activity, SystemEntropy(), now=lambda: next(instants))
    caplog.clear()
    with caplog.at_level("INFO"):
        for _ in range(failures):
            trouble.failed(Unavailable(told.removeprefix("waiting: ")))
        trouble.succeeded()
    return [(each.levelname, each.getMessage()) for each in caplog.records]


def source_of(module: str) -> str:
    """Return the text of a module."""
    return (CHECKOUT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["explanation/leases.md", "explanation/service-time.md"])
async def test_queries_of_an_explanation_run_on_both_engines(name: str, migrated_url: str) -> None:
    queries = [block.code for block in blocks(page(name)) if block.language == "sql"]
    db = open_database(migrated_url, clock=SystemClock())

    async with db.read() as tx:
        for query in queries:
            await tx.execute(text(query))
    await db.close()

    assert queries


def test_seconds_of_a_takeover_are_those_of_the_default_lease() -> None:
    lease = Settings().lease.total_seconds()
    timeline = [row[0] for row in rows(sections(page("explanation/leases.md"))["The timeline of a takeover"])]

    assert f"`lease` of {lease:g} seconds" in page("explanation/leases.md")
    assert timeline[:5] == [
        "0",
        f"0 to {lease / 3:.1f}",
        "from then on",
        f"{lease * (1 - MARGIN):g}",
        f"{lease:g}",
    ]


def test_seconds_of_an_outage_are_those_of_the_default_settings() -> None:
    settings = Settings()
    forward = (TICKS_FORWARD * settings.tick).total_seconds()
    limit = max(2 * settings.envoy_health_check_period, settings.lease)
    found = page("explanation/service-time.md")

    assert f"({forward:.1f} s)" in found
    assert f"{settings.tick.total_seconds():.1f} s by default" in found
    assert f"{limit / timedelta(seconds=1):g} s by default" in found
    assert f"| 3600 | {1000 + forward:.1f} |" in found
