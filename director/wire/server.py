"""The port: the four services, health checking and reflection, with or without TLS."""

from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from director.errors import InvalidArgument, PreconditionFailed
from director.services.process import Process
from director.v1 import (
    envoys_pb2,
    envoys_pb2_grpc,
    experiments_pb2,
    experiments_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
)
from director.wire.channels import MAX_MESSAGE_BYTES, TlsFiles, is_loopback
from director.wire.envoy_service import EnvoyServicer
from director.wire.experiment_service import ExperimentServicer
from director.wire.federation_service import FederationServicer
from director.wire.guard import ErrorInterceptor
from director.wire.round_service import RoundServicer

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (envoys_pb2, "EnvoyService"),
        (experiments_pb2, "ExperimentService"),
        (rounds_pb2, "RoundService"),
        (federation_pb2, "FederationService"),
    )
)

OPTIONS: tuple[tuple[str, Any], ...] = (
    # By default a burst of some thousand calls is cancelled before any handler runs.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer that vanished behind a firewall is found, and one that pings is welcome.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Two servers on one port would split the calls between them without a word.
    ("grpc.so_reuseport", 0),
)


class Server:
    """A gRPC server over one process."""

    def __init__(self, process: Process) -> None:
        """Register all services."""
        self._server = grpc.aio.server(options=OPTIONS, interceptors=[ErrorInterceptor()])
        self._health = health.aio.HealthServicer()
        envoys_pb2_grpc.add_EnvoyServiceServicer_to_server(EnvoyServicer(process), self._server)
        experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentServicer(process), self._server)
        federation_pb2_grpc.add_FederationServiceServicer_to_server(FederationServicer(process), self._server)
        rounds_pb2_grpc.add_RoundServiceServicer_to_server(RoundServicer(process), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int, *, tls: TlsFiles | None, insecure: bool = False) -> int:
        """Listen, and return the port.

        Raises:
            InvalidArgument: it would listen without TLS on an address that others reach, or a TLS file cannot be read.
            PreconditionFailed: the address cannot be listened on.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tls is None and not insecure and not is_loopback(address):
            raise InvalidArgument(
                f"without TLS a director listens on loopback only, and {host} is not: give it --certificate, "
                "--private-key and --root-certificate, or say --insecure"
            )
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                root, certificate, key = tls.read()
                credentials = grpc.ssl_server_credentials(
                    [(key, certificate)], root_certificates=root, require_client_auth=True
                )
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise PreconditionFailed(f"cannot listen on {address}: it is taken, or not this machine's") from error
        if bound == 0:
            raise PreconditionFailed(f"cannot listen on {address}: it is taken, or not this machine's")
        await self._server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def withdraw(self) -> None:
        """Say to those who check its health that it is going; calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Say that it is going, take no more calls, and let those that run end within the grace."""
        await self.withdraw()
        await self._server.stop(grace_seconds)
