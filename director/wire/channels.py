"""Channels to a director: TLS files, keepalive and message limits, and who the caller is when there is no TLS."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from director.domain.limits import MAX_CHUNK_BYTES
from director.errors import InvalidArgument
from director.wire import headers

MAX_MESSAGE_BYTES = MAX_CHUNK_BYTES + 64 * 1024
"""The largest message in either direction: the largest chunk and the message around it."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own pauses grow to two minutes: too long to wait for envoys once the director is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def addresses_of(text: str) -> tuple[str, ...]:
    """Read host:port[,host:port…].

    Raises:
        InvalidArgument: a part is not an address, or its port is not a number from 1 to 65535.
    """
    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        host, colon, port = each.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
            raise InvalidArgument(f"{text!r} is not the address of a director; write HOST:PORT[,HOST:PORT…]")
    return found


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of mutual TLS."""

    root_certificate: Path
    certificate: Path
    private_key: Path

    @classmethod
    def of(cls, root_certificate: Path | None, certificate: Path | None, private_key: Path | None) -> Self | None:
        """Return the files if all three are named, and None without any of them.

        Raises:
            InvalidArgument: some are named and some are not.
        """
        match root_certificate, certificate, private_key:
            case (None, None, None):
                return None
            case (Path() as root, Path() as own, Path() as key):
                return cls(root, own, key)
            case _:
                raise InvalidArgument("mutual TLS needs all three: --root-certificate, --certificate and --private-key")

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
    # A proxy, as http_proxy and similar variables name it, would connect to the proxy's own loopback.
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(address) else OPTIONS


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"the {what} {str(path)!r} cannot be read: {error.strerror or error}") from error
