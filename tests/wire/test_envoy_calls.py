"""The envoy's calls against a director that goes away, cuts streams and damages bytes on demand, over a real port."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from director.domain.envoys import Shard
from director.domain.messages import Content, Contribute
from director.domain.tensors import Manifest
from director.domain.types import TaskKind
from director.effects import SeededEntropy
from director.envoy import connections, transfers
from director.envoy.answers import Engagement, Order, Quit, Work
from director.envoy.connections import Connection, pauses, until_answered
from director.envoy.director_client import DirectorClient
from director.envoy.pulse import Heartbeats
from director.errors import (
    Corrupt,
    DirectorError,
    EnvoyNotFound,
    ExperimentNotFound,
    InvalidArgument,
    LeaseLost,
    MessageTooLarge,
    ResourceExhausted,
    RoundClosed,
    StaleAttempt,
    TensorMismatch,
    Unavailable,
)
from director.v1 import common_pb2, envoys_pb2, envoys_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from director.wire import chunks
from director.wire.statuses import to_rich_status

CHUNK = 1000
BYTES = np.random.default_rng(3).bytes(4 * CHUNK + 321)
DIGEST = hashlib.sha256(BYTES).digest()
ENGAGEMENT = Engagement(7, "digits", 2)
SHARD = Shard("clinic", "scans", 12, (8, 8), (10,))
MANIFEST = Manifest.of({"w": np.zeros((2, 3), np.float32)})


class ScriptedDirector(envoys_pb2_grpc.EnvoyServiceServicer, rounds_pb2_grpc.RoundServiceServicer):
    """A director that first does what its script says, one item a call, and then what it should."""

    def __init__(self) -> None:
        self.script: list[object] = []
        self.requests: list[object] = []
        self.received: dict[int, bytes] = {}
        self.chunks_seen: list[int] = []
        self.engagement: Engagement | None = None
        self.registrations = 0

    async def _scripted(self, request, context) -> object:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, DirectorError):
            await self._abort(context, step)
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, "scripted")
        return step

    async def _abort(self, context, error) -> None:
        status = to_rich_status(error)
        await context.abort(status.code, status.details, status.trailing_metadata)

    async def RegisterShard(self, request, context):
        self.registrations += 1
        await self._scripted(request, context)
        response = envoys_pb2.RegisterShardResponse()
        response.heartbeat_period.FromTimedelta(timedelta(seconds=0.05))
        return response

    async def Heartbeat(self, request, context):
        await self._scripted(request, context)
        response = envoys_pb2.HeartbeatResponse(engagement=message(self.engagement))
        response.period.FromTimedelta(timedelta(seconds=0.05))
        return response

    async def WaitExperiment(self, request, context):
        await self._scripted(request, context)
        return envoys_pb2.WaitExperimentResponse(engagement=message(self.engagement))

    async def ReportFailure(self, request, context):
        await self._scripted(request, context)
        return envoys_pb2.ReportFailureResponse()

    async def GetTasks(self, request, context):
        return await self._scripted(request, context) or rounds_pb2.GetTasksResponse(idle=rounds_pb2.Idle())

    async def DownloadArchive(self, request, context):
        async for part in self._download(request, context):
            yield part

    async def DownloadModel(self, request, context):
        async for part in self._download(request, context):
            yield part

    async def _download(self, request, context):
        step = await self._scripted(request, context)
        blob = chunks.blob_info(len(BYTES), DIGEST)
        yield common_pb2.DownloadPart(header=common_pb2.DownloadHeader(blob=blob, chunk_bytes=CHUNK))
        for index in range(request.first_index, -(-len(BYTES) // CHUNK)):
            chunk = chunks.chunk(index, BYTES[index * CHUNK : (index + 1) * CHUNK])
            match step:
                case ("cut", at) if index == at:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                case ("end", at) if index == at:
                    return
                case ("stall", at) if index == at:
                    await asyncio.sleep(60)
                case ("damage", at) if index == at:
                    chunk.data = b"x" + chunk.data[1:]
                case ("forge", at) if index == at:
                    chunk = chunks.chunk(index, b"x" + chunk.data[1:])
            yield common_pb2.DownloadPart(chunk=chunk)

    async def SubmitContribution(self, request_iterator, context):
        requests = aiter(request_iterator)
        step = await self._scripted((await anext(requests)).contribution, context)
        count = -(-len(BYTES) // CHUNK)
        while step != "held already" and len(self.received) < count:
            missing = next(index for index in range(count) if index not in self.received)
            wanted = common_pb2.UploadWanted(first_index=missing, chunk_bytes=CHUNK)
            yield rounds_pb2.SubmitContributionResponse(wanted=wanted)
            for _ in range(missing, count):
                chunk = (await anext(requests)).chunk
                self.chunks_seen.append(chunk.index)
                match step:
                    case ("cut", at) if chunk.index == at:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                    case ("end", at) if chunk.index == at:
                        return
                    case ("refuse", at) if chunk.index == at:
                        await self._abort(context, TensorMismatch("tensor 'w' holds NaN or infinity"))
                    case ("lose", at) if chunk.index == at:
                        step = None
                        continue
                self.received[chunk.index] = chunks.checked(chunk)
        yield rounds_pb2.SubmitContributionResponse(accepted=rounds_pb2.ContributionAccepted(sha256=DIGEST))


def message(engagement: Engagement | None) -> envoys_pb2.Engagement | None:
    if engagement is None:
        return None
    return envoys_pb2.Engagement(
        experiment_id=engagement.experiment_id,
        experiment_name=engagement.experiment_name,
        attempt=engagement.attempt,
    )


@asynccontextmanager
async def serving(director: ScriptedDirector, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    envoys_pb2_grpc.add_EnvoyServiceServicer_to_server(director, server)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(director, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(connections, "LONGEST_PAUSE_SECONDS", 0.2)


@pytest.fixture
def director() -> ScriptedDirector:
    return ScriptedDirector()


@pytest.fixture
async def client(director):
    async with serving(director) as port, Connection([f"127.0.0.1:{port}"], tls=None, client_id="clinic") as connection:
        yield DirectorClient(connection, "clinic")


@pytest.fixture
def update(tmp_path) -> Path:
    path = tmp_path / "update"
    path.write_bytes(BYTES)
    return path


RESULT = Contribute(
    experiment_id=7,
    envoy="clinic",
    attempt=2,
    round_number=3,
    task="train",
    samples=12,
    metrics={"loss": 0.5},
    update=Content(len(BYTES), DIGEST.hex()),
    manifest=MANIFEST,
)


async def test_shard_is_registered_as_it_describes_itself(client, director):
    period = await client.register(SHARD)

    assert period == timedelta(seconds=0.05)
    assert director.requests == [
        envoys_pb2.RegisterShardRequest(
            shard=envoys_pb2.Shard(
                envoy="clinic", description="scans", samples=12, sample_shape=[8, 8], target_shape=[10]
            )
        )
    ]


async def test_experiment_is_told_and_none_is_none(client, director):
    nothing = await client.wait_experiment()
    director.engagement = ENGAGEMENT
    something = await client.wait_experiment()

    assert nothing is None
    assert something == ENGAGEMENT


async def test_tasks_are_read_with_their_settings(client, director):
    work = rounds_pb2.Work(
        round=3,
        base_model=2,
        model=chunks.blob_info(24, DIGEST),
        manifest=chunks.manifest_message(MANIFEST),
        tasks=[
            rounds_pb2.Task(name="train", kind="train", function="a:b", settings_json='{"rate": 0.5}'),
            rounds_pb2.Task(name="check", kind="validate", function="a:c"),
        ],
    )
    director.script = [
        rounds_pb2.GetTasksResponse(work=work),
        rounds_pb2.GetTasksResponse(quit=rounds_pb2.Quit(reason="finished")),
    ]

    answers = [await client.get_tasks(ENGAGEMENT) for _ in range(3)]

    orders = (Order("train", TaskKind.TRAIN, "a:b", {"rate": 0.5}), Order("check", TaskKind.VALIDATE, "a:c", {}))
    assert answers == [Work(3, 2, DIGEST.hex(), MANIFEST, orders), Quit("finished"), None]


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("shutting down"),
        ResourceExhausted("too many"),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ],
)
async def test_call_that_may_succeed_later_is_repeated_until_it_does(client, director, failure):
    director.script = [failure] * 3

    await client.report_failure(ENGAGEMENT, "out of memory")

    assert len(director.requests) == 4


@pytest.mark.parametrize(
    "answer",
    [
        EnvoyNotFound("who?"),
        ExperimentNotFound("which?"),
        StaleAttempt("handed out again"),
        LeaseLost("not mine"),
        InvalidArgument("no"),
        MessageTooLarge("too large"),
    ],
)
async def test_answer_that_stays_the_same_is_raised_as_the_director_raised_it(client, director, answer):
    director.script = [answer]

    with pytest.raises(type(answer), match=str(answer)):
        await client.report_failure(ENGAGEMENT, "out of memory")

    assert len(director.requests) == 1


async def test_call_goes_to_the_next_address_when_one_is_dead_and_stays_there(director, unused_tcp_port):
    async with serving(director) as port:
        addresses = [f"127.0.0.1:{unused_tcp_port}", f"127.0.0.1:{port}"]
        async with Connection(addresses, tls=None, client_id="clinic") as connection:
            client = DirectorClient(connection, "clinic")
            await client.wait_experiment()
            await client.wait_experiment()

            preferred = connection._preferred

    assert len(director.requests) == 2
    assert preferred == 1


async def test_call_waits_for_a_director_that_comes_up_later(director, unused_tcp_port):
    async with Connection([f"127.0.0.1:{unused_tcp_port}"], tls=None, client_id="clinic") as connection:
        waiting = asyncio.create_task(DirectorClient(connection, "clinic").register(SHARD))
        await asyncio.sleep(0.5)
        async with serving(director, unused_tcp_port):
            period = await asyncio.wait_for(waiting, 10)

    assert period == timedelta(seconds=0.05)


async def test_restarted_director_is_found_again_within_seconds(director, unused_tcp_port):
    async with Connection([f"127.0.0.1:{unused_tcp_port}"], tls=None, client_id="clinic") as connection:
        client = DirectorClient(connection, "clinic")
        for _ in range(3):
            async with serving(director, unused_tcp_port):
                await asyncio.wait_for(client.wait_experiment(), 10)

    assert len(director.requests) == 3


async def test_outage_is_one_warning_and_its_end_one_line(client, director, caplog):
    director.script = [grpc.StatusCode.UNAVAILABLE] * 4
    caplog.set_level("INFO", logger="director.envoy")

    await client.wait_experiment()

    assert [record.levelname for record in caplog.records if record.name == "director.envoy"] == ["WARNING", "INFO"]


async def test_archive_is_downloaded(client, tmp_path):
    await client.download_archive(ENGAGEMENT, tmp_path / "archive.zip")

    assert (tmp_path / "archive.zip").read_bytes() == BYTES
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_download_that_broke_off_goes_on_where_it_was(client, director, tmp_path, how):
    director.script = [(how, 2), (how, 2), (how, 3)]

    digest = await client.download_model(ENGAGEMENT, 1, tmp_path / "model")

    assert digest == DIGEST.hex()
    assert (tmp_path / "model").read_bytes() == BYTES
    assert [request.first_index for request in director.requests] == [0, 2, 2, 3]


async def test_download_that_stands_still_goes_on_in_another_stream(client, director, tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "STALLED_AFTER_SECONDS", 0.3)
    director.script = [("stall", 3)]

    await client.download_model(ENGAGEMENT, 1, tmp_path / "model")

    assert (tmp_path / "model").read_bytes() == BYTES
    assert [request.first_index for request in director.requests] == [0, 3]


@pytest.mark.parametrize("how", ["damage", "forge"])
async def test_damaged_download_begins_anew(client, director, tmp_path, how):
    director.script = [(how, 2), (how, 4)]

    await client.download_model(ENGAGEMENT, 1, tmp_path / "model")

    assert (tmp_path / "model").read_bytes() == BYTES
    assert [request.first_index for request in director.requests] == [0, 0, 0]


async def test_download_that_is_always_damaged_is_given_up_and_leaves_nothing(client, director, tmp_path):
    director.script = [("damage", 1)] * 3

    with pytest.raises(Corrupt):
        await client.download_model(ENGAGEMENT, 1, tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


async def test_result_without_an_update_is_one_message(client, director):
    director.script = ["held already"]
    result = Contribute(7, "clinic", 2, 3, "check", samples=5, metrics={"accuracy": 0.75})

    await client.contribute(result, None)

    sent = director.requests[0]
    assert (sent.experiment_id, sent.attempt, sent.round, sent.task, sent.samples) == (7, 2, 3, "check", 5)
    assert dict(sent.metrics) == {"accuracy": 0.75}
    assert not sent.HasField("update")
    assert not sent.HasField("manifest")


async def test_update_is_sent_in_the_chunks_that_the_director_wants(client, director, update):
    await client.contribute(RESULT, update)

    assert b"".join(director.received[index] for index in sorted(director.received)) == BYTES
    assert director.requests[0].update == chunks.blob_info(len(BYTES), DIGEST)
    assert chunks.manifest_of(director.requests[0].manifest) == MANIFEST


async def test_update_that_the_director_holds_already_is_not_sent(client, director, update):
    director.script = ["held already"]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == []


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_upload_that_broke_off_goes_on_at_the_first_missing_chunk(client, director, update, how):
    director.script = [(how, 2), (how, 4)]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == [0, 1, 2, 2, 3, 4, 4]
    assert b"".join(director.received[index] for index in sorted(director.received)) == BYTES


async def test_chunks_wanted_once_more_in_the_same_call_are_sent_once_more(client, director, update):
    director.script = [("lose", 3)]

    await client.contribute(RESULT, update)

    assert director.chunks_seen == [0, 1, 2, 3, 4, 3, 4]


async def test_update_refused_at_its_end_is_raised_and_not_sent_again(client, director, update):
    director.script = [("refuse", 4)]

    with pytest.raises(TensorMismatch, match="'w' holds NaN"):
        await client.contribute(RESULT, update)

    assert len(director.requests) == 1


async def test_late_result_is_told_so(client, director, update):
    director.script = [RoundClosed("round 3 is closed")]

    with pytest.raises(RoundClosed):
        await client.contribute(RESULT, update)


async def test_heartbeats_go_on_and_register_again_when_the_director_forgot_the_envoy(client, director):
    director.script = [None, None, EnvoyNotFound("who?"), Unavailable("away"), None, InvalidArgument("no"), None]

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Heartbeats(client, SHARD).beat(), 2)

    assert director.registrations == 2  # the first one met an outage
    assert len(director.requests) > 7


async def test_heartbeat_tells_an_envoy_that_the_director_wants_it_elsewhere(client, director):
    heartbeats = Heartbeats(client, SHARD)
    director.engagement = ENGAGEMENT
    beating = asyncio.create_task(heartbeats.beat())

    with heartbeats.serving(ENGAGEMENT) as service:
        await asyncio.sleep(0.3)
        was_over = service.is_over.is_set()
        director.engagement = Engagement(7, "digits", 3)
        await asyncio.wait_for(service.is_over.wait(), 5)
    beating.cancel()

    assert not was_over
    assert service.wanted == Engagement(7, "digits", 3)
    assert all(request.is_experiment_running for request in director.requests[1:])


def test_pauses_grow_to_five_seconds_and_are_jittered_in_full(monkeypatch):
    monkeypatch.setattr(connections, "LONGEST_PAUSE_SECONDS", 5.0)
    waits = pauses(SeededEntropy(1))
    drawn = [next(waits) for _ in range(2000)]

    ceilings = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(drawn, ceilings, strict=False))
    assert 4.9 < max(drawn) <= 5
    assert min(drawn[10:]) < 0.1


async def test_polls_that_are_answered_empty_at_once_do_not_become_a_busy_loop():
    asked = 0

    async def poll() -> str | None:
        nonlocal asked
        asked += 1
        return None

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(until_answered(poll, SeededEntropy(1)), 1)

    assert 3 < asked < 50
