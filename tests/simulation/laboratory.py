"""What envoys compute: a function of the experiment, the round, the envoy and the bytes of the base model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from director.domain.types import Tensors

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Result:
    """What a task gives."""

    samples: int
    metrics: Mapping[str, float]
    update: Tensors | None


def compute(experiment: str, round_number: int, envoy: str, task: str, base: bytes) -> Result:
    """Do a task; training gives the whole model back."""
    said = f"{experiment}/{round_number}/{envoy}/{task}/".encode()
    chance = np.random.default_rng(np.frombuffer(hashlib.sha256(said + base).digest(), np.uint64))
    samples, loss, accuracy = int(chance.integers(1, 1000)), float(chance.random()), float(chance.random())
    if task != "train":
        return Result(samples, {"accuracy": accuracy, "loss": loss}, None)
    weights = np.frombuffer(base, "<f4")
    moved = weights + chance.standard_normal(weights.shape).astype(np.float32)
    return Result(samples, {"loss": loss}, {"weights": moved})


def average(updates: Sequence[Weights], samples: Sequence[int]) -> Weights:
    """Average as slowly and plainly as it can be said."""
    if len(updates) == 1:
        return updates[0]
    total = np.zeros(updates[0].shape, np.float64)
    for weights, number in zip(updates, samples, strict=True):
        total += weights.astype(np.float64) * number
    return (total / sum(samples)).astype(np.float32)


def next_model(experiment: str, round_number: int, counted: Sequence[str], base: bytes) -> bytes:
    """Reckon a round's model from its base and the names of those who count."""
    results = [compute(experiment, round_number, envoy, "train", base) for envoy in sorted(counted)]
    updates = [result.update["weights"] for result in results if result.update is not None]
    return average(updates, [result.samples for result in results]).tobytes()
