"""Errors survive the way over the wire, whichever gRPC carries them."""

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from director import errors
from director.errors import DirectorError
from director.wire.statuses import DETAILS_KEY, LONGEST_TEXT, STATUSES, code_of, from_rpc_error, to_rich_status


def family(kind: type[DirectorError]) -> list[type[DirectorError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in family(below))]


def over_the_wire(status: grpc.Status) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailers, status.details)


def plain(code: grpc.StatusCode, text: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)


@pytest.mark.parametrize("kind", family(DirectorError), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_its_own_class_with_its_text(kind):
    status = to_rich_status(kind("tensor 'w' is F64, the model's is F32"))

    error = from_rpc_error(over_the_wire(status))

    assert type(error) is kind
    assert str(error) == "tensor 'w' is F64, the model's is F32"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidPlan, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ModelNotFound, grpc.StatusCode.NOT_FOUND),
        (errors.RoundClosed, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.StaleAttempt, grpc.StatusCode.ABORTED),
        (errors.MessageTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Corrupt, grpc.StatusCode.DATA_LOSS),
        (DirectorError, grpc.StatusCode.INTERNAL),
    ],
)
def test_class_has_the_code_of_the_nearest_class_in_the_table(kind, code):
    assert code_of(kind) is code
    assert to_rich_status(kind("text")).code is code


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
def test_call_that_was_cut_off_is_unavailable(code):
    assert type(from_rpc_error(plain(code, "connection reset"))) is errors.Unavailable


def test_status_without_details_is_told_by_its_code():
    error = from_rpc_error(plain(grpc.StatusCode.NOT_FOUND, "no such thing"))

    assert type(error) is errors.NotFound
    assert str(error) == "no such thing"


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN])
def test_code_that_stands_for_no_class_is_a_plain_director_error_that_names_it(code):
    error = from_rpc_error(plain(code))

    assert type(error) is DirectorError
    assert code.name in str(error)


def test_reason_of_another_domain_or_of_a_newer_director_is_passed_over():
    details = []
    for reason, domain in (("RoundClosed", "example.org"), ("NotYetInvented", "director")):
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
        details.append(packed)
    status = rpc_status.to_status(status_pb2.Status(code=9, message="text", details=details))

    assert type(from_rpc_error(over_the_wire(status))) is errors.PreconditionFailed


def test_details_that_cannot_be_read_leave_the_code_to_tell():
    trailers = grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), trailers, "text")

    assert type(from_rpc_error(error)) is errors.Conflict


def test_long_text_is_clipped_between_two_characters_so_that_it_fits_into_headers():
    status = to_rich_status(errors.InvalidPlan("ä" * 10_000))

    assert len(status.details.encode()) <= LONGEST_TEXT
    assert status.details.startswith("ää")
    assert status.details.endswith(" …")


def test_table_knows_every_branch_of_the_error_tree():
    ours = {kind for kind in DirectorError.__subclasses__() if kind.__module__ == "director.errors"}

    assert ours <= set(STATUSES)
