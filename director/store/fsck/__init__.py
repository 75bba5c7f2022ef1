"""Every invariant that rows can show, as parts that only read.

A part reads a page of what belongs together in one snapshot, so that a finding is never the difference between two
moments and a director may run meanwhile. Who calls them opens a short transaction for each page.
"""

from director.store.fsck import blobs, envoys, experiments, rounds, streams
from director.store.fsck.findings import Check, ExperimentPart, Finding, Page, Part

FEDERATION: tuple[Part, ...] = (streams.federation_stream, envoys.engaged_once, envoys.sessions, blobs.owners)
"""What is checked of the federation as a whole."""
EXPERIMENT: tuple[ExperimentPart, ...] = (experiments.ended, experiments.collaborator_states, experiments.bytes_kept)
"""What is checked of each experiment."""
HISTORY: tuple[ExperimentPart, ...] = (
    streams.metric_stream,
    streams.event_stream,
    experiments.ended_once,
    experiments.received_once,
    experiments.model_numbers,
    experiments.best_model,
    rounds.all_of,
)
"""What is checked of each experiment besides, as long as retention has not begun to drop its history."""

__all__ = [
    "EXPERIMENT",
    "FEDERATION",
    "HISTORY",
    "Check",
    "ExperimentPart",
    "Finding",
    "Page",
    "Part",
    "blobs",
    "experiments",
    "streams",
]
