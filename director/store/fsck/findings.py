"""What fsck checks, by name, and what it finds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Integer, bindparam

from director.store.engine.database import Transaction
from director.store.experiment_rows import ExperimentRow


class Check(StrEnum):
    """An invariant, by the name that its findings carry."""

    BLOB_OWNER = "blob_owner"
    """A taken blob has one owner row, any other blob none, and every reference leads to a taken one."""
    BLOB_DIGEST = "blob_digest"
    """A row and the blob that it owns agree about digest and length."""
    BLOB_CHUNKS = "blob_chunks"
    """The chunks of a blob that is all there are numbered from 0 without a gap, and as long as they should be."""
    BLOB_BYTES = "blob_bytes"
    """The bytes of a blob that is all there have its digest."""
    METRIC_STREAM = "metric_stream"
    """Metrics are numbered from 1 without a gap up to their experiment's counter."""
    EVENT_STREAM = "event_stream"
    """Events are numbered from 1 without a gap up to the counter of their experiment, or of the federation."""
    ENDED = "ended"
    """An experiment that has ended has no director and no open round; one that is pending has no round at all."""
    ENDED_ONCE = "ended_once"
    """An experiment that has ended has one event that says so, any other none."""
    COLLABORATOR_STATE = "collaborator_state"
    """Collaborators are in a state that goes with their experiment's: none is engaged once it has ended."""
    ENGAGED_ONCE = "engaged_once"
    """Nobody serves two experiments."""
    MODELS = "models"
    """There is a model for each number from 0 to the last one, which is the result of the last closed train round."""
    BEST_MODEL = "best_model"
    """The best model is the one with the best score by the plan's mode, the earliest on ties."""
    BYTES_KEPT = "bytes_kept"
    """The archive and the first, best and last models are there until the experiment is removed, and then nothing."""
    ROUND_NUMBERS = "round_numbers"
    """Rounds are numbered from 1 without a gap up to the experiment's."""
    ROUND_STATE = "round_state"
    """Only the newest round may not be closed, only a collecting one still asks, and the final one follows the last."""
    TALLY = "tally"
    """A round's numbers (asked, counted, missed, failed, samples) are those of its rows."""
    COUNTED_COMPLETE = "counted_complete"
    """Who counts has a contribution to each task."""
    CONTRIBUTION_ASKED = "contribution_asked"
    """A contribution is to a task that its envoy was asked in that round."""
    CONTRIBUTION_ONCE = "contribution_once"
    """Each contribution has one event, and each of its metrics is recorded once; no other contribution is recorded."""
    UPDATE_BYTES = "update_bytes"
    """An open round holds the bytes of its updates, one that has ended holds none."""
    AVERAGE = "average"
    """A closed round's averages are those of the contributions that count, weighted by their samples."""
    SCORE = "score"
    """A closed round's score is the average that its plan names, and the score of the model that it began from."""
    SESSIONS = "sessions"
    """An envoy has one open session at most, and none that overlaps another."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that contradicts an invariant."""

    check: Check
    text: str


@dataclass(frozen=True, slots=True)
class FindingsPage:
    """What one snapshot showed, and where the next page begins; None after the last."""

    findings: list[Finding]
    after: Any = None


A_PAGE = bindparam("page", type_=Integer)
"""How many rows a page has."""
Part = Callable[[Transaction, Any], Awaitable[FindingsPage]]
"""Checks a page behind a cursor, None at first, in one snapshot."""
ExperimentPart = Callable[[Transaction, ExperimentRow, Any], Awaitable[FindingsPage]]
"""Checks a page of one experiment, whose row was read in the same snapshot."""


def subject(experiment: ExperimentRow) -> str:
    """Name an experiment in a finding; others may have had the same name before."""
    return f"experiment {experiment.id} ({experiment.name!r})"
