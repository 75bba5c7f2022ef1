"""The wire keeps to the rules of Google's API improvement proposals (AIP) that it follows."""

import re

import pytest

from tests.wire.record_fields import table

WIRE = table()
FIELDS = [(message, field) for message, fields in WIRE["messages"].items() for field in fields.values()]
METHODS = [(name, method) for methods in WIRE["services"].values() for name, method in methods.items()]


def fields_of(message: str) -> dict[str, str]:
    return {field["name"]: field["type"] for field in WIRE["messages"][message].values()}


def test_each_enumeration_begins_with_a_member_that_says_nothing():
    """AIP 126."""
    for name, members in WIRE["enums"].items():
        assert members["0"] == f"{name.rpartition('.')[2].upper()}_UNSPECIFIED"


def test_no_truth_value_is_named_like_a_question():
    """AIP 140."""
    assert [field["name"] for _, field in FIELDS if re.match("is_|has_", field["name"])] == []


def test_instants_end_in_time_and_lengths_are_durations():
    """AIP 142."""
    for _, field in FIELDS:
        assert field["name"].endswith("_time") == (field["type"] == "google.protobuf.Timestamp")
        assert not field["name"].endswith(("_seconds", "_ms"))


def test_each_method_has_a_request_type_of_its_own():
    for name, method in METHODS:
        assert method["takes"] == f"director.v1.{name}Request"
    assert len({name for name, _ in METHODS}) == len(METHODS)


@pytest.mark.parametrize(("name", "method"), [each for each in METHODS if each[0].startswith("List")])
def test_each_list_comes_in_pages(name, method):
    """AIP 158."""
    asked, given = fields_of(method["takes"]), fields_of(method["answers"])

    assert (asked["page_size"], asked["page_token"], given["next_page_token"]) == ("int32", "string", "string")


def test_each_rpc_about_an_experiment_takes_its_uid():
    about = {name: fields_of(method["takes"]) for name, method in METHODS if "experiment" in method["takes"].lower()}
    for request in ("CancelExperiment", "RemoveExperiment", "ReviewExperiment", "GetExperiment"):
        assert about[request]["experiment_uid"] == "string"
    for name, method in METHODS:
        assert "experiment_name" not in fields_of(method["takes"]) or name == "GetExperiment"
