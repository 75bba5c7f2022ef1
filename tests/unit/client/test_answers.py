"""Messages become values; what is absent in a message is absent in the value."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from director.client.answers import DeviceInfo, envoy_of, event_of, experiment_of, metric_of
from director.domain.types import ExperimentState
from director.errors import DirectorError
from director.v1 import envoys_pb2
from director.v1 import experiments_pb2 as pb

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def stamp(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message


@pytest.mark.parametrize("state", ExperimentState)
def test_every_state_is_read_by_its_name(state):
    number = pb.ExperimentState.Value(f"EXPERIMENT_STATE_{state.name}")

    assert experiment_of(pb.Experiment(state=number)).state is state


@pytest.mark.parametrize("number", [0, 99])
def test_state_of_a_newer_director_is_an_error_and_no_guess(number):
    with pytest.raises(DirectorError, match="does not know"):
        experiment_of(pb.Experiment(state=number))


def test_best_model_zero_with_score_zero_is_not_taken_for_none():
    scored = experiment_of(pb.Experiment(state=1, best_model=0, best_score=0.0))
    unscored = experiment_of(pb.Experiment(state=1))

    assert (scored.best_model, scored.best_score) == (0, 0.0)
    assert (unscored.best_model, unscored.best_score) == (None, None)


def test_instants_are_aware_and_absent_ones_are_none():
    info = experiment_of(pb.Experiment(state=1, submit_time=stamp(NOON)))

    assert (info.submitted_at, info.started_at) == (NOON, None)


def test_plan_and_collaborators_are_read_with_their_experiment():
    collaborators = [pb.Collaborator(envoy="a", state="failed", attempt=2, error="boom")]
    info = experiment_of(pb.Experiment(state=2, plan_json='{"rounds": 3}', collaborators=collaborators))

    assert info.plan == {"rounds": 3}
    assert (info.collaborators[0].envoy, info.collaborators[0].error) == ("a", "boom")


def test_metric_and_event_carry_their_cursor():
    metric = metric_of(pb.Metric(seq=3, origin="a", value=0.5, epoch="e", record_time=stamp(NOON)))
    event = event_of(pb.Event(seq=4, kind="round_closed", details_json='{"round": 1}', epoch="e"))

    assert (metric.seq, metric.epoch, metric.value, metric.recorded_at) == (3, "e", 0.5, NOON)
    assert (event.seq, event.epoch, event.details) == (4, "e", {"round": 1})


def test_envoy_is_read_with_its_shard_and_devices():
    shard = envoys_pb2.Shard(envoy="a", samples=5, sample_shape=[8, 8])
    device = envoys_pb2.Device(index=0, name="gpu", memory_total_bytes=2, memory_used_bytes=1)
    period = Duration(seconds=60)

    info = envoy_of(pb.EnvoyInfo(shard=shard, is_online=True, heartbeat_period=period, devices=[device]))

    assert (info.name, info.samples, info.sample_shape, info.is_online) == ("a", 5, (8, 8), True)
    assert info.heartbeat_period == timedelta(minutes=1)
    assert info.devices == (DeviceInfo(0, "gpu", 2, 1),)
