"""What was recorded of the wire stays: no field, member or method is removed, renumbered, renamed or retyped."""

import copy
from typing import Any

import pytest

from tests.wire import record_fields
from tests.wire.record_fields import HOW, broken, recorded, table, unrecorded

MESSAGE = "director.v1.Experiment"
STATE = "director.v1.Experiment.State"
SERVICE = "director.v1.ExperimentService"


def test_no_recorded_entry_has_changed():
    assert broken(recorded(), table()) == []


def test_every_entry_is_recorded():
    assert unrecorded(recorded(), table()) == [], HOW


# The check itself


def remove_field(wire: dict[str, Any]) -> None:
    del wire["messages"][MESSAGE]["5"]


def renumber_field(wire: dict[str, Any]) -> None:
    fields = wire["messages"][MESSAGE]
    fields["99"] = fields.pop("5")


def rename_field(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["5"]["name"] = "cause"


def retype_field(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["5"]["type"] = "bytes"


def repeat_field(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["5"]["label"] = "repeated"


def make_field_optional(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["5"]["label"] = "optional"


def move_field_into_a_oneof(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["5"]["oneof"] = "end"


def swap_fields(wire: dict[str, Any]) -> None:
    fields = wire["messages"][MESSAGE]
    fields["2"], fields["3"] = fields["3"], fields["2"]


def remove_message(wire: dict[str, Any]) -> None:
    del wire["messages"]["director.v1.Idle"]


def remove_member(wire: dict[str, Any]) -> None:
    del wire["enums"][STATE]["6"]


def renumber_member(wire: dict[str, Any]) -> None:
    wire["enums"][STATE]["7"] = wire["enums"][STATE].pop("6")


def rename_member(wire: dict[str, Any]) -> None:
    wire["enums"][STATE]["6"] = "REFUSED"


def remove_enumeration(wire: dict[str, Any]) -> None:
    del wire["enums"][STATE]


def remove_method(wire: dict[str, Any]) -> None:
    del wire["services"][SERVICE]["GetExperiment"]


def rename_method(wire: dict[str, Any]) -> None:
    methods = wire["services"][SERVICE]
    methods["ReadExperiment"] = methods.pop("GetExperiment")


def retype_request(wire: dict[str, Any]) -> None:
    wire["services"][SERVICE]["GetExperiment"]["takes"] = "director.v1.Idle"


def retype_answer(wire: dict[str, Any]) -> None:
    wire["services"][SERVICE]["GetExperiment"]["answers"] = "director.v1.Idle"


def stream_answer(wire: dict[str, Any]) -> None:
    wire["services"][SERVICE]["GetExperiment"]["answers_stream"] = True


def stream_request(wire: dict[str, Any]) -> None:
    wire["services"][SERVICE]["GetExperiment"]["takes_stream"] = True


def remove_service(wire: dict[str, Any]) -> None:
    del wire["services"][SERVICE]


BREAKS = [
    remove_field,
    renumber_field,
    rename_field,
    retype_field,
    repeat_field,
    make_field_optional,
    move_field_into_a_oneof,
    swap_fields,
    remove_message,
    remove_member,
    renumber_member,
    rename_member,
    remove_enumeration,
    remove_method,
    rename_method,
    retype_request,
    retype_answer,
    stream_answer,
    stream_request,
    remove_service,
]


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.__name__)
def test_change_that_breaks_a_peer_is_found_and_cannot_be_recorded(change, tmp_path, monkeypatch, capsys):
    now = copy.deepcopy(recorded())
    change(now)
    record = tmp_path / "fields.json"
    record.write_text(record_fields.RECORD.read_text())
    monkeypatch.setattr(record_fields, "RECORD", record)
    monkeypatch.setattr(record_fields, "table", lambda: now)

    assert broken(recorded(), now) != []
    assert record_fields.main() == 1
    assert record.read_text() == (record_fields.FOLDER / "fields.json").read_text()
    assert "; it was " in capsys.readouterr().err


def add_field(wire: dict[str, Any]) -> None:
    wire["messages"][MESSAGE]["99"] = {"name": "note", "type": "string", "label": "single", "oneof": None}


def add_message(wire: dict[str, Any]) -> None:
    wire["messages"]["director.v1.Note"] = {}


def add_member(wire: dict[str, Any]) -> None:
    wire["enums"][STATE]["7"] = "PAUSED"


def add_method(wire: dict[str, Any]) -> None:
    wire["services"][SERVICE]["PauseExperiment"] = wire["services"][SERVICE]["CancelExperiment"]


@pytest.mark.parametrize("change", [add_field, add_message, add_member, add_method], ids=lambda each: each.__name__)
def test_new_entry_is_reported_with_what_to_type_and_can_be_recorded(change, tmp_path, monkeypatch):
    before, now = recorded(), copy.deepcopy(recorded())
    change(now)
    monkeypatch.setattr(record_fields, "RECORD", tmp_path / "fields.json")
    monkeypatch.setattr(record_fields, "table", lambda: now)

    assert broken(before, now) == []
    [sentence] = unrecorded(before, now)
    assert sentence.endswith(
        "record new entries with `python -m tests.wire.record_fields` and commit tests/wire/golden/fields.json"
    )
    assert record_fields.main() == 0
    assert unrecorded(recorded(), now) == []


def test_table_tells_apart_what_a_peer_relies_on():
    wire = table()

    fields = {field["name"]: field for field in wire["messages"][MESSAGE].values()}
    assert fields["best_score"] == {"name": "best_score", "type": "double", "label": "optional", "oneof": None}
    assert fields["waiting_for"]["label"] == "repeated"
    assert fields["state"]["type"] == STATE
    assert fields["submit_time"]["type"] == "google.protobuf.Timestamp"
    assert wire["messages"]["director.v1.Submission"]["5"]["oneof"] == "model"
    assert wire["messages"]["director.v1.Contribution.MetricsEntry"]["2"]["type"] == "double"
    assert wire["messages"]["director.v1.Idle"] == {}
    assert wire["services"][SERVICE]["SubmitExperiment"] == {
        "takes": "director.v1.SubmitExperimentRequest",
        "takes_stream": True,
        "answers": "director.v1.SubmitExperimentResponse",
        "answers_stream": True,
    }
