"""One experiment, as its researcher holds it."""

import time
from collections.abc import Iterator
from pathlib import Path

from director.client import following, model_downloads
from director.client.directors import Directors
from director.domain.experiment import Collaborator, Experiment
from director.domain.history import Cursor, Event, Metric
from director.domain.types import Array, ExperimentState
from director.effects import monotonic
from director.errors import DirectorError, ExperimentNotFound, PreconditionFailed
from director.v1 import experiments_pb2 as pb
from director.wire import codec

FIRST_LOOK = 0.05
LAST_LOOK = 1.0
"""Seconds between two looks at an experiment that is waited for, at first and at last."""


class ExperimentHandle:
    """An experiment of the federation. What it was when last looked at is `info`; `refresh` looks again.

    A handle holds the experiment's uid. So it never reaches another experiment, which was given the name of one that
    was removed.
    """

    def __init__(self, directors: Directors, info: Experiment) -> None:
        """Hold an experiment; `Federation` makes these."""
        self._directors = directors
        self.info = info

    def __repr__(self) -> str:
        """Show the name, and the state when last looked at."""
        return f"<experiment {self.name!r}: {self.state}, round {self.info.round} of {self.info.rounds_total}>"

    @property
    def uid(self) -> str:
        """Its uid, which no other experiment ever has."""
        return self.info.uid

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def state(self) -> ExperimentState:
        """Its state when last looked at."""
        return self.info.state

    def refresh(self) -> Experiment:
        """Look at the experiment again.

        Raises:
            ExperimentNotFound: it is absent, or not yours.
        """
        return self._saw(self._get())

    def wait(self, timeout: float | None = None) -> Experiment:
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

    def collaborators(self) -> Iterator[Collaborator]:
        """Yield the collaborators by name, page by page; of one that failed, why."""
        request = pb.ListCollaboratorsRequest(experiment_uid=self.uid)
        for page in self._directors.pages(lambda each: each.experiments.ListCollaborators, request):
            yield from map(codec.read_collaborator, page.collaborators)

    def metrics(self, *, follow: bool = False, after: Cursor | None = None) -> Iterator[Metric]:
        """Yield the metrics behind a cursor, complete and in order; with `follow`, until the experiment has ended.

        A director that restarts, or is replaced by another one, interrupts nothing: reading goes on at the cursor.

        Raises:
            Conflict: the database was restored since, and the cursor means nothing any more; start without one.
            InvalidArgument: the cursor is of another stream.
        """
        return following.metrics(self._directors, self.uid, after=after, follow=follow)

    def events(self, *, follow: bool = False, after: Cursor | None = None) -> Iterator[Event]:
        """Yield what happened behind a cursor, as `metrics` does."""
        return following.events(self._directors, self.uid, after=after, follow=follow)

    def model(self, which: str | int = "best") -> dict[str, Array]:
        """Return a model's arrays: "best", "last", "initial", or the model of a round.

        Raises:
            ModelNotReady: no round has closed yet.
            ModelNotFound: there is no such model, or it is kept no longer.
        """
        return model_downloads.fetch(self._directors, self.uid, which)

    def download_model(self, which: str | int, path: Path | str) -> int:
        """Write a model to a `.safetensors` file, which appears whole and verified; return the model's number.

        Raises:
            ModelNotReady, ModelNotFound: as of `model`.
            InvalidArgument: the file cannot be written.
        """
        return model_downloads.save(self._directors, self.uid, which, Path(path))

    def cancel(self, reason: str = "") -> Experiment:
        """Cancel the experiment; one that is cancelled already stays so.

        Raises:
            PreconditionFailed: it has ended otherwise.
        """
        request = pb.CancelExperimentRequest(experiment_uid=self.uid, reason=reason)
        return self._saw(self._directors.call(lambda each: each.experiments.CancelExperiment, request))

    def remove(self) -> None:
        """Cancel the experiment if it runs, and drop its archive, models and updates; its history stays."""

        def settle(refusal: DirectorError) -> pb.RemoveExperimentResponse:
            if isinstance(refusal, ExperimentNotFound):
                return pb.RemoveExperimentResponse()
            raise refusal

        request = pb.RemoveExperimentRequest(experiment_uid=self.uid)
        self._directors.call(lambda each: each.experiments.RemoveExperiment, request, settle=settle)

    def approve(self, reason: str = "") -> Experiment:
        """Let an experiment start that waits for a manual review.

        Raises:
            Forbidden: you are not an operator.
            PreconditionFailed: it waits for no review.
        """
        return self._review(pb.ReviewExperimentRequest.APPROVE, reason)

    def reject(self, reason: str = "") -> Experiment:
        """End an experiment that waits for a manual review, as `approve` would start it."""
        return self._review(pb.ReviewExperimentRequest.REJECT, reason)

    def _get(self) -> pb.Experiment:
        request = pb.GetExperimentRequest(experiment_uid=self.uid)
        return self._directors.call(lambda each: each.experiments.GetExperiment, request)

    def _saw(self, message: pb.Experiment) -> Experiment:
        self.info = codec.read_experiment(message)
        return self.info

    def _review(self, decision: pb.ReviewExperimentRequest.Decision.ValueType, reason: str) -> Experiment:
        def settle(refusal: DirectorError) -> pb.Experiment:
            found = self._get()
            rejected = found.state == pb.Experiment.REJECTED
            if isinstance(refusal, PreconditionFailed) and rejected == (decision == pb.ReviewExperimentRequest.REJECT):
                return found
            raise refusal

        request = pb.ReviewExperimentRequest(experiment_uid=self.uid, decision=decision, reason=reason)
        return self._saw(self._directors.call(lambda each: each.experiments.ReviewExperiment, request, settle=settle))
