"""A director on a real port that answers as a test tells it, and remembers what it was asked."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Self

import grpc

from director.effects import monotonic
from director.errors import DirectorError, Later
from director.v1 import experiments_pb2 as pb
from director.v1 import experiments_pb2_grpc, federation_pb2, federation_pb2_grpc
from director.wire.channels import MAX_MESSAGE_BYTES
from director.wire.statuses import to_rich_status

UID = "0123456789abcdef0123456789abcdef"
SERVICES = {
    "director.v1.ExperimentService": experiments_pb2_grpc.add_ExperimentServiceServicer_to_server,
    "director.v1.FederationService": federation_pb2_grpc.add_FederationServiceServicer_to_server,
}


class FakeDirector:
    """Answers each method with what `answers` holds for it.

    An answer is a message, an error, a list of messages and errors for a stream, or a function of the request that
    returns one of these. A list of answers in `turns` is used up first, one a call.
    """

    def __init__(self, **answers: Any) -> None:
        """Prepare answers, by the method's name."""
        self.answers = answers
        self.turns: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.asked_at: list[float] = []
        self._server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        )
        for add in SERVICES.values():
            add(self, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"127.0.0.1:{self._port}"

    def requests(self, method: str) -> list[Any]:
        """Return what a method was asked, in order."""
        return [request for name, request in self.asked if name == method]

    def __getattr__(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        if not method[0].isupper():
            raise AttributeError(method)
        streams = method.startswith(("Stream", "Download", "Submit"))

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self.asked.append((method, request))
            self.asked_at.append(monotonic())
            turns = self.turns.get(method)
            found = turns.pop(0) if turns else self.answers[method]
            found = found(request) if callable(found) else found
            return told(found, context) if streams else one(found, context)

        return answer


def one(found: Any, context: grpc.ServicerContext) -> Any:
    """Answer with a message, or end the call with an error."""
    if isinstance(found, DirectorError):
        context.abort_with_status(to_rich_status(found))
    return found


def told(found: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """Answer with each message of a stream in turn."""
    for each in [found] if isinstance(found, DirectorError) else found:
        yield one(each, context)


def later(kind: type[Later], seconds: float = 0.01) -> Later:
    """Return an error that asks to come back after so many seconds."""
    error = kind("not now")
    error.retry_after = timedelta(seconds=seconds)
    return error


def an_experiment(**more: Any) -> pb.Experiment:
    """Return an experiment's message."""
    return pb.Experiment(**{"uid": UID, "name": "digits", "state": pb.Experiment.IN_PROGRESS, "rounds_total": 3} | more)


def an_envoy(name: str) -> federation_pb2.Envoy:
    """Return an envoy's message."""
    return federation_pb2.Envoy(shard={"envoy": name, "samples": 10}, online=True)
