"""Time and randomness. Only this module asks for them; all others are given an instant, an id or a seed."""

import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of wall-clock instants."""

    def now(self) -> datetime:
        """Return the instant, aware and in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's instant."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        """Start at the given instant."""
        self._now = start

    def now(self) -> datetime:
        """Return the instant it was moved to last."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move the clock; a negative length moves it back."""
        self._now += by


class Entropy(Protocol):
    """A source of ids, seeds and jitter."""

    def token(self) -> str:
        """Return 32 hexadecimal digits that nobody can guess."""
        ...

    def seed(self) -> int:
        """Return a non-negative integer below 2**63."""
        ...

    def fraction(self) -> float:
        """Return a number in [0, 1), for jitter."""
        ...


class SystemEntropy:
    """The operating system's randomness."""

    def token(self) -> str:
        """Return 128 random bits in hexadecimal."""
        return secrets.token_hex(16)

    def seed(self) -> int:
        """Return 63 random bits."""
        return secrets.randbits(63)

    def fraction(self) -> float:
        """Return a random number in [0, 1)."""
        return random.random()


class SeededEntropy:
    """The same ids, seeds and jitter each time, for simulations."""

    def __init__(self, seed: int) -> None:
        """Derive everything from one seed."""
        self._random = random.Random(seed)

    def token(self) -> str:
        """Return the next 128 bits in hexadecimal."""
        return f"{self._random.getrandbits(128):032x}"

    def seed(self) -> int:
        """Return the next 63 bits."""
        return self._random.getrandbits(63)

    def fraction(self) -> float:
        """Return the next number in [0, 1)."""
        return self._random.random()


def monotonic() -> float:
    """Return seconds that never go back; only differences mean anything."""
    return time.monotonic()
