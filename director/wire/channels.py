"""Channels to a director: TLS files, keepalive and message limits, and who the caller is when there is no TLS."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from director.errors import InvalidArgument
from director.wire import headers

MAX_MESSAGE_BYTES = 64 * 2**20

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own pauses grow to two minutes; a director that is back should not wait for its envoys that long.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def addresses_of(text: str) -> tuple[str, ...]:
    """Read host:port[,host:port…].

    Raises:
        InvalidArgument: it is something else.
    """
    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        host, colon, port = each.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
            raise InvalidArgument(f"the director's address is HOST:PORT[,HOST:PORT…], which {text!r} is not")
    return found


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates of mutual TLS lie, as PEM files."""

    root_certificate: Path
    certificate: Path
    private_key: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return root certificate, certificate and private key.

        Raises:
            InvalidArgument: one of the files cannot be read; the text says which and why.
        """
        return (
            _read("root certificate", self.root_certificate),
            _read("certificate", self.certificate),
            _read("private key", self.private_key),
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a caller shows to a director.

        Raises:
            InvalidArgument: one of the files cannot be read.
        """
        root, certificate, key = self.read()
        return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=certificate)


def aio_channel(address: str, tls: TlsFiles | None, client_id: str | None) -> grpc.aio.Channel:
    """Open a channel for asyncio to the director at host:port. Without TLS each call carries the client id.

    Raises:
        InvalidArgument: a TLS file cannot be read, or the client id cannot travel in a header.
    """
    if tls is not None:
        return grpc.aio.secure_channel(address, tls.channel_credentials(), options=_options(address))
    interceptors = headers.aio_interceptors(client_id) if client_id else ()
    return grpc.aio.insecure_channel(address, options=_options(address), interceptors=interceptors)


def sync_channel(address: str, tls: TlsFiles | None, client_id: str | None) -> grpc.Channel:
    """Open a channel for threads to the director at host:port. Without TLS each call carries the client id.

    Raises:
        InvalidArgument: a TLS file cannot be read, or the client id cannot travel in a header.
    """
    if tls is not None:
        return grpc.secure_channel(address, tls.channel_credentials(), options=_options(address))
    channel = grpc.insecure_channel(address, options=_options(address))
    return grpc.intercept_channel(channel, *headers.sync_interceptors(client_id)) if client_id else channel


def is_loopback(address: str) -> bool:
    """Whether host:port never leaves this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _options(address: str) -> tuple[tuple[str, Any], ...]:
    # The proxy of http_proxy and its kin could only lead to its own loopback.
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(address) else OPTIONS


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"the {what} {str(path)!r} cannot be read: {error.strerror or error}") from error
