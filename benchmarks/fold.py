"""How fast the weighted average folds, beside a plain copy of the same bytes in the same run.

Usage: python benchmarks/fold.py [--collaborators 8] [--megabytes 16] [--dtype F32] [--repeats 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from director.domain.aggregation import fold_part, rule
from director.domain.tensor_info import DTYPES, TensorInfo
from director.domain.tensors import Manifest


def main() -> None:
    """Measure, and print the median rates and their ratio."""
    options = arguments()
    dtype = DTYPES[options.dtype]
    count = options.megabytes * 1_000_000 // dtype.itemsize
    manifest = Manifest((TensorInfo("weights", options.dtype, (count,)),))
    drawn = np.random.default_rng(0).standard_normal((options.collaborators + 1, count)) * 50
    base, *updates = (row.astype(dtype).tobytes() for row in drawn)
    samples = np.arange(1.0, options.collaborators + 1)
    source = np.frombuffer(b"".join(updates), np.uint8)
    target = np.empty_like(source)

    folding, copying = medians(
        [
            lambda: fold_part(rule("weighted_average"), manifest, 0, base, updates, samples),
            lambda: np.copyto(target, source),
        ],
        repeats=options.repeats,
    )

    print(f"{options.collaborators} collaborators, {options.megabytes} MB of {options.dtype} each, one thread")
    print(f"weighted_average  {source.nbytes / folding / 1e9:6.2f} GB/s of updates")
    print(f"np.copyto         {source.nbytes / copying / 1e9:6.2f} GB/s of the same bytes")
    print(f"ratio             {copying / folding:6.2f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the weighted average beside a plain copy.")
    parser.add_argument("--collaborators", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=16, help="of each update")
    parser.add_argument("--dtype", choices=[*DTYPES], default="F32")
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def medians(actions: Sequence[Callable[[], object]], *, repeats: int) -> list[float]:
    """Return each action's median duration; they take turns, so that a busy machine slows them all alike.

    Units: seconds.
    """
    taken: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats + 1):
        for durations, act in zip(taken, actions, strict=True):
            began = time.perf_counter()
            act()
            durations.append(time.perf_counter() - began)
    return [statistics.median(durations[1:]) for durations in taken]


if __name__ == "__main__":
    main()
