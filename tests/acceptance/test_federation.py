"""A whole federation by commands only, on both engines: every one is run, and what it prints is read."""

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.numpy

from director.cli.report_command import NAMES
from tests.acceptance.material import BEST, INITIAL, ROUNDS, WARDS, expected_model, lay_out, start_envoys, submit
from tests.acceptance.processes import Machine
from tests.postgres import PostgresServer

METRICS = (len(WARDS) + 1) * (2 * ROUNDS + 1)
"""Of each envoy, and their average: two in each round, and one in the final validation."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def machine(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with a federation on it, where the experiment `first` has finished."""
    url = "sqlite:///federation.db"
    if request.param == "postgresql":
        url = asyncio.run(postgres.create_database("federation"))
    folder = tmp_path_factory.mktemp("federation")
    with Machine(folder, {"DIRECTOR_CLIENT_ID": "ada", "DIRECTOR_DATABASE": url}) as machine:
        lay_out(folder)
        lay_out(folder, workspace="endless", rounds=100_000)
        machine.say("db", "upgrade")
        machine.serve()
        start_envoys(machine)
        assert machine.say(*submit("first"), "--wait") == "experiment first is finished\n"
        yield machine


def load(machine: Machine, file: str) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(machine.folder / file)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].tobytes()) == (other[name].dtype, other[name].tobytes()) for name in one
    )


def test_models_are_the_averages_reckoned_by_hand(machine: Machine) -> None:
    best = machine.say("experiment", "model", "first", "--output", "best.safetensors")
    last = machine.ask("experiment", "model", "first", "--type", "last", "--output", "last.safetensors")
    machine.say("experiment", "model", "first", "--number", "0", "--output", "first.safetensors")

    assert best == f"model {BEST} of first written to best.safetensors\n"
    assert last == {
        "name": "first",
        "number": ROUNDS,
        "file": "last.safetensors",
        "size_bytes": (machine.folder / "last.safetensors").stat().st_size,
    }
    assert same(load(machine, "best.safetensors"), expected_model(BEST))
    assert same(load(machine, "last.safetensors"), expected_model(ROUNDS))
    assert same(load(machine, "first.safetensors"), dict(INITIAL))


def test_experiment_is_listed_and_shown(machine: Machine) -> None:
    [listed] = [each for each in machine.ask("experiment", "list") if each["name"] == "first"]
    shown = machine.ask("experiment", "show", "first")
    collaborators = machine.ask("experiment", "collaborators", shown["uid"])
    page = machine.say("experiment", "show", "first").splitlines()

    assert (listed["state"], listed["owner"], listed["best_model"]) == ("finished", "ada", BEST)
    assert (shown["last_model"], shown["rounds_total"], shown["plan"]["rule"]) == (ROUNDS, ROUNDS, "weighted_average")
    assert [(each["envoy"], each["state"]) for each in collaborators] == [("oslo", "done"), ("rome", "done")]
    assert page[0].split() == ["Experiment", "first"]
    assert [line.split() for line in page[-2:]] == [["oslo", "done", "1", "-"], ["rome", "done", "1", "-"]]


def test_metrics_are_numbered_and_may_be_read_from_the_middle(machine: Machine) -> None:
    metrics = machine.ask("experiment", "metrics", "first")
    after = metrics[2]["cursor"]
    followed = machine.say("experiment", "metrics", "first", "--follow", "--after", after, "--json").splitlines()

    assert [each["seq"] for each in metrics] == list(range(1, METRICS + 1))
    assert [json.loads(line) for line in followed] == metrics[3:]
    averages = [each["value"] for each in metrics if each["origin"] == "aggregator" and each["task"] == "validate"]
    assert averages == [-3.5, -1.0, -0.25, -0.875]


def test_running_experiment_is_followed_to_its_end(machine: Machine) -> None:
    machine.say(*submit("followed"))

    lines = machine.say("experiment", "metrics", "followed", "--follow").splitlines()

    assert len(lines) == METRICS
    assert lines[-1] == f"{METRICS}  round {ROUNDS + 1}  aggregator  validate  closeness -0.875"
    assert machine.say("why", "followed") == "nothing: it is finished\n"


def test_envoys_and_reasons_are_told(machine: Machine) -> None:
    envoys = machine.ask("envoys")
    reason = machine.ask("why", "first")

    assert [(each["name"], each["online"], each["shard"]["samples"]) for each in envoys] == [
        (name, True, ward.count) for name, ward in WARDS.items()
    ]
    assert reason == {"name": "first", "state": "finished", "reason": "", "waiting_for": ["nothing: it is finished"]}


def test_every_report_is_printed(machine: Machine) -> None:
    reports = {name: machine.ask("report", name) for name in NAMES if name != "experiments"}
    header, row = machine.say("report", "experiments", "--experiment", "first").splitlines()
    of_first = {name: [each for each in rows if each.get("experiment") == "first"] for name, rows in reports.items()}

    assert (header.split()[:4], row.split()[:4]) == (
        ["experiment_id", "experiment", "owner", "state"],
        ["1", "first", "ada", "finished"],
    )
    assert [each["kind"] for each in of_first["rounds"]] == ["train"] * ROUNDS + ["final"]
    assert {each["opened_at"][-6:] for each in of_first["rounds"]} == {"+00:00"}
    assert len(of_first["contributions"]) == len(WARDS) * (2 * ROUNDS + 1)
    assert len(of_first["metrics"]) == METRICS
    assert sorted(each["envoy"] for each in reports["envoy_uptime"]) == sorted(WARDS)
    assert reports["failures"] == []


def test_database_is_looked_after(machine: Machine) -> None:
    status, output, errors = machine.run("db", "check", "--json")
    wrong = [finding["text"] for finding in json.loads(output) if not finding["ok"]]
    found = machine.ask("db", "fsck")

    # The tests' own server does not flush, and is told so.
    expected = ["fsync: off", "full_page_writes: off"]
    if machine.environment["DIRECTOR_DATABASE"].startswith("sqlite"):
        expected = []
    assert (wrong, status, errors) == (expected, int(bool(expected)), "")
    assert found["findings"] == []
    assert machine.ask("db", "current") == {"schema": "0002", "needed": "0002"}


def test_experiment_is_cancelled_and_removed(machine: Machine) -> None:
    machine.say(*submit("unwanted", workspace="endless"))

    cancelled = machine.say("experiment", "cancel", "unwanted", "--reason", "no need")
    reason = machine.say("why", "unwanted")
    removed = machine.say("experiment", "remove", "unwanted")

    assert cancelled == "experiment unwanted is cancelled\n"
    assert reason == "nothing: it is cancelled\nthe reason given: no need\n"
    assert removed == "experiment unwanted is removed\n"
    assert "unwanted" not in machine.say("experiment", "list")


@pytest.mark.parametrize("arguments", [["why"], ["experiment", "metrics", "--follow"]])
def test_unknown_experiment_is_a_failure_in_one_line(machine: Machine, arguments: list[str]) -> None:
    assert machine.refusal(*arguments, "nowhere") == "there is no experiment 'nowhere', or it is not yours"


def test_experiment_of_another_user_is_not_there(machine: Machine) -> None:
    stranger = {"DIRECTOR_CLIENT_ID": "eve"}

    assert machine.say("experiment", "list", **stranger) == "you have no experiments\n"
    assert "not yours" in machine.refusal("experiment", "remove", "first", **stranger)


def test_name_in_use_is_a_failure_in_one_line(machine: Machine) -> None:
    assert machine.refusal(*submit("first")) == "an experiment named 'first' exists already; pick another name"


def test_wrong_usage_has_status_2(machine: Machine) -> None:
    assert machine.run("experiment", "submit", "x").status == 2
