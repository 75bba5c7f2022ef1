"""Experiments on the command line: by name or by uid, with their collaborators."""

import json

import pytest

from director.v1 import common_pb2
from director.v1 import experiments_pb2 as pb
from tests.unit.client.fake_director import UID, an_experiment

COUNTS = pb.CollaboratorCounts(working=150, failed=1)
ENDED = an_experiment(state=pb.Experiment.CANCELLED)


def page(first, last, token=""):
    """A page of collaborators; the first of all has failed."""
    found = [
        pb.Collaborator(envoy=f"envoy-{number:03}", state=pb.Collaborator.WORKING) for number in range(first, last)
    ]
    if first == 0:
        found[0].state = pb.Collaborator.FAILED
        found[0].failure.CopyFrom(common_pb2.Failure(task="train", error_type="ValueError", message="bad shape"))
    return pb.ListCollaboratorsResponse(collaborators=found, next_page_token=token)


@pytest.fixture
def many(director):
    """An experiment with 151 collaborators on two pages."""
    director.answers["GetExperiment"] = an_experiment(collaborator_counts=COUNTS)
    director.answers["ListCollaborators"] = lambda request: page(100, 151) if request.page_token else page(0, 100, "x")
    return director


@pytest.mark.parametrize(
    "arguments",
    [
        ["experiment", "show"],
        ["experiment", "metrics"],
        ["experiment", "events"],
        ["experiment", "collaborators"],
        ["experiment", "cancel"],
        ["experiment", "remove"],
        ["experiment", "approve"],
        ["experiment", "reject"],
        ["why"],
    ],
)
@pytest.mark.parametrize(("given", "asked"), [("digits", "experiment_name"), (UID, "experiment_uid")])
def test_experiment_is_named_by_its_name_or_its_uid(director, say, arguments, given, asked):
    director.answers |= {
        "ListCollaborators": pb.ListCollaboratorsResponse(),
        "StreamMetrics": [],
        "StreamEvents": [],
        "CancelExperiment": ENDED,
        "RemoveExperiment": pb.RemoveExperimentResponse(),
        "ReviewExperiment": ENDED,
    }

    say(*arguments, given)

    assert director.requests("GetExperiment") == [pb.GetExperimentRequest(**{asked: given})]
    assert {each.experiment_uid for name, each in director.asked if name != "GetExperiment"} <= {UID}


def test_show_tells_the_uid_the_counts_and_the_first_collaborators_with_their_failures(many, say):
    lines = say("experiment", "show", "digits").splitlines()

    assert f"UID              {UID}" in lines
    assert "Collaborators    151: 150 working, 1 failed" in lines
    assert any("envoy-000" in line and "task 'train' failed: ValueError: bad shape" in line for line in lines)
    assert sum(line.startswith("envoy-") for line in lines) == 100
    assert lines[-1] == f"and 51 more: director experiment collaborators {UID}"
    assert len(many.requests("ListCollaborators")) == 1


def test_show_of_a_few_collaborators_speaks_of_no_others(director, say):
    director.answers["ListCollaborators"] = page(1, 3)

    assert "more" not in say("experiment", "show", "digits")


def test_experiment_in_json_has_the_keys_of_its_value(many, say):
    shown = json.loads(say("experiment", "show", "digits", "--json"))

    assert (shown["uid"], shown["name"], shown["state"]) == (UID, "digits", "in_progress")
    assert shown["collaborators"] == {"working": 150, "failed": 1}


def test_collaborators_are_listed_to_the_last(many, say):
    listed = json.loads(say("experiment", "collaborators", "digits", "--json"))

    assert [each["envoy"] for each in listed] == [f"envoy-{number:03}" for number in range(151)]
    assert listed[0]["failure"] == {"task": "train", "error_type": "ValueError", "message": "bad shape"}
    assert len(say("experiment", "collaborators", "digits").splitlines()) == 152


def test_list_tells_uids_in_json(director, say):
    director.answers["ListExperiments"] = pb.ListExperimentsResponse(experiments=[an_experiment()])

    assert [each["uid"] for each in json.loads(say("experiment", "list", "--json"))] == [UID]
    assert say("experiment", "list").splitlines()[0].split()[0] == "Experiment"


@pytest.mark.parametrize("source", ["first:take:7", f"{UID}:7"])
def test_model_of_another_experiment_is_referred_to_by_its_uid(director, say, tmp_path, source):
    other = "f" * 32
    director.answers["GetExperiment"] = an_experiment(uid=other)
    submissions = []

    def receive(requests):
        submissions.append(next(requests).submission)
        yield pb.SubmitExperimentResponse(experiment=an_experiment())

    director.answers["SubmitExperiment"] = receive
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.yaml").write_text("rounds: 1\n")
    given = ["--workspace", str(tmp_path), "--collaborator", "rome", "--model-from", source]

    assert say("experiment", "submit", "digits", *given) == "experiment digits is in_progress\n"

    assert submissions[0].reference == pb.ModelReference(experiment_uid=other, number=7)


def test_removed_experiment_is_told_by_its_name(director, say):
    director.answers["RemoveExperiment"] = pb.RemoveExperimentResponse()

    assert say("experiment", "remove", UID) == "experiment digits is removed\n"
