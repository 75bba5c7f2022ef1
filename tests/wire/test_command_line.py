"""The commands against a real director: what they print, for people and for programs, and how they end."""

import json
import threading

import numpy as np
import pytest
import safetensors.numpy

from director.cli.main import run
from tests.world import PLAN

MODEL = {"weights": np.arange(8, dtype=np.float32)}


@pytest.fixture(autouse=True)
def somebody(director, monkeypatch):
    """Speak as a researcher to the director, without saying so each time."""
    monkeypatch.setenv("DIRECTOR_ADDRESS", director.address)
    monkeypatch.setenv("DIRECTOR_CLIENT_ID", "researcher")


@pytest.fixture
def model(tmp_path):
    safetensors.numpy.save_file(MODEL, tmp_path / "initial.safetensors")
    return str(tmp_path / "initial.safetensors")


@pytest.fixture
def say(capsys):
    """Runs a command that succeeds, and returns what it prints."""

    def command(*arguments: str) -> str:
        status = run(list(arguments))
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, "")
        return printed.out

    return command


@pytest.fixture
def submitted(say, envoy, workspace, model):
    """Runs `submit` with what every test submits, and more."""

    def submit(name: str, *more: str, folder=workspace) -> str:
        given = ("--workspace", str(folder), "--model", model, "--collaborators", "a")
        return say("experiment", "submit", name, *given, *more)

    return submit


def test_experiment_is_submitted_followed_and_fetched(say, submitted, envoy, tmp_path):
    threading.Thread(target=envoy.take_part).start()
    target = tmp_path / "best.safetensors"

    ended = submitted("digits", "--wait")

    assert ended == "experiment digits is finished\n"
    metrics = json.loads(say("experiment", "metrics", "digits", "--json"))
    assert [each["seq"] for each in metrics] == list(range(1, len(metrics) + 1))
    after = ("--after", metrics[1]["cursor"])
    lines = say("experiment", "metrics", "digits", "--follow", "--json", *after).splitlines()
    assert [json.loads(line) for line in lines] == metrics[2:]
    assert len(say("experiment", "metrics", "digits").splitlines()) == len(metrics) + 1
    assert len(say("experiment", "metrics", "digits", "--follow").splitlines()) == len(metrics)
    assert say("experiment", "model", "digits", "--output", str(target)).startswith("model ")
    assert safetensors.numpy.load_file(target).keys() == MODEL.keys()
    written = json.loads(say("experiment", "model", "digits", "--number", "0", "--output", str(target), "--json"))
    assert (written["number"], written["size_bytes"]) == (0, target.stat().st_size)
    assert np.array_equal(safetensors.numpy.load_file(target)["weights"], MODEL["weights"])
    assert "finished" in say("why", "digits")


def test_experiment_is_shown_to_people_and_to_programs(say, submitted):
    shown = json.loads(submitted("digits", "--priority", "-2", "--user", "colleague", "--json"))

    listed = json.loads(say("experiment", "list", "--json"))

    assert (shown["name"], shown["owner"], shown["priority"]) == ("digits", "researcher", -2)
    assert [each["uid"] for each in listed] == [shown["uid"]]
    assert "digits" in say("experiment", "list").splitlines()[1]
    page = say("experiment", "show", "digits")
    assert "researcher" in page
    assert "round" in page.lower()
    full = json.loads(say("experiment", "show", "digits", "--json"))
    assert full["plan"]["rounds"] == 2
    waits = json.loads(say("why", "digits", "--json"))["waiting_for"]
    assert waits
    assert say("why", "digits").splitlines()


def test_envoys_are_listed(say, envoy):
    assert [each["name"] for each in json.loads(say("envoys", "--json"))] == ["a"]
    assert say("envoys").splitlines()[1].split()[:2] == ["a", "yes"]


def test_envoys_are_filtered(say, envoy):
    for chosen in (("--online",), ("list", "--name", "a"), ("--name", "a", "--name", "b")):
        assert [each["name"] for each in json.loads(say("envoys", *chosen, "--json"))] == ["a"]
    assert say("envoys", "--offline") == "no such envoy has registered\n"
    assert json.loads(say("envoys", "--name", "b", "--json")) == []


def test_operator_retires_and_restores_an_envoy(say, envoy, monkeypatch, capsys):
    assert run(["envoys", "retire", "a"]) == 1
    assert "operators" in capsys.readouterr().err
    monkeypatch.setenv("DIRECTOR_CLIENT_ID", "operator")

    assert say("envoys", "retire", "a") == "envoy a is retired\n"
    assert say("envoys") == "no envoy has registered yet\n"
    [retired] = json.loads(say("envoys", "--retired", "--json"))
    assert (retired["name"], retired["online"]) == ("a", False)
    assert retired["retired_at"]
    assert json.loads(say("envoys", "retire", "a", "--json")) == retired
    assert json.loads(say("envoys", "restore", "a", "--json"))["retired_at"] is None

    assert say("envoys").splitlines()[1].split()[:2] == ["a", "no"]
    assert run(["envoys", "restore", "nobody"]) == 1
    assert "'nobody' is not registered" in capsys.readouterr().err


def test_operator_reads_the_federations_events(say, envoy, monkeypatch, capsys):
    assert run(["envoys", "events"]) == 1
    assert "operators" in capsys.readouterr().err
    monkeypatch.setenv("DIRECTOR_CLIENT_ID", "operator")

    events = json.loads(say("envoys", "events", "--json"))
    rest = json.loads(say("envoys", "events", "--json", "--after", events[0]["cursor"]))

    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert [each["kind"] for each in events][-2:] == ["shard_registered", "envoy_online"]
    assert rest == events[1:]
    assert len(say("envoys", "events").splitlines()) == len(events) + 1


def test_experiment_is_named_by_its_uid_too(say, submitted, make_workspace):
    waiting = make_workspace("reviewed", PLAN + "review: manual\n")
    uid = json.loads(submitted("digits", "--json", folder=waiting))["uid"]

    for command in (("experiment", "show"), ("why",), ("experiment", "events"), ("experiment", "collaborators")):
        assert say(*command, uid) == say(*command, "digits")
    assert say("experiment", "cancel", uid) == "experiment digits is cancelled\n"


def test_collaborators_are_listed(say, submitted):
    submitted("digits")

    [collaborator] = json.loads(say("experiment", "collaborators", "digits", "--json"))

    assert (collaborator["envoy"], collaborator["failure"]) == ("a", None)
    assert say("experiment", "collaborators", "digits").splitlines()[1].split()[0] == "a"


def test_stream_is_read_on_behind_the_cursor_that_was_printed(say, submitted):
    submitted("digits")
    say("experiment", "cancel", "digits")
    uid = json.loads(say("experiment", "show", "digits", "--json"))["uid"]

    events = json.loads(say("experiment", "events", "digits", "--json"))

    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert all(each["cursor"].startswith(f"{uid}/events:") for each in events)
    for follow in ((), ("--follow",)):
        said = say("experiment", "events", "digits", "--json", "--after", events[0]["cursor"], *follow)
        rest = [json.loads(line) for line in said.splitlines()] if follow else json.loads(said)
        assert rest == events[1:]


def test_cursor_that_is_not_one_is_wrong_usage(submitted, capsys):
    submitted("digits")

    assert run(["experiment", "metrics", "digits", "--after", "5"]) == 2
    assert "'5' is not a cursor" in capsys.readouterr().err


def test_cursor_of_another_stream_is_a_failure(say, submitted, capsys):
    submitted("digits")
    [event, *_] = json.loads(say("experiment", "events", "digits", "--json"))

    assert run(["experiment", "metrics", "digits", "--after", event["cursor"]]) == 1
    assert "the cursor is of the stream" in capsys.readouterr().err


def test_submission_may_be_repeated_under_its_id(say, submitted):
    submitted("digits", "--submission-id", "one-and-only")
    submitted("digits", "--submission-id", "one-and-only")

    assert len(json.loads(say("experiment", "list", "--json"))) == 1


def test_experiment_is_cancelled_and_removed(say, submitted):
    submitted("digits")

    assert "cancelled" in say("experiment", "cancel", "digits", "--reason", "no need")
    assert "no need" in say("why", "digits")
    say("experiment", "remove", "digits")

    assert say("experiment", "list") == "you have no experiments\n"


def test_operator_approves_and_rejects(say, submitted, make_workspace, monkeypatch):
    for name in ("good", "bad"):
        submitted(name, folder=make_workspace(name, PLAN + "review: manual\n"))
    monkeypatch.setenv("DIRECTOR_CLIENT_ID", "operator")

    rejected = json.loads(say("experiment", "reject", "bad", "--reason", "too bold", "--json"))
    approved = json.loads(say("experiment", "approve", "good", "--json"))

    assert (rejected["state"], rejected["reason"]) == ("rejected", "too bold")
    assert approved["state"] in ("pending", "in_progress")


def test_experiment_that_does_not_finish_is_a_failure_to_the_one_who_waits(submitted, envoy, workspace, model, capsys):
    submitted("digits", "--submission-id", "one-and-only")
    run(["experiment", "cancel", "digits", "--reason", "no need"])
    capsys.readouterr()
    given = ["--workspace", str(workspace), "--model", model, "--collaborator", "a"]

    status = run(["experiment", "submit", "digits", *given, "--submission-id", "one-and-only", "--wait", "--json"])

    printed = capsys.readouterr()
    assert status == 1
    assert json.loads(printed.out)["state"] == "cancelled"
    assert printed.err == "Error: experiment 'digits' is cancelled: no need\n"


def test_refusal_of_the_director_is_one_line(capsys):
    assert run(["experiment", "show", "nowhere"]) == 1

    printed = capsys.readouterr()
    assert "'nowhere'" in printed.err
    assert (len(printed.err.splitlines()), printed.out) == (1, "")
