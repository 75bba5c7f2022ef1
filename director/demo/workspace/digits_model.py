"""A network with one hidden layer that reads handwritten digits, trained by plain gradient descent.

A model is four arrays: `hidden/weights` (64, h), `hidden/bias` (h,), `output/weights` (h, 10), `output/bias` (10,).
Products are `einsum`, which sums in the same order each time: the same start gives the same model, to the bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Model = Mapping[str, Array]


def train(
    model: Model, shard: Any, round_number: int, settings: Mapping[str, Any]
) -> tuple[Model, int, dict[str, float]]:
    """Take some steps of gradient descent over all training samples of the shard."""
    images, targets = _flat(shard.get_dataset("train"))
    rate = np.float32(settings["learning_rate"])
    for _ in range(settings["steps"]):
        hidden, output = _forward(model, images)
        slope = (output - targets) / np.float32(len(images))
        hidden_slope = _product(slope, model["output/weights"].T) * (hidden > 0)
        gradients = {
            "hidden/weights": _product(images.T, hidden_slope),
            "hidden/bias": hidden_slope.sum(axis=0),
            "output/weights": _product(hidden.T, slope),
            "output/bias": slope.sum(axis=0),
        }
        model = {name: values - rate * gradients[name] for name, values in model.items()}
    return model, len(images), {"loss": _loss(_forward(model, images)[1], targets)}


def validate(model: Model, shard: Any, round_number: int, settings: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """Measure the model on the validation samples of the shard."""
    return measure(model, shard.get_dataset("validate"))


def measure(model: Model, dataset: tuple[Array, Array]) -> tuple[int, dict[str, float]]:
    """Return the number of samples, and accuracy and loss on them."""
    images, targets = _flat(dataset)
    _, output = _forward(model, images)
    hits = output.argmax(axis=1) == targets.argmax(axis=1)
    return len(images), {"accuracy": float(hits.mean()), "loss": _loss(output, targets)}


def _flat(dataset: tuple[Array, Array]) -> tuple[Array, Array]:
    images, targets = dataset
    return images.reshape(len(images), -1), targets


def _forward(model: Model, images: Array) -> tuple[Array, Array]:
    hidden = np.maximum(_product(images, model["hidden/weights"]) + model["hidden/bias"], 0)
    scores = _product(hidden, model["output/weights"]) + model["output/bias"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def _loss(output: Array, targets: Array) -> float:
    return float(-np.log((output * targets).sum(axis=1) + np.float32(1e-9)).mean())


def _product(left: Array, right: Array) -> Array:
    product: Array = np.einsum("ij,jk->ik", left, right)
    return product
