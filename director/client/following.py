"""Streams of metrics and events: read from a cursor on, over as many connections as it takes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from director.client.directors import Directors, Services, Stream
from director.domain.history import Cursor, Event, Metric
from director.v1 import common_pb2, experiments_pb2, federation_pb2
from director.wire import codec

Request = (
    experiments_pb2.StreamMetricsRequest
    | experiments_pb2.StreamEventsRequest
    | federation_pb2.StreamFederationEventsRequest
)


class RowMessage(Protocol):
    """A row of a stream, as it crosses the wire."""

    @property
    def cursor(self) -> common_pb2.Cursor:
        """Its place."""
        ...


Batch = TypeVar("Batch")
Row = TypeVar("Row", bound=RowMessage)


def metrics(directors: Directors, uid: str, *, after: Cursor | None, follow: bool) -> Iterator[Metric]:
    """Yield the metrics of an experiment behind a cursor."""
    request = experiments_pb2.StreamMetricsRequest(experiment_uid=uid, after=written(after), follow=follow)
    found = rows(
        directors, request, lambda services: services.experiments.StreamMetrics(request), lambda batch: batch.metrics
    )
    return map(codec.read_metric, found)


def events(directors: Directors, uid: str, *, after: Cursor | None, follow: bool) -> Iterator[Event]:
    """Yield the events of an experiment behind a cursor."""
    request = experiments_pb2.StreamEventsRequest(experiment_uid=uid, after=written(after), follow=follow)
    found = rows(
        directors, request, lambda services: services.experiments.StreamEvents(request), lambda batch: batch.events
    )
    return map(codec.read_event, found)


def federation_events(directors: Directors, *, after: Cursor | None, follow: bool) -> Iterator[Event]:
    """Yield the federation's own events behind a cursor."""
    request = federation_pb2.StreamFederationEventsRequest(after=written(after), follow=follow)
    found = rows(
        directors,
        request,
        lambda services: services.federation.StreamFederationEvents(request),
        lambda batch: batch.events,
    )
    return map(codec.read_event, found)


def written(after: Cursor | None) -> common_pb2.Cursor | None:
    """Write a cursor; None stays absent and reads from the beginning."""
    return None if after is None else codec.write_cursor(after)


def rows(
    directors: Directors,
    request: Request,
    open_stream: Callable[[Services], Stream[Batch]],
    rows_of: Callable[[Batch], Sequence[Row]],
) -> Iterator[Row]:
    """Yield the rows of a stream's batches; the request moves along, so that a new stream goes on behind them."""
    for batch in directors.stream(open_stream):
        for row in rows_of(batch):
            request.after.CopyFrom(row.cursor)
            yield row
