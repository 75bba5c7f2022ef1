"""Metrics of a whole round, and which model is the best."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from director.domain.aggregation.mean import average
from director.domain.plan import Plan
from director.domain.tasks import Mode

AGGREGATOR = "aggregator"
"""The origin of metrics that are averages over envoys."""
Aggregated = Mapping[tuple[str, str], float]
"""Numbers by (task, metric)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one collaborator measured in one task, and on how many samples."""

    envoy: str
    task: str
    samples: int
    metrics: Mapping[str, float]


def weighted_metrics(measurements: Iterable[Measurement]) -> dict[tuple[str, str], float]:
    """Average each metric over the collaborators that report it, weighted by samples, in the order of their names.

    A NaN makes its own metric's average NaN, and no other's. The result is in the order of tasks and metrics.
    """
    reported: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for each in sorted(measurements, key=lambda measurement: measurement.envoy):
        for metric, value in each.metrics.items():
            reported[each.task, metric].append((value, each.samples))
    return {key: mean(reported[key]) for key in sorted(reported)}


def mean(reports: list[tuple[float, int]]) -> float:
    """Average (value, samples) pairs, as the elements of a model are."""
    values, samples = np.array(reports, np.float64).T
    return float(average(np.split(values, len(values)), samples)[0])


def score(plan: Plan, aggregated: Aggregated) -> float | None:
    """Return the number that a model is judged by; None if it was not measured or is NaN."""
    if plan.best is None:
        return None
    metric = plan.best.metric
    if metric is None:
        metric = min((metric for task, metric in aggregated if task == plan.best.task), default="")
    value = aggregated.get((plan.best.task, metric), math.nan)
    return None if math.isnan(value) else value


def better(score: float | None, than: float | None, mode: Mode) -> bool:
    """Whether a model's score beats that of an earlier one; a tie keeps the earlier, and NaN and None never win."""
    if score is None or math.isnan(score):
        return False
    if than is None or math.isnan(than):
        return True
    return score > than if mode == "max" else score < than
