"""The UCI digits that ship with scikit-learn, cut into shards by a fixed rule, and the model to begin with.

Every fifth of the 1797 images is held out and is in no shard. The others are dealt out to the shards in turn. In each
shard every fifth image is for validation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from director.domain.types import Tensors
from director.envoy.shard_descriptor import ShardDescriptor
from director.errors import InvalidArgument

TOTAL = 1797
SIDE = 8
CLASSES = 10
HIDDEN = 32
EVERY_FIFTH = 5
MODEL_SEED = 1

WORKSPACE = Path(__file__).with_name("workspace")
"""What an experiment's archive holds: the plan and the code."""

Floats32 = npt.NDArray[np.float32]
Dataset = tuple[Floats32, Floats32]
Indices = npt.NDArray[np.int64]


class DigitsShard(ShardDescriptor):
    """One part of the digits: images (n, 8, 8) between 0 and 1, targets (n, 10) with a 1 at the digit.

    Args:
        part: Which part, from 0.
        parts: Into how many the digits are cut.
    """

    def __init__(self, part: int = 0, parts: int = 1) -> None:
        """Choose the part; nothing is loaded yet.

        Raises:
            InvalidArgument: there is no such part.
        """
        if not 0 <= part < parts <= TOTAL // 100:
            raise InvalidArgument(f"part {part} of {parts}: parts are 1 to {TOTAL // 100}, and the first part is 0")
        self._part = part
        self._parts = parts

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image."""
        return SIDE, SIDE

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One place for each digit."""
        return (CLASSES,)

    @property
    def dataset_description(self) -> str:
        """What it is, and which part."""
        return f"UCI handwritten digits, part {self._part + 1} of {self._parts}"

    @property
    def samples(self) -> int:
        """Number of training samples."""
        return len(self.indices("train"))

    def get_dataset(self, kind: str) -> Dataset:
        """Return images and targets of "train", "validate" or "held_out"; the last is the same for every part.

        Raises:
            InvalidArgument: there is no such kind.
        """
        return _load(self.indices(kind))

    def indices(self, kind: str) -> Indices:
        """Return which of the digits make up a kind, in their order.

        Raises:
            InvalidArgument: there is no such kind.
        """
        everything: Indices = np.arange(TOTAL)
        if kind == "held_out":
            return everything[::EVERY_FIFTH]
        mine: Indices = everything[everything % EVERY_FIFTH != 0][self._part :: self._parts]
        validates = np.arange(len(mine)) % EVERY_FIFTH == 0
        match kind:
            case "train":
                chosen: Indices = mine[~validates]
            case "validate":
                chosen = mine[validates]
            case _:
                raise InvalidArgument(f"the digits have no {kind!r} part; there are train, validate and held_out")
        return chosen


def initial_model() -> dict[str, Floats32]:
    """Return the model that the federation begins with, always the same one."""
    chance = np.random.default_rng(MODEL_SEED)
    pixels = SIDE * SIDE
    return {
        "hidden/weights": chance.normal(0, np.sqrt(2 / pixels), (pixels, HIDDEN)).astype(np.float32),
        "hidden/bias": np.zeros(HIDDEN, np.float32),
        "output/weights": chance.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, CLASSES)).astype(np.float32),
        "output/bias": np.zeros(CLASSES, np.float32),
    }


def accuracy(model: Tensors) -> float:
    """Return the share of the held-out digits that a model reads rightly."""
    from director.demo.workspace import digits_model

    _, metrics = digits_model.measure(model, DigitsShard().get_dataset("held_out"))
    return float(metrics["accuracy"])


def _load(indices: Indices) -> Dataset:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise InvalidArgument("the digits come with scikit-learn: pip install 'federated-director[demo]'") from error
    found: Any = load_digits()
    images = (found.images[indices] / 16).astype(np.float32)
    return images, np.eye(CLASSES, dtype=np.float32)[found.target[indices]]
