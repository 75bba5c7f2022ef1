"""A director on a real port that goes away, cuts streams and damages bytes on demand."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count

import grpc
import grpc.aio
import numpy as np

from director.domain.content import Content
from director.domain.envoy import Engagement, Pulse, Session, Shard
from director.domain.tensors import Manifest, payload_pieces
from director.domain.work import Answer, Idle
from director.envoy.connections import Connection
from director.envoy.director_client import DirectorClient
from director.errors import DirectorError, StaleSession, TensorMismatch
from director.v1 import common_pb2, envoys_pb2, envoys_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from director.wire import codec
from director.wire.chunks import manifest_chunks
from director.wire.statuses import to_rich_status

CHUNK = 1000
PERIOD = timedelta(seconds=0.05)
UID = "0123456789abcdef" * 2
ENGAGEMENT = Engagement(UID, "digits", 2)
SHARD = Shard("clinic", "scans", 12, (8, 8), (10,))
MODEL = {"w": np.random.default_rng(3).random((9, 120), np.float32), "steps": np.array(7, np.int32)}
MANIFEST = Manifest.of(MODEL)
PAYLOAD = b"".join(payload_pieces(MANIFEST, MODEL))
CHUNKS = -(-len(PAYLOAD) // CHUNK)


def content_of(data: bytes) -> Content:
    return Content(len(data), hashlib.sha256(data).hexdigest())


class ScriptedDirector(envoys_pb2_grpc.EnvoyServiceServicer, rounds_pb2_grpc.RoundServiceServicer):
    """A director that first does what its script says, one item a call, and then what it should.

    Calls that the envoy repeats by itself, in the background, have scripts of their own.
    """

    def __init__(self) -> None:
        self.script: list[object] = []
        self.registrations: list[object] = []
        self.heartbeats: list[object] = []
        self.waits: list[object] = []
        self.requests: list[object] = []
        self.registered: list[envoys_pb2.RegisterShardRequest] = []
        self.beats: list[envoys_pb2.HeartbeatRequest] = []
        self.left: list[str] = []
        self.failures: list[envoys_pb2.ReportFailureRequest] = []
        self.contributions: list[rounds_pb2.Contribution] = []
        self.received: dict[int, bytes] = {}
        self.chunks_seen: list[int] = []
        self.engagement: Engagement | None = None
        self.answers: list[Answer] = []
        self.archive = PAYLOAD
        self.models: dict[int, bytes] = {}
        self.session = ""
        self.session_period = PERIOD
        self.leaving_takes = 0.0
        self._ids = count(1)

    async def _scripted(self, script: list[object], request, context) -> object:
        self.requests.append(request)
        step = script.pop(0) if script else None
        if isinstance(step, DirectorError):
            await self._abort(context, step)
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, "scripted")
        return step

    async def _abort(self, context, error: DirectorError) -> None:
        status = to_rich_status(error)
        await context.abort(status.code, status.details, status.trailing_metadata)

    async def _in_session(self, request, context) -> None:
        if request.session_id != self.session:
            await self._abort(context, StaleSession(f"session {request.session_id} has ended"))

    async def RegisterShard(self, request, context):
        self.registered.append(request)
        await self._scripted(self.registrations, request, context)
        self.session = f"session-{next(self._ids)}"
        return codec.write_session(Session(self.session, self.session_period))

    async def Heartbeat(self, request, context):
        self.beats.append(request)
        await self._scripted(self.heartbeats, request, context)
        await self._in_session(request, context)
        return codec.write_pulse(Pulse(PERIOD, self.engagement))

    async def Leave(self, request, context):
        await asyncio.sleep(self.leaving_takes)
        self.left.append(request.session_id)
        return envoys_pb2.LeaveResponse()

    async def WaitExperiment(self, request, context):
        await self._scripted(self.waits, request, context)
        await self._in_session(request, context)
        if self.engagement is None:
            await asyncio.sleep(0.05)
        return envoys_pb2.WaitExperimentResponse(engagement=codec.write_engagement(self.engagement))

    async def ReportFailure(self, request, context):
        await self._scripted(self.script, request, context)
        self.failures.append(request)
        self.engagement = None
        return envoys_pb2.ReportFailureResponse()

    async def PollTasks(self, request, context):
        await self._scripted(self.script, request, context)
        return codec.write_answer(self.answers.pop(0) if self.answers else Idle())

    async def DownloadArchive(self, request, context):
        step = await self._scripted(self.script, request, context)
        content = codec.write_content(content_of(self.archive))
        yield common_pb2.DownloadPart(header=common_pb2.DownloadHeader(blob=content, chunk_bytes=CHUNK))
        async for part in self._chunks(self.archive, request.first_index, step, context):
            yield part

    async def DownloadBaseModel(self, request, context):
        step = await self._scripted(self.script, request, context)
        payload = self.models.get(request.number, PAYLOAD)
        header = common_pb2.DownloadHeader(
            blob=codec.write_content(content_of(payload)),
            chunk_bytes=CHUNK,
            manifest=codec.write_content(MANIFEST.content),
            model_number=request.number,
        )
        yield common_pb2.DownloadPart(header=header)
        if request.held_manifest_sha256 != MANIFEST.content.sha256:
            for index, piece in enumerate(manifest_chunks(MANIFEST, 50)):
                if step == ("cut manifest", index):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                yield common_pb2.DownloadPart(manifest_chunk=piece)
        async for part in self._chunks(payload, request.first_index, step, context):
            yield part

    async def _chunks(self, data: bytes, first_index: int, step, context):
        for index in range(first_index, -(-len(data) // CHUNK)):
            piece = common_pb2.Chunk(index=index, data=data[index * CHUNK : (index + 1) * CHUNK])
            match step:
                case ("cut", at) if index == at:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                case ("end", at) if index == at:
                    return
                case ("stall", at) if index == at:
                    await asyncio.sleep(60)
                case ("damage", at) if index == at:
                    piece.data = bytes([piece.data[0] ^ 1]) + piece.data[1:]
            yield common_pb2.DownloadPart(chunk=piece)

    async def SubmitContribution(self, request_iterator, context):
        requests = aiter(request_iterator)
        contribution = (await anext(requests)).contribution
        step = await self._scripted(self.script, contribution, context)
        total = -(-contribution.update.size_bytes // CHUNK)
        self.contributions.append(contribution)
        while step != "held already" and len(self.received) < total:
            missing = next(index for index in range(total) if index not in self.received)
            wanted = common_pb2.UploadWanted(first_index=missing, chunk_bytes=CHUNK)
            yield rounds_pb2.SubmitContributionResponse(wanted=wanted)
            for _ in range(missing, total):
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
                self.received[chunk.index] = chunk.data
        yield rounds_pb2.SubmitContributionResponse(accepted=rounds_pb2.ContributionAccepted())


@asynccontextmanager
async def serving(director: ScriptedDirector, port: int = 0) -> AsyncIterator[int]:
    """Serve on loopback; yield the port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    envoys_pb2_grpc.add_EnvoyServiceServicer_to_server(director, server)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(director, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def calling(*ports: int) -> AsyncIterator[DirectorClient]:
    """Yield a client of directors on these ports."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with Connection(addresses, tls=None, client_id="clinic") as connection:
        yield DirectorClient(connection, "clinic")
