"""What the client asks for: experiments by uid, lists page by page, envoys by filter."""

import pytest

from director.client import ExperimentState, Federation
from director.domain.types import CollaboratorState
from director.errors import ExperimentNotFound, Forbidden, Overloaded, PreconditionFailed, Unavailable
from director.v1 import experiments_pb2 as pb
from director.v1 import federation_pb2
from tests.unit.client.fake_director import UID, an_envoy, an_experiment, later


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("digits", {"experiment_name": "digits"}),
        (UID, {"experiment_uid": UID}),
        (UID.upper(), {"experiment_uid": UID.upper()}),
        (UID[:-1], {"experiment_name": UID[:-1]}),
        (UID[:-1] + "g", {"experiment_name": UID[:-1] + "g"}),
    ],
)
def test_text_that_looks_like_a_uid_is_asked_for_as_one_and_all_others_as_names(director, federation, given, asked):
    assert federation.experiment(given).uid == UID

    assert director.requests("GetExperiment") == [pb.GetExperimentRequest(**asked)]


DEEDS = {
    "GetExperiment": (lambda handle: handle.refresh(), pb.GetExperimentRequest(experiment_uid=UID)),
    "CancelExperiment": (
        lambda handle: handle.cancel("no need"),
        pb.CancelExperimentRequest(experiment_uid=UID, reason="no need"),
    ),
    "RemoveExperiment": (lambda handle: handle.remove(), pb.RemoveExperimentRequest(experiment_uid=UID)),
    "ReviewExperiment": (
        lambda handle: handle.reject("too bold"),
        pb.ReviewExperimentRequest(experiment_uid=UID, decision=pb.ReviewExperimentRequest.REJECT, reason="too bold"),
    ),
    "ListCollaborators": (
        lambda handle: list(handle.collaborators()),
        pb.ListCollaboratorsRequest(experiment_uid=UID),
    ),
    "StreamMetrics": (lambda handle: list(handle.metrics()), pb.StreamMetricsRequest(experiment_uid=UID)),
    "StreamEvents": (lambda handle: list(handle.events()), pb.StreamEventsRequest(experiment_uid=UID)),
    "DownloadModel": (
        lambda handle: handle.model(4),
        pb.DownloadModelRequest(experiment_uid=UID, number=4),
    ),
}


@pytest.mark.parametrize("method", DEEDS)
def test_handle_reaches_its_experiment_by_uid_so_that_a_reused_name_is_left_alone(director, federation, method):
    deed, asked = DEEDS[method]
    handle = federation.experiment("digits")
    director.answers[method] = ExperimentNotFound("removed")

    with pytest.raises(ExperimentNotFound):
        deed(handle)

    assert director.requests(method)[-1] == asked


def test_approval_is_asked_for_as_such(director, federation):
    director.answers["ReviewExperiment"] = an_experiment(state=pb.Experiment.PENDING)

    assert federation.experiment("digits").approve().state is ExperimentState.PENDING

    assert director.requests("ReviewExperiment")[0].decision == pb.ReviewExperimentRequest.APPROVE


def test_removal_whose_answer_was_lost_is_not_refused_when_it_is_repeated(director, federation):
    director.turns["RemoveExperiment"] = [later(Unavailable)]
    director.answers["RemoveExperiment"] = ExperimentNotFound("removed")

    federation.experiment("digits").remove()

    assert len(director.requests("RemoveExperiment")) == 2


def test_refusal_after_an_overload_is_no_lost_answer(director, federation):
    director.turns["RemoveExperiment"] = [later(Overloaded)]
    director.answers["RemoveExperiment"] = ExperimentNotFound("removed")

    with pytest.raises(ExperimentNotFound):
        federation.experiment("digits").remove()


def test_rejection_whose_answer_was_lost_is_told_as_it_is(director, federation):
    director.turns["ReviewExperiment"] = [later(Unavailable)]
    director.answers["ReviewExperiment"] = PreconditionFailed("it waits for no review")
    handle = federation.experiment("digits")
    director.answers["GetExperiment"] = an_experiment(state=pb.Experiment.REJECTED, reason="too bold")

    assert handle.reject("too bold").state is ExperimentState.REJECTED
    with pytest.raises(PreconditionFailed):
        handle.reject("too bold")


def test_experiments_are_listed_page_by_page(director, federation):
    director.turns["ListExperiments"] = [
        pb.ListExperimentsResponse(experiments=[an_experiment(name="2"), an_experiment(name="1")], next_page_token="x"),
        pb.ListExperimentsResponse(next_page_token="y"),
        pb.ListExperimentsResponse(experiments=[an_experiment(name="0")]),
    ]

    assert [each.name for each in federation.experiments()] == ["2", "1", "0"]
    assert [each.page_token for each in director.requests("ListExperiments")] == ["", "x", "y"]


def test_page_that_nobody_reads_is_not_asked_for(director, federation):
    director.answers["ListExperiments"] = pb.ListExperimentsResponse(experiments=[an_experiment()], next_page_token="x")

    assert next(federation.experiments()).uid == UID

    assert len(director.requests("ListExperiments")) == 1


def test_collaborators_are_listed_page_by_page_with_why_they_failed(director, federation):
    failed = pb.Collaborator(envoy="rome", state=pb.Collaborator.FAILED, attempt=2)
    failed.failure.task, failed.failure.error_type, failed.failure.message = "train", "ValueError", "bad shape"
    director.turns["ListCollaborators"] = [
        pb.ListCollaboratorsResponse(collaborators=[pb.Collaborator(envoy="oslo", state=1)], next_page_token="x"),
        pb.ListCollaboratorsResponse(collaborators=[failed]),
    ]

    oslo, rome = federation.experiment("digits").collaborators()

    assert (oslo.envoy, oslo.state, oslo.failure) == ("oslo", CollaboratorState.WAITING, None)
    assert str(rome.failure) == "task 'train' failed: ValueError: bad shape"
    assert [each.page_token for each in director.requests("ListCollaborators")] == ["", "x"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {}),
        ({"names": ["oslo", "rome"]}, {"names": ["oslo", "rome"]}),
        ({"online": True}, {"online": True}),
        ({"online": False, "show_retired": True}, {"online": False, "show_retired": True}),
    ],
)
def test_envoys_are_listed_page_by_page_by_what_is_asked_for(director, federation, given, asked):
    director.turns["ListEnvoys"] = [
        federation_pb2.ListEnvoysResponse(envoys=[an_envoy("oslo")], next_page_token="x"),
        federation_pb2.ListEnvoysResponse(envoys=[an_envoy("rome")]),
    ]

    assert [each.name for each in federation.envoys(**given)] == ["oslo", "rome"]

    first, second = director.requests("ListEnvoys")
    assert first == federation_pb2.ListEnvoysRequest(**asked)
    assert second == federation_pb2.ListEnvoysRequest(**asked, page_token="x")


def test_envoys_are_retired_and_restored(director, federation):
    director.answers |= {"RetireEnvoy": an_envoy("rome"), "RestoreEnvoy": Forbidden("operators only")}

    assert federation.retire_envoy("rome").name == "rome"
    with pytest.raises(Forbidden):
        federation.restore_envoy("rome")

    assert director.requests("RetireEnvoy") == [federation_pb2.RetireEnvoyRequest(envoy="rome")]
    assert director.requests("RestoreEnvoy") == [federation_pb2.RestoreEnvoyRequest(envoy="rome")]


def test_federation_is_told(director):
    director.answers["GetFederation"] = federation_pb2.Federation(epoch="e", sample_shape=[8, 8], version="0.3.0")

    with Federation(director.address, client_id="ada") as federation:
        found = federation.federation()

    assert (found.epoch, found.sample_shape, found.target_shape, found.version) == ("e", (8, 8), (), "0.3.0")
