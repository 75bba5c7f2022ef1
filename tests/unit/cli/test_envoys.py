"""Envoys on the command line: listed by default, retired and restored by operators."""

import json

import pytest

from director.v1 import federation_pb2

ROME = federation_pb2.Envoy(shard={"envoy": "rome", "samples": 10, "sample_shape": [8, 8]}, online=True)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {}),
        (["list"], {}),
        (["--online"], {"online": True}),
        (["--offline", "--retired"], {"online": False, "show_retired": True}),
        (["--name", "rome", "--name", "oslo"], {"names": ["rome", "oslo"]}),
    ],
)
def test_envoys_are_listed_by_default(director, say, options, asked):
    director.answers["ListEnvoys"] = federation_pb2.ListEnvoysResponse(envoys=[ROME])

    assert say("envoys", *options).splitlines()[1].split()[:2] == ["rome", "yes"]

    assert director.requests("ListEnvoys") == [federation_pb2.ListEnvoysRequest(**asked)]


def test_envoy_in_json_has_its_name_and_its_shard(director, say):
    director.answers["ListEnvoys"] = federation_pb2.ListEnvoysResponse(envoys=[ROME])

    [rome] = json.loads(say("envoys", "--json"))

    assert (rome["name"], rome["shard"]["samples"], rome["online"]) == ("rome", 10, True)


def test_retired_envoys_are_told_when(director, say):
    retired = federation_pb2.Envoy(shard={"envoy": "rome"}, retire_time={"seconds": 1_893_456_000})
    director.answers["ListEnvoys"] = federation_pb2.ListEnvoysResponse(envoys=[retired])

    headers, row = say("envoys", "--retired").splitlines()

    assert headers.endswith("Retired (UTC)")
    assert row.endswith("2030-01-01 00:00:00")


def test_no_envoy_is_a_sentence(director, say):
    director.answers["ListEnvoys"] = federation_pb2.ListEnvoysResponse()

    assert say("envoys") == "no envoy has registered yet\n"
    assert say("envoys", "--online") == "no such envoy has registered\n"


@pytest.mark.parametrize(("deed", "method"), [("retire", "RetireEnvoy"), ("restore", "RestoreEnvoy")])
def test_operator_retires_and_restores_an_envoy(director, say, deed, method):
    director.answers[method] = ROME

    assert say("envoys", deed, "rome") == f"envoy rome is {deed.rstrip('e')}ed\n"
    assert json.loads(say("envoys", deed, "rome", "--json"))["name"] == "rome"

    assert [each.envoy for each in director.requests(method)] == ["rome", "rome"]


def test_help_of_the_group_names_its_commands(say):
    helped = say("envoys", "--help")

    assert all(name in helped for name in ("list", "retire", "restore", "events"))
