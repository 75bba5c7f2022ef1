"""Which envoys are asked in a round."""

import hashlib
from collections.abc import Sequence


def select(envoys: Sequence[str], *, required: Sequence[str], count: int, seed: int, round_number: int) -> list[str]:
    """Choose which envoys are asked in a round: the required ones, then others by a draw from the seed and the round.

    The choice is in name order. The draw hashes, because that stays the same in every version of Python.
    """

    def lot(envoy: str) -> bytes:
        return hashlib.sha256(f"{seed}/{round_number}/{envoy}".encode()).digest()

    needed = set(required)
    chosen = [envoy for envoy in envoys if envoy in needed]
    others = sorted((envoy for envoy in envoys if envoy not in needed), key=lot)
    return sorted(chosen + others[: max(0, count - len(chosen))])
