"""Real channels to a real server: the caller's name goes along with each kind of call, with asyncio and without."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest
import trustme

from director.errors import RoundClosed, Unavailable
from director.wire.channels import TlsFiles, aio_channel, sync_channel
from director.wire.statuses import from_rpc_error, to_rich_status


def caller_of(context: grpc.ServicerContext) -> bytes:
    return dict(context.invocation_metadata()).get("client_id", "nobody").encode()


def tell(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request == b"late":
        context.abort_with_status(to_rich_status(RoundClosed("the round is closed")))
    return caller_of(context)


def tell_often(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from [caller_of(context)] * 3


def tell_each(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request + caller_of(context)


def tell_certificate(request: bytes, context: grpc.ServicerContext) -> bytes:
    return b", ".join(context.auth_context()["x509_common_name"])


@pytest.fixture
def server():
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(tell),
        "Stream": grpc.unary_stream_rpc_method_handler(tell_often),
        "Both": grpc.stream_stream_rpc_method_handler(tell_each),
        "Certificate": grpc.unary_unary_rpc_method_handler(tell_certificate),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Caller", handlers)])
    yield server
    server.stop(None).wait()


@pytest.fixture
def address(server):
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return f"127.0.0.1:{port}"


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def tls_address(server, authority):
    own = authority.issue_cert("127.0.0.1")
    pair = (own.private_key_pem.bytes(), b"".join(blob.bytes() for blob in own.cert_chain_pems))
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return f"127.0.0.1:{port}"


@pytest.fixture
def tls_files(authority, tmp_path):
    ada = authority.issue_cert("ada.example.org", common_name="ada")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "ada.pem", tmp_path / "ada.key")
    authority.cert_pem.write_to_path(files.root_certificate)
    ada.cert_chain_pems[0].write_to_path(files.certificate)
    ada.private_key_pem.write_to_path(files.private_key)
    return files


def test_certificate_names_the_caller_of_both_kinds_of_channels(tls_address, tls_files):
    async def ask() -> bytes:
        async with aio_channel(tls_address, tls_files, "somebody else") as channel:
            return await channel.unary_unary("/test.Caller/Certificate")(b"")

    with sync_channel(tls_address, tls_files, "somebody else") as channel:
        with_threads = channel.unary_unary("/test.Caller/Certificate")(b"")

    assert (with_threads, asyncio.run(ask())) == (b"ada", b"ada")


def test_caller_without_a_certificate_does_not_reach_a_director_that_asks_for_one(tls_address):
    with sync_channel(tls_address, None, "ada") as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/test.Caller/Unary")(b"")

    assert type(from_rpc_error(error.value)) is Unavailable


@pytest.mark.parametrize(("client_id", "name"), [("ada", b"ada"), (None, b"nobody")])
def test_each_kind_of_call_names_its_caller(address, client_id, name):
    with sync_channel(address, None, client_id) as channel:
        unary = channel.unary_unary("/test.Caller/Unary")(b"")
        stream = list(channel.unary_stream("/test.Caller/Stream")(b""))
        both = list(channel.stream_stream("/test.Caller/Both")(iter([b"1", b"2"])))

    assert (unary, stream, both) == (name, [name] * 3, [b"1" + name, b"2" + name])


@pytest.mark.parametrize(("client_id", "name"), [("ada", b"ada"), (None, b"nobody")])
def test_each_kind_of_call_names_its_caller_with_asyncio_too(address, client_id, name):
    async def requests() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    async def ask() -> tuple[bytes, list[bytes], list[bytes]]:
        async with aio_channel(address, None, client_id) as channel:
            unary = await channel.unary_unary("/test.Caller/Unary")(b"")
            stream = [each async for each in channel.unary_stream("/test.Caller/Stream")(b"")]
            both = [each async for each in channel.stream_stream("/test.Caller/Both")(requests())]
            return unary, stream, both

    assert asyncio.run(ask()) == (name, [name] * 3, [b"1" + name, b"2" + name])


def test_metadata_that_a_call_brings_along_stay(address):
    with sync_channel(address, None, "ada") as channel:
        _, call = channel.unary_unary("/test.Caller/Unary").with_call(b"", metadata=(("trace", "1"),), timeout=5)

    assert call.code() is grpc.StatusCode.OK


def test_error_of_a_servicer_is_raised_as_the_same_class_by_both_kinds_of_channels(address):
    async def ask() -> None:
        async with aio_channel(address, None, "ada") as channel:
            await channel.unary_unary("/test.Caller/Unary")(b"late")

    with sync_channel(address, None, "ada") as channel, pytest.raises(grpc.RpcError) as sync_error:
        channel.unary_unary("/test.Caller/Unary")(b"late")
    with pytest.raises(grpc.RpcError) as aio_error:
        asyncio.run(ask())

    for error in (sync_error.value, aio_error.value):
        ours = from_rpc_error(error)
        assert (type(ours), str(ours)) == (RoundClosed, "the round is closed")
