"""Envoys, their shards and devices, and the federation."""

from director.domain.commands import Heartbeat
from director.domain.envoy import Device, Engagement, Envoy, FederationInfo, Pulse, Session, Shard
from director.v1 import envoys_pb2, federation_pb2
from director.wire.codec.basics import read_duration, read_instant, read_instant_of, write_duration, write_instant


def write_shard(shard: Shard) -> envoys_pb2.Shard:
    """Write a shard."""
    return envoys_pb2.Shard(
        envoy=shard.envoy,
        description=shard.description,
        samples=shard.samples,
        sample_shape=shard.sample_shape,
        target_shape=shard.target_shape,
    )


def read_shard(message: envoys_pb2.Shard) -> Shard:
    """Read a shard."""
    return Shard(
        envoy=message.envoy,
        description=message.description,
        samples=message.samples,
        sample_shape=tuple(message.sample_shape),
        target_shape=tuple(message.target_shape),
    )


def write_session(session: Session) -> envoys_pb2.RegisterShardResponse:
    """Write what an envoy is told when it registers."""
    return envoys_pb2.RegisterShardResponse(heartbeat_period=write_duration(session.period), session_id=session.id)


def read_session(message: envoys_pb2.RegisterShardResponse) -> Session:
    """Read what an envoy is told when it registers."""
    return Session(message.session_id, read_duration(message.heartbeat_period))


def write_device(device: Device) -> envoys_pb2.Device:
    """Write an accelerator."""
    return envoys_pb2.Device(
        index=device.index,
        name=device.name,
        memory_total_bytes=device.memory_total_bytes,
        memory_used_bytes=device.memory_used_bytes,
        utilization=device.utilization,
        driver_version=device.driver_version,
    )


def read_device(message: envoys_pb2.Device) -> Device:
    """Read an accelerator."""
    return Device(
        index=message.index,
        name=message.name,
        memory_total_bytes=message.memory_total_bytes,
        memory_used_bytes=message.memory_used_bytes,
        utilization=message.utilization if message.HasField("utilization") else None,
        driver_version=message.driver_version,
    )


def write_heartbeat(heartbeat: Heartbeat) -> envoys_pb2.HeartbeatRequest:
    """Write a heartbeat."""
    return envoys_pb2.HeartbeatRequest(
        envoy=heartbeat.envoy,
        session_id=heartbeat.session_id or "",
        experiment_running=heartbeat.experiment_running,
        devices=map(write_device, heartbeat.devices),
    )


def read_heartbeat(message: envoys_pb2.HeartbeatRequest) -> Heartbeat:
    """Read a heartbeat. One that carries no session has the empty one, which no envoy has: it changes nothing."""
    return Heartbeat(
        envoy=message.envoy,
        experiment_running=message.experiment_running,
        devices=tuple(map(read_device, message.devices)),
        session_id=message.session_id,
    )


def write_engagement(engagement: Engagement | None) -> envoys_pb2.Engagement | None:
    """Write what an envoy is given; None stays absent."""
    if engagement is None:
        return None
    return envoys_pb2.Engagement(
        experiment_uid=engagement.experiment_uid,
        experiment_name=engagement.experiment_name,
        attempt=engagement.attempt,
    )


def read_engagement(
    message: envoys_pb2.HeartbeatResponse | envoys_pb2.WaitExperimentResponse,
) -> Engagement | None:
    """Read the engagement that an answer carries, if it carries one."""
    if not message.HasField("engagement"):
        return None
    found = message.engagement
    return Engagement(found.experiment_uid, found.experiment_name, found.attempt)


def write_pulse(pulse: Pulse) -> envoys_pb2.HeartbeatResponse:
    """Write the answer to a heartbeat."""
    return envoys_pb2.HeartbeatResponse(
        period=write_duration(pulse.period), engagement=write_engagement(pulse.engagement)
    )


def read_pulse(message: envoys_pb2.HeartbeatResponse) -> Pulse:
    """Read the answer to a heartbeat."""
    return Pulse(read_duration(message.period), read_engagement(message))


def write_envoy(envoy: Envoy) -> federation_pb2.Envoy:
    """Write an envoy."""
    return federation_pb2.Envoy(
        shard=write_shard(envoy.shard),
        online=envoy.online,
        experiment_running=envoy.experiment_running,
        last_seen_time=write_instant(envoy.last_seen_at),
        heartbeat_period=write_duration(envoy.heartbeat_period),
        experiment_uid=envoy.experiment_uid,
        experiment_name=envoy.experiment_name,
        devices=map(write_device, envoy.devices),
        sdk_version=envoy.sdk_version,
        python_version=envoy.python_version,
        register_time=write_instant(envoy.registered_at),
        retire_time=write_instant(envoy.retired_at),
    )


def read_envoy(message: federation_pb2.Envoy) -> Envoy:
    """Read an envoy."""
    return Envoy(
        shard=read_shard(message.shard),
        online=message.online,
        experiment_running=message.experiment_running,
        last_seen_at=read_instant(message.last_seen_time),
        heartbeat_period=read_duration(message.heartbeat_period),
        experiment_uid=message.experiment_uid,
        experiment_name=message.experiment_name,
        devices=tuple(map(read_device, message.devices)),
        sdk_version=message.sdk_version,
        python_version=message.python_version,
        registered_at=read_instant(message.register_time),
        retired_at=read_instant_of(message, "retire_time"),
    )


def write_federation(federation: FederationInfo) -> federation_pb2.Federation:
    """Write what the federation expects."""
    return federation_pb2.Federation(
        epoch=federation.epoch,
        sample_shape=federation.sample_shape,
        target_shape=federation.target_shape,
        version=federation.version,
    )


def read_federation(message: federation_pb2.Federation) -> FederationInfo:
    """Read what the federation expects."""
    return FederationInfo(message.epoch, tuple(message.sample_shape), tuple(message.target_shape), message.version)
