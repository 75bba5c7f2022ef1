"""Errors survive the way over the wire, whichever gRPC carries them."""

from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from director import errors
from director.errors import DirectorError
from director.wire.statuses import (
    DETAILS_KEY,
    LONGEST_TEXT,
    MAX_DELAY,
    STATUSES,
    code_of,
    from_rpc_error,
    to_rich_status,
)

DELAYS = error_details_pb2.RetryInfo.DESCRIPTOR.full_name


def family(kind: type[DirectorError]) -> list[type[DirectorError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in family(below))]


PERMANENT = [kind for kind in family(DirectorError) if not issubclass(kind, errors.Later)]


def over_the_wire(status: grpc.Status) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailers, status.details)


def status_with(code: grpc.StatusCode, *details) -> grpc.Status:
    """A status with these details, as a proxy or another version of the director might send it."""
    packed = [any_pb2.Any() for _ in details]
    for wrapped, detail in zip(packed, details, strict=True):
        wrapped.Pack(detail)
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message="text", details=packed))


def after(seconds: int, nanos: int = 0) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


def delays_in(status: grpc.Status) -> list[timedelta]:
    """The delays that a status names."""
    [value] = [value for key, value in status.trailing_metadata if key == DETAILS_KEY]
    details = [each for each in status_pb2.Status.FromString(value).details if each.type_url.endswith(DELAYS)]
    return [error_details_pb2.RetryInfo.FromString(each.value).retry_delay.ToTimedelta() for each in details]


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
        (errors.EnvoyRetired, grpc.StatusCode.PERMISSION_DENIED),
        (errors.StaleSession, grpc.StatusCode.ABORTED),
        (errors.TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DiskFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
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
    details = [
        error_details_pb2.ErrorInfo(reason=reason, domain=domain)
        for reason, domain in (("RoundClosed", "example.org"), ("NotYetInvented", "director"))
    ]
    status = status_with(grpc.StatusCode.FAILED_PRECONDITION, *details)

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


# Later


@pytest.mark.parametrize("kind", family(errors.Later), ids=lambda kind: kind.__name__)
def test_error_that_means_later_says_when(kind):
    refusal = kind("come back")
    refusal.retry_after = timedelta(milliseconds=2500)

    status = to_rich_status(refusal)

    assert delays_in(status) == [timedelta(milliseconds=2500)]
    assert from_rpc_error(over_the_wire(status)).retry_after == timedelta(milliseconds=2500)


@pytest.mark.parametrize("kind", PERMANENT, ids=lambda kind: kind.__name__)
def test_error_that_stays_carries_no_delay(kind):
    assert delays_in(to_rich_status(kind("no"))) == []


def test_each_kind_of_later_has_a_delay_of_its_own():
    assert delays_in(to_rich_status(errors.DiskFull())) == [timedelta(seconds=5)]
    assert delays_in(to_rich_status(errors.Overloaded())) == [timedelta(seconds=1)]


def test_limit_of_grpc_itself_is_too_large():
    error = plain(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")

    assert type(from_rpc_error(error)) is errors.TooLarge


def test_limit_that_says_when_to_come_back_is_overloaded():
    error = from_rpc_error(over_the_wire(status_with(grpc.StatusCode.RESOURCE_EXHAUSTED, after(3))))

    assert type(error) is errors.Overloaded
    assert error.retry_after == timedelta(seconds=3)


def test_delay_of_a_proxy_is_obeyed_too():
    error = from_rpc_error(over_the_wire(status_with(grpc.StatusCode.UNAVAILABLE, after(3))))

    assert type(error) is errors.Unavailable
    assert error.retry_after == timedelta(seconds=3)


def test_error_that_stays_ignores_a_delay():
    error = from_rpc_error(over_the_wire(status_with(grpc.StatusCode.NOT_FOUND, after(3))))

    assert type(error) is errors.NotFound


@pytest.mark.parametrize(
    ("sent", "obeyed"),
    [
        (after(0, 500_000_000), timedelta(seconds=0.5)),
        (after(299), timedelta(seconds=299)),
        (after(3600), MAX_DELAY),
        (after(2**63 - 1), MAX_DELAY),
        (after(-5), timedelta(0)),
        (after(0), timedelta(0)),
    ],
    ids=["half a second", "299 s", "an hour", "for ever", "in the past", "at once"],
)
def test_delay_is_bounded(sent, obeyed):
    error = from_rpc_error(over_the_wire(status_with(grpc.StatusCode.UNAVAILABLE, sent)))

    assert error.retry_after == obeyed


def test_delay_of_one_error_is_not_that_of_its_class():
    from_rpc_error(over_the_wire(status_with(grpc.StatusCode.UNAVAILABLE, after(77))))

    assert errors.Unavailable.retry_after == timedelta(seconds=0.2)


def test_call_that_was_cut_off_leaves_the_delay_to_the_caller():
    error = from_rpc_error(plain(grpc.StatusCode.UNAVAILABLE, "connection refused"))

    assert type(error) is errors.Unavailable
    assert error.retry_after == timedelta(0)
