"""Each caller has a name, and acts as itself only."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import trustme

from director.bootstrap import serve
from director.errors import Forbidden, InvalidArgument, NotFound, PreconditionFailed, Unauthenticated, Unavailable
from director.settings import Settings
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
from director.wire.channels import TlsFiles, aio_channel
from director.wire.server import Server
from director.wire.statuses import from_rpc_error
from tests.world import PLAN, World, world


@pytest.fixture
async def federation(migrated_sqlite, tmp_path) -> AsyncIterator[World]:
    shutil.copy(migrated_sqlite, tmp_path / "director.db")
    async with world(f"sqlite:///{tmp_path / 'director.db'}", operators=("operator",)) as federation:
        yield federation


@pytest.fixture
async def port(federation) -> AsyncIterator[int]:
    server = Server(federation.process)
    yield await server.start("127.0.0.1", 0, tls=None)
    await server.stop(0)


class Certificates:
    """A CA and what it issued, as PEM files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.root = folder / "root.pem"
        self.authority.cert_pem.write_to_path(str(self.root))

    def issue(self, name: str, *, host: str = "client.invalid") -> TlsFiles:
        issued = self.authority.issue_cert(host, common_name=name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.private_key_pem.write_to_path(str(key))
        for index, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(certificate), append=index > 0)
        return TlsFiles(self.root, certificate, key)


@pytest.fixture
def certificates(tmp_path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
async def secure_port(federation, certificates) -> AsyncIterator[int]:
    server = Server(federation.process)
    yield await server.start("127.0.0.1", 0, tls=certificates.issue("director", host="localhost"))
    await server.stop(0)


async def register(channel: grpc.aio.Channel, envoy: str, **options) -> None:
    request = envoys_pb2.RegisterShardRequest(shard=envoys_pb2.Shard(envoy=envoy))
    try:
        await envoys_pb2_grpc.EnvoyServiceStub(channel).RegisterShard(request, timeout=10, **options)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def test_caller_without_tls_is_whom_the_header_names(port):
    async with aio_channel(f"127.0.0.1:{port}", None, "rome") as channel:
        await register(channel, "rome")
        with pytest.raises(Forbidden, match="'rome' cannot act as envoy 'oslo'"):
            await register(channel, "oslo")


async def test_caller_without_a_name_is_refused(port):
    async with aio_channel(f"127.0.0.1:{port}", None, None) as channel:
        with pytest.raises(Unauthenticated, match="client_id"):
            await register(channel, "rome")
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await federation_pb2_grpc.FederationServiceStub(channel).GetFederation(
                federation_pb2.GetFederationRequest()
            )


CALLS_AS_ROME = {
    "Heartbeat": (envoys_pb2_grpc.EnvoyServiceStub, envoys_pb2.HeartbeatRequest(envoy="rome")),
    "WaitExperiment": (envoys_pb2_grpc.EnvoyServiceStub, envoys_pb2.WaitExperimentRequest(envoy="rome")),
    "ReportFailure": (envoys_pb2_grpc.EnvoyServiceStub, envoys_pb2.ReportFailureRequest(envoy="rome")),
    "Leave": (envoys_pb2_grpc.EnvoyServiceStub, envoys_pb2.LeaveRequest(envoy="rome")),
    "PollTasks": (rounds_pb2_grpc.RoundServiceStub, rounds_pb2.PollTasksRequest(envoy="rome")),
}
STREAMS_AS_ROME = {
    "DownloadArchive": (envoys_pb2_grpc.EnvoyServiceStub, envoys_pb2.DownloadArchiveRequest(envoy="rome")),
    "DownloadBaseModel": (rounds_pb2_grpc.RoundServiceStub, rounds_pb2.DownloadBaseModelRequest(envoy="rome")),
    "SubmitContribution": (
        rounds_pb2_grpc.RoundServiceStub,
        iter([rounds_pb2.SubmitContributionRequest(contribution=rounds_pb2.Contribution(envoy="rome"))]),
    ),
}


@pytest.mark.parametrize("method", CALLS_AS_ROME)
async def test_caller_does_not_act_as_another_envoy(port, method):
    stub, request = CALLS_AS_ROME[method]

    async with aio_channel(f"127.0.0.1:{port}", None, "oslo") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await getattr(stub(channel), method)(request)


@pytest.mark.parametrize("method", STREAMS_AS_ROME)
async def test_caller_does_not_stream_as_another_envoy(port, method):
    stub, request = STREAMS_AS_ROME[method]

    async with aio_channel(f"127.0.0.1:{port}", None, "oslo") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            async for _ in getattr(stub(channel), method)(request):
                pass


async def get(port: int, caller: str, name: str = "experiment") -> experiments_pb2.Experiment:
    async with aio_channel(f"127.0.0.1:{port}", None, caller) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        try:
            return await stub.GetExperiment(experiments_pb2.GetExperimentRequest(experiment_name=name))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def test_user_sees_own_and_shared_experiments_and_an_operator_all(federation, port):
    await federation.register("a", "b")
    await federation.submit(users=["colleague"])

    for caller in ("researcher", "colleague", "operator"):
        assert (await get(port, caller)).owner == "researcher"
    with pytest.raises(NotFound):
        await get(port, "stranger")


async def test_only_operators_review(federation, port):
    await federation.register("a", "b")
    submitted = await federation.submit(plan=PLAN + "review: manual\n")
    approve = experiments_pb2.ReviewExperimentRequest.APPROVE
    request = experiments_pb2.ReviewExperimentRequest(experiment_uid=submitted.uid, decision=approve)

    async def review(caller: str) -> experiments_pb2.Experiment:
        async with aio_channel(f"127.0.0.1:{port}", None, caller) as channel:
            return await experiments_pb2_grpc.ExperimentServiceStub(channel).ReviewExperiment(request)

    with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
        await review("researcher")
    assert (await review("operator")).state == experiments_pb2.Experiment.PENDING
    with pytest.raises(grpc.aio.AioRpcError, match="FAILED_PRECONDITION"):
        await review("operator")


async def test_caller_with_tls_is_whom_the_certificate_names_whatever_the_header_says(secure_port, certificates):
    async with aio_channel(f"localhost:{secure_port}", certificates.issue("rome"), None) as channel:
        await register(channel, "rome")
        with pytest.raises(Forbidden, match="'rome' cannot act as envoy 'oslo'"):
            await register(channel, "oslo", metadata=[("client_id", "oslo")])


async def test_client_without_a_certificate_or_of_another_authority_is_refused(secure_port, certificates, tmp_path):
    (tmp_path / "other").mkdir()
    stranger = Certificates(tmp_path / "other").issue("rome")
    strange = TlsFiles(certificates.root, stranger.certificate, stranger.private_key)

    async with aio_channel(f"localhost:{secure_port}", strange, None) as channel:
        with pytest.raises(Unavailable):
            await register(channel, "rome")
    async with aio_channel(f"localhost:{secure_port}", None, "rome") as channel:
        with pytest.raises(Unavailable):
            await register(channel, "rome")


async def test_without_tls_only_loopback_is_listened_on(federation):
    server = Server(federation.process)

    with pytest.raises(InvalidArgument, match="--insecure"):
        await server.start("0.0.0.0", 0, tls=None)

    await server.stop(0)


async def test_insecure_listens_anywhere(federation):
    server = Server(federation.process)

    assert await server.start("0.0.0.0", 0, tls=None, insecure=True) > 0

    await server.stop(0)


async def test_port_in_use_is_said_to_be(federation, port):
    server = Server(federation.process)

    with pytest.raises(PreconditionFailed, match="cannot listen"):
        await server.start("127.0.0.1", port, tls=None)

    await server.stop(0)


async def test_director_with_some_of_its_tls_files_does_not_start():
    with pytest.raises(InvalidArgument, match="all three"):
        await serve(Settings(certificate=Path("a.pem")), ready=print)


async def test_missing_file_is_named(federation, tmp_path):
    server = Server(federation.process)
    missing = TlsFiles(tmp_path / "root.pem", tmp_path / "director.pem", tmp_path / "director.key")

    with pytest.raises(InvalidArgument, match=r"root\.pem"):
        await server.start("127.0.0.1", 0, tls=missing)

    await server.stop(0)
