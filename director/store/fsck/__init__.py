"""Every invariant that rows can show, as parts that only read.

A part reads a page of what belongs together in one snapshot, so that a finding is never the difference between two
moments and a director may run meanwhile. Who calls them opens a short transaction for each page.
"""

from director.store.fsck import blob_checks, envoy_checks, experiment_checks, round_checks, stream_checks
from director.store.fsck.findings import Check, ExperimentPart, Finding, FindingsPage, Part

FEDERATION: tuple[Part, ...] = (
    stream_checks.federation_stream,
    envoy_checks.engaged_once,
    envoy_checks.sessions,
    blob_checks.owners,
)
"""What is checked of the federation as a whole."""
EXPERIMENT: tuple[ExperimentPart, ...] = (
    experiment_checks.ended,
    experiment_checks.collaborator_states,
    experiment_checks.bytes_kept,
)
"""What is checked of each experiment."""
HISTORY: tuple[ExperimentPart, ...] = (
    stream_checks.metric_stream,
    stream_checks.event_stream,
    experiment_checks.ended_once,
    experiment_checks.received_once,
    experiment_checks.model_numbers,
    experiment_checks.best_model,
    round_checks.all_of,
)
"""What is checked of each experiment besides, as long as retention has not begun to drop its history."""

__all__ = [
    "EXPERIMENT",
    "FEDERATION",
    "HISTORY",
    "Check",
    "ExperimentPart",
    "Finding",
    "FindingsPage",
    "Part",
    "blob_checks",
    "experiment_checks",
    "stream_checks",
]
