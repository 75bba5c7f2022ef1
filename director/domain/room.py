"""Whether a database has room for more."""

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on a database's disk, or of its allowance, and what of it is a reserve that uploads do not touch.

    The reserve is for what goes on without room: cancelling, removing and sweeping, which make some.

    Units: bytes.
    """

    free: int
    reserve: int

    def lacks(self, size: int = 0) -> str | None:
        """Say why so many bytes more cannot be taken in; None if they can, and nothing of the reserve is in use."""
        if self.free < self.reserve:
            left = f"{mebibytes(self.free)} left, less than its reserve of {mebibytes(self.reserve)}"
            found = left if self.free > 0 else "no room left"
            return f"the database has {found}; nothing more is taken in until space is freed"
        if self.free - size < self.reserve:
            room = mebibytes(self.free - self.reserve)
            return f"{mebibytes(size)} do not fit into the database: it has room for {room} besides its reserve"
        return None


def mebibytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / MEBIBYTE:.1f} MiB"
