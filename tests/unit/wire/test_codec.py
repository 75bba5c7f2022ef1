"""Each value that crosses the wire comes out as it went in, and nothing that a newer peer may send is misread."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain.commands import Heartbeat, ModelReference, ModelUpload, SubmitExperiment
from director.domain.experiment import Collaborator, Failure
from director.domain.types import CollaboratorState, ExperimentState, TaskKind
from director.domain.work import Idle
from director.errors import DirectorError, InvalidArgument
from director.v1 import common_pb2, envoys_pb2, experiments_pb2, rounds_pb2
from director.wire import codec
from director.wire.codec import basics, envoy_messages, experiment_messages, round_messages
from tests import strategies

Value = Any
ENUMERATIONS = [
    (experiments_pb2.Experiment.State, ExperimentState),
    (experiments_pb2.Collaborator.State, CollaboratorState),
    (rounds_pb2.Task.Kind, TaskKind),
]


def carried(message: Any) -> Any:
    """Return a message as it arrives on the other side."""
    return type(message).FromString(message.SerializeToString())


def comparable(value: Value) -> Value:
    """Return a value in a form in which NaN equals NaN, and a list a tuple."""
    if is_dataclass(value):
        return type(value), {field.name: comparable(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Mapping():
            return {key: comparable(item) for key, item in value.items()}
        case list() | tuple():
            return [comparable(item) for item in value]
        case float() if math.isnan(value):
            return "NaN"
        case _:
            return value


def plainly(name: str) -> Callable[[Value], Value]:
    """Return what writes a value, carries it over and reads it again."""
    write, read = getattr(codec, f"write_{name}"), getattr(codec, f"read_{name}")
    return lambda value: read(carried(write(value)))


def through_an_answer(engagement: Value) -> Value:
    written = codec.write_engagement(engagement)
    return codec.read_engagement(carried(envoys_pb2.WaitExperimentResponse(engagement=written)))


def through_a_stream(command: SubmitExperiment) -> SubmitExperiment:
    manifest = command.model.manifest if isinstance(command.model, ModelUpload) else None
    message = carried(codec.write_submission(command))
    return codec.read_submission(message, collaborators=command.collaborators, users=command.users, manifest=manifest)


def through_a_field(instant: Value) -> Value:
    message = carried(experiments_pb2.Experiment(start_time=basics.write_instant(instant)))
    return basics.read_instant_of(message, "start_time")


def through_a_number(member: Value) -> Value:
    [wrapper] = [wrapper for wrapper, kind in ENUMERATIONS if isinstance(member, kind)]
    return basics.read_enum(wrapper, type(member), basics.write_enum(wrapper, member))


ROUND_TRIPS: Mapping[str, tuple[st.SearchStrategy[Value], Callable[[Value], Value]]] = {
    "answer": (strategies.answers, plainly("answer")),
    "collaborator": (strategies.collaborators, plainly("collaborator")),
    "content": (strategies.contents, plainly("content")),
    "contribution": (strategies.contributions, plainly("contribution")),
    "cursor": (strategies.cursors, plainly("cursor")),
    "device": (strategies.devices, plainly("device")),
    "duration": (strategies.lengths, plainly("duration")),
    "engagement": (st.none() | strategies.engagements, through_an_answer),
    "enum": (st.sampled_from([member for _, kind in ENUMERATIONS for member in kind]), through_a_number),
    "envoy": (strategies.envoys, plainly("envoy")),
    "event": (strategies.events, plainly("event")),
    "experiment": (strategies.experiments, plainly("experiment")),
    "failure": (strategies.failures, plainly("failure")),
    "federation": (strategies.federations, plainly("federation")),
    "heartbeat": (strategies.heartbeats, plainly("heartbeat")),
    "instant": (st.none() | strategies.instants, through_a_field),
    "json": (strategies.settings, lambda value: basics.read_json(basics.write_json(value))),
    "metric": (strategies.metrics, plainly("metric")),
    "model": (strategies.model_choices, plainly("model")),
    "pulse": (strategies.pulses, plainly("pulse")),
    "session": (strategies.sessions, plainly("session")),
    "shard": (strategies.shards, plainly("shard")),
    "submission": (strategies.submissions, through_a_stream),
    "task": (strategies.tasks, plainly("task")),
    "work": (strategies.works, plainly("work")),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@given(data=st.data())
def test_value_comes_out_as_it_went_in(name: str, data: st.DataObject):
    drawn, carry = ROUND_TRIPS[name]
    value = data.draw(drawn)

    assert comparable(carry(value)) == comparable(value)


def functions(module: ModuleType, prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in vars(module) if name.startswith(prefix)}


def test_each_value_has_a_writer_a_reader_and_a_round_trip_above():
    modules = basics, envoy_messages, experiment_messages, round_messages
    readers = set().union(*(functions(module, "read_") for module in modules))
    writers = set().union(*(functions(module, "write_") for module in modules))

    assert readers - {"instant_of"} == writers == ROUND_TRIPS.keys()


def test_each_value_that_is_not_a_building_block_is_exported():
    exported = ROUND_TRIPS.keys() - {"enum", "instant", "json"}

    assert set(codec.__all__) == {f"{verb}_{name}" for verb in ("read", "write") for name in exported}


# Enumerations


@pytest.mark.parametrize(("wrapper", "kind"), ENUMERATIONS, ids=lambda each: getattr(each, "__name__", ""))
def test_enumeration_has_the_same_members_on_the_wire_and_nothing_for_zero(wrapper, kind):
    members = dict(wrapper.items())

    assert [name for name, number in members.items() if number == 0] == [wrapper.Name(0)]
    assert wrapper.Name(0).endswith("_UNSPECIFIED")
    assert members.keys() - {wrapper.Name(0)} == {member.name for member in kind}


@pytest.mark.parametrize(("wrapper", "kind"), ENUMERATIONS, ids=lambda each: getattr(each, "__name__", ""))
@pytest.mark.parametrize("number", [0, 99])
def test_number_that_stands_for_no_member_is_refused(wrapper, kind, number):
    with pytest.raises(DirectorError, match=rf"^{kind.__name__} {number} is unknown to this version .*; install"):
        basics.read_enum(wrapper, kind, number)


def test_value_in_a_state_of_a_newer_director_is_refused():
    with pytest.raises(DirectorError, match="ExperimentState 99"):
        codec.read_experiment(carried(experiments_pb2.Experiment(state=99)))
    with pytest.raises(DirectorError, match="CollaboratorState 99"):
        codec.read_collaborator(carried(experiments_pb2.Collaborator(state=99)))
    with pytest.raises(DirectorError, match="TaskKind 99"):
        codec.read_task(carried(rounds_pb2.Task(kind=99)))


def test_collaborators_are_counted_in_every_state():
    counted = [field.name for field in experiments_pb2.CollaboratorCounts.DESCRIPTOR.fields]

    assert counted == [state.value for state in CollaboratorState]


def test_each_way_to_name_a_model_has_a_number():
    choice = experiments_pb2.DownloadModelRequest.Choice

    assert {*experiment_messages.CHOICES.values(), 0} == set(choice.values())


# What a peer may send


def test_answer_of_a_newer_director_is_taken_for_idle():
    assert codec.read_answer(rounds_pb2.PollTasksResponse()) == Idle()


def test_heartbeat_without_a_session_does_not_speak_for_any_session():
    sent = carried(codec.write_heartbeat(Heartbeat("rome", experiment_running=True, session_id=None)))

    assert codec.read_heartbeat(sent).session_id == ""


@pytest.mark.parametrize(("size_bytes", "sha256"), [(0, b""), (1, bytes(31)), (1, bytes(33)), (-1, bytes(32))])
def test_bytes_are_announced_by_their_length_and_their_digest(size_bytes, sha256):
    with pytest.raises(InvalidArgument, match="announced by their length and their SHA-256"):
        codec.read_content(common_pb2.BlobInfo(size_bytes=size_bytes, sha256=sha256))


@pytest.mark.parametrize("which", ["", "newest", "BEST", -1, 2**63])
def test_model_is_named_by_a_choice_or_a_number(which):
    with pytest.raises(InvalidArgument, match=f"'best', 'last', 'initial' or a number from 0, not {which!r}"):
        codec.write_model(which)


@pytest.mark.parametrize("choice", [None, 0, 99])
def test_request_that_names_no_model_is_refused(choice):
    with pytest.raises(InvalidArgument, match="name the model"):
        codec.read_model(experiments_pb2.DownloadModelRequest(choice=choice))


def test_submission_without_an_initial_model_is_refused():
    archive = common_pb2.BlobInfo(sha256=bytes(32))
    upload = experiments_pb2.ModelUpload(payload=archive, manifest=archive)

    for message in (experiments_pb2.Submission(archive=archive), experiments_pb2.Submission(upload=upload)):
        with pytest.raises(InvalidArgument, match="name the initial model"):
            codec.read_submission(message, collaborators=["rome"], users=[], manifest=None)


def test_reference_needs_no_manifest():
    reference = experiments_pb2.ModelReference(experiment_uid="a" * 32, number=3)
    message = experiments_pb2.Submission(archive=common_pb2.BlobInfo(sha256=bytes(32)), reference=reference)

    command = codec.read_submission(message, collaborators=["rome"], users=["ada"], manifest=None)

    assert command.model == ModelReference("a" * 32, 3)
    assert (command.collaborators, command.users) == (("rome",), ("ada",))


@pytest.mark.parametrize("character", ["x", "ä", "病"])
def test_end_of_a_long_failure_is_given_in_four_kibibytes(character):
    failure = Failure(f"the beginning{character * 10_000}ValueError: no", "train", "ValueError")

    written = codec.write_collaborator(Collaborator("rome", CollaboratorState.FAILED, 1, failure))

    assert 4000 < len(written.failure.message.encode()) <= 4096
    assert written.failure.message.endswith(f"{character}ValueError: no")
    assert (written.failure.task, written.failure.error_type) == ("train", "ValueError")
