"""One experiment, as its researcher holds it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from director.client import model_downloads
from director.client.answers import Event, ExperimentInfo, Metric, event_of, experiment_of, metric_of
from director.client.directors import CALL_SECONDS, Directors, Stream
from director.domain.types import Array, ExperimentState
from director.effects import monotonic
from director.errors import DirectorError, ExperimentNotFound, PreconditionFailed
from director.v1 import experiments_pb2 as pb
from director.v1.experiments_pb2_grpc import ExperimentServiceStub

FIRST_LOOK = 0.05
LAST_LOOK = 1.0
"""Seconds between two looks at an experiment that is waited for, at first and at last."""

Decision = pb.ReviewRequest


Cursor = pb.StreamMetricsRequest | pb.StreamEventsRequest
Message = TypeVar("Message", pb.Metric, pb.Event)
Open = Callable[[ExperimentServiceStub], Stream[Message]]


class ExperimentHandle:
    """An experiment of the federation. What it was when last looked at is `info`; `refresh` looks again."""

    def __init__(self, directors: Directors, info: ExperimentInfo) -> None:
        """Hold an experiment; `Federation` makes these."""
        self._directors = directors
        self.info = info

    def __repr__(self) -> str:
        """Show the name, and the state when last looked at."""
        return f"<experiment {self.name!r}: {self.state}, round {self.info.round} of {self.info.rounds_total}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def state(self) -> ExperimentState:
        """Its state when last looked at."""
        return self.info.state

    def refresh(self) -> ExperimentInfo:
        """Look at the experiment again.

        Raises:
            ExperimentNotFound: it is absent, or not yours.
        """
        return self._saw(self._directors.call(lambda stub: stub.Get(self._get, timeout=CALL_SECONDS)))

    def wait(self, timeout: float | None = None) -> ExperimentInfo:
        """Wait until the experiment has ended, well or not; `info.state` and `info.reason` tell.

        Units: timeout in seconds.

        Raises:
            TimeoutError: it has not ended in time.
        """
        until = None if timeout is None else monotonic() + timeout
        pause = FIRST_LOOK
        while not self.refresh().state.terminal:
            remaining = LAST_LOOK if until is None else until - monotonic()
            if remaining <= 0:
                raise TimeoutError(f"experiment {self.name!r} is still {self.state}")
            time.sleep(min(pause, remaining))
            pause = min(1.5 * pause, LAST_LOOK)
        return self.info

    def metrics(self, *, follow: bool = False, after: int = 0, epoch: str = "") -> Iterator[Metric]:
        """Yield the metrics after a cursor, complete and in order; with `follow`, until the experiment has ended.

        A director that restarts, or is replaced by another one, interrupts nothing: reading goes on at the cursor.

        Raises:
            Conflict: the database was restored since and the cursor is worth nothing; start from 0.
        """
        request = pb.StreamMetricsRequest(name=self.name, after_seq=after, epoch=epoch, follow=follow)
        return map(metric_of, self._stream(lambda stub: stub.StreamMetrics(request), request))

    def events(self, *, follow: bool = False, after: int = 0, epoch: str = "") -> Iterator[Event]:
        """Yield what happened after a cursor, as `metrics` does."""
        request = pb.StreamEventsRequest(name=self.name, after_seq=after, epoch=epoch, follow=follow)
        return map(event_of, self._stream(lambda stub: stub.StreamEvents(request), request))

    def model(self, which: str | int = "best") -> dict[str, Array]:
        """Return a model's arrays: "best", "last", "initial", or the model of a round.

        Raises:
            ModelNotReady: no round has closed yet.
            ModelNotFound: there is no such model, or it is kept no longer.
        """
        return model_downloads.fetch(self._directors, self.name, which)

    def download_model(self, which: str | int, path: Path | str) -> int:
        """Write a model to a `.safetensors` file, which appears whole and verified; return the model's number.

        Raises:
            ModelNotReady, ModelNotFound: as of `model`.
            InvalidArgument: the file cannot be written.
        """
        return model_downloads.save(self._directors, self.name, which, Path(path))

    def cancel(self, reason: str = "") -> ExperimentInfo:
        """Cancel the experiment; one that is cancelled already stays so.

        Raises:
            PreconditionFailed: it has ended otherwise.
        """
        request = pb.CancelExperimentRequest(name=self.name, reason=reason)
        return self._saw(self._directors.call(lambda stub: stub.Cancel(request, timeout=CALL_SECONDS)))

    def remove(self) -> None:
        """Cancel the experiment if it runs, and drop its archive, models and updates; its history stays."""

        def settle(refusal: DirectorError) -> pb.RemoveExperimentResponse:
            if isinstance(refusal, ExperimentNotFound):
                return pb.RemoveExperimentResponse()
            raise refusal

        request = pb.RemoveExperimentRequest(name=self.name)
        self._directors.call(lambda stub: stub.Remove(request, timeout=CALL_SECONDS), settle=settle)

    def approve(self, reason: str = "") -> ExperimentInfo:
        """Let an experiment start that waits for a manual review.

        Raises:
            Forbidden: you are not an operator.
            PreconditionFailed: it waits for no review.
        """
        return self._review(Decision.DECISION_APPROVE, reason)

    def reject(self, reason: str = "") -> ExperimentInfo:
        """End an experiment that waits for a manual review, as `approve` would start it."""
        return self._review(Decision.DECISION_REJECT, reason)

    @property
    def _get(self) -> pb.GetExperimentRequest:
        return pb.GetExperimentRequest(name=self.name)

    def _saw(self, message: pb.Experiment) -> ExperimentInfo:
        self.info = experiment_of(message)
        return self.info

    def _review(self, decision: Decision.Decision.ValueType, reason: str) -> ExperimentInfo:
        def settle(refusal: DirectorError) -> pb.Experiment:
            found = self._directors.call(lambda stub: stub.Get(self._get, timeout=CALL_SECONDS))
            rejected = found.state == pb.EXPERIMENT_STATE_REJECTED
            if isinstance(refusal, PreconditionFailed) and rejected == (decision == Decision.DECISION_REJECT):
                return found
            raise refusal

        request = pb.ReviewRequest(name=self.name, decision=decision, reason=reason)
        return self._saw(self._directors.call(lambda stub: stub.Review(request, timeout=CALL_SECONDS), settle=settle))

    def _stream(self, open_stream: Open[Message], cursor: Cursor) -> Iterator[Message]:
        """Read a stream from a cursor on, which moves along; one without an epoch is taken to be of the present one."""
        if cursor.after_seq and not cursor.epoch:
            request = pb.GetFederationRequest()
            cursor.epoch = self._directors.call(lambda stub: stub.GetFederation(request, timeout=CALL_SECONDS)).epoch
        for message in self._directors.stream(open_stream):
            cursor.after_seq, cursor.epoch = message.seq, message.epoch
            yield message
