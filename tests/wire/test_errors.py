"""Every error of ours crosses the wire as itself; a defect is answered without details."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from director import errors
from director.errors import DirectorError
from director.v1 import experiments_pb2, federation_pb2
from director.wire.guard import ErrorInterceptor
from director.wire.statuses import LONGEST_TEXT, code_of, from_rpc_error
from tests.tables import changes


def family(kind: type[DirectorError]) -> list[type[DirectorError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in family(below))]


class Failing:
    """Methods of all four kinds, which raise what they are told to."""

    def __init__(self) -> None:
        self.error: BaseException = AssertionError("told nothing")

    async def once(self, _request: Any, _context: Any) -> bytes:
        raise self.error

    async def after_an_answer(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b"an answer"
        raise self.error

    async def ends_itself(self, _request: Any, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "in its own words")
        raise AssertionError("it goes on")


@pytest.fixture
def failing() -> Failing:
    return Failing()


@pytest.fixture
async def channel(failing) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=[("grpc.so_reuseport", 0)])
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(failing.once),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(failing.after_an_answer),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(failing.once),
        "StreamStream": grpc.stream_stream_rpc_method_handler(failing.after_an_answer),
        "EndsItself": grpc.unary_unary_rpc_method_handler(failing.ends_itself),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Failing", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


async def call(channel: grpc.aio.Channel, kind: str) -> grpc.aio.AioRpcError:
    """Return the error that a call of a kind ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        match kind:
            case "UnaryUnary" | "EndsItself":
                await channel.unary_unary(f"/test.Failing/{kind}")(b"")
            case "StreamUnary":
                await channel.stream_unary(f"/test.Failing/{kind}")(iter([b""]))
            case "UnaryStream":
                [each async for each in channel.unary_stream(f"/test.Failing/{kind}")(b"")]
            case "StreamStream":
                [each async for each in channel.stream_stream(f"/test.Failing/{kind}")(iter([b""]))]
    return caught.value


KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_is_raised_again_as_its_own_class_with_its_text(failing, channel, kind):
    for raised in family(DirectorError):
        failing.error = raised(f"{raised.__name__}: the text")

        error = await call(channel, kind)

        assert error.code() is code_of(raised)
        assert type(from_rpc_error(error)) is raised
        assert str(from_rpc_error(error)) == f"{raised.__name__}: the text"


async def test_client_in_another_language_reads_the_class_in_the_details(failing, channel):
    failing.error = errors.RoundClosed("late")

    error = await call(channel, "UnaryUnary")

    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("RoundClosed", "director")


@pytest.mark.parametrize("words", ["zu spät: ‘Größe’ 模型 🙂", "two\nlines, 50 %", "control \x01\x7f", ""])
async def test_text_in_any_script_arrives_as_it_was_written(failing, channel, words):
    failing.error = errors.InvalidPlan(words)

    error = await call(channel, "UnaryUnary")

    assert str(from_rpc_error(error)) == (words or "InvalidPlan")


async def test_long_text_is_cut_so_that_it_fits_a_header(failing, channel):
    failing.error = errors.InvalidArgument("ä" * 100_000)

    error = await call(channel, "UnaryUnary")

    assert type(from_rpc_error(error)) is errors.InvalidArgument
    assert str(from_rpc_error(error)).endswith("ä …")
    assert len(str(from_rpc_error(error)).encode()) <= LONGEST_TEXT


@pytest.mark.parametrize("kind", KINDS)
async def test_defect_is_logged_with_its_traceback_and_answered_without_a_word(failing, channel, kind, caplog):
    failing.error = ValueError("the password is swordfish")

    error = await call(channel, kind)

    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert list(error.trailing_metadata() or ()) == []
    assert type(from_rpc_error(error)) is DirectorError
    [record] = caplog.records
    assert record.getMessage() == f"/test.Failing/{kind} failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is failing.error


async def test_call_that_ended_itself_keeps_its_status(channel, caplog):
    error = await call(channel, "EndsItself")

    assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, "in its own words")
    assert caplog.records == []


async def test_error_of_ours_is_not_logged_as_a_defect(failing, channel, caplog):
    failing.error = errors.ExperimentNotFound("nowhere")

    await call(channel, "UnaryUnary")

    assert caplog.records == []


async def test_broken_database_says_nothing_of_its_statements(federation, clients, caplog):
    await changes.lose_experiments(federation.db)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await clients("researcher").experiments.ListExperiments(experiments_pb2.ListExperimentsRequest())

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "/director.v1.ExperimentService/ListExperiments failed" in caplog.text
    assert "Traceback" in caplog.text


async def test_garbage_and_unknown_methods_are_refused_and_harm_no_other_call(port, clients):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as garbage:
            await channel.unary_unary("/director.v1.ExperimentService/GetExperiment")(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await channel.unary_unary("/director.v1.ExperimentService/Guess")(b"")

    assert garbage.value.code() is not grpc.StatusCode.OK
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await clients("researcher").federation.GetFederation(federation_pb2.GetFederationRequest())
