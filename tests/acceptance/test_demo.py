"""`director demo` as a user runs it: it trains, and a director that is killed on the way changes nothing."""

import asyncio
import re
import signal

import psutil
import pytest
import safetensors.numpy

from tests.acceptance.databases import Database
from tests.acceptance.processes import Machine, eventually
from tests.postgres import PostgresServer
from tests.tables import event_rows, result_rows
from tests.tables.statements import rows

ROUNDS, ENVOYS = 4, 2
SIZE = ["--rounds", str(ROUNDS), "--envoys", str(ENVOYS)]


def only(pattern: str, output: str) -> str:
    """Return the one thing that a pattern finds."""
    [found] = re.findall(pattern, output)
    return str(found)


@pytest.mark.system
def test_killed_director_and_another_engine_give_the_same_model_to_the_bit(
    machine: Machine, postgres: PostgresServer
) -> None:
    url = asyncio.run(postgres.create_database("demo"))

    undisturbed = machine.say("demo", *SIZE, "--database", url)
    crashed = machine.say("demo", *SIZE, "--crash", "--keep", "kept")

    last, best = r"last model: sha256 ([0-9a-f]{64})\n", r"best model: number \d+, accuracy (0\.\d{4}) on held-out"
    assert only(last, crashed) == only(last, undisturbed)
    assert only(best, crashed) == only(best, undisturbed)
    assert float(only(best, crashed)) > 0.8
    assert "the director is killed in the middle of round 2" in crashed
    database = Database(f"sqlite:///{machine.folder}/kept/director.db")
    metrics = [each.seq for each in database.ask(result_rows.metrics)]
    told = [event.kind for event in database.ask(event_rows.of, 1)]
    rounds = database.ask(rows, only(r"(?s)\n(SELECT .*?);\n", crashed))
    assert len(database.ask(result_rows.contributions)) == ENVOYS * (2 * ROUNDS + 1)
    assert metrics == list(range(1, len(metrics) + 1))
    assert (told.count("round_closed"), told.count("experiment_claimed")) == (ROUNDS + 1, 2)
    assert (told[0], told[-1]) == ("experiment_submitted", "experiment_finished")
    assert len(rounds) == ROUNDS + 1
    assert len(safetensors.numpy.load_file(machine.folder / "kept" / "best.safetensors")) == 4


def test_demo_that_is_told_to_stop_takes_its_processes_with_it(machine: Machine) -> None:
    demo = machine.start("demo", "demo", "--envoys", "1", "--keep", "kept")
    log = machine.folder / "kept" / "logs" / "hospital-1.log"
    eventually(lambda: log.exists() and "is registered" in log.read_text(), "an envoy is registered")
    children = psutil.Process(demo.process.pid).children()

    assert demo.stop() == 128 + signal.SIGTERM

    assert len(children) == 2
    assert not [each for each in children if each.is_running()]


def test_folder_that_is_not_empty_is_left_alone(machine: Machine) -> None:
    (machine.folder / "mine").mkdir()
    (machine.folder / "mine" / "thesis").touch()

    assert machine.refusal("demo", "--keep", "mine") == "mine is not empty; name a new folder with --keep"
