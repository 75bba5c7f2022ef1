"""Whether a database has room for more."""

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Free space of a database, on its disk or below its size limit, and the reserve that uploads do not use.

    The reserve is for the actions that free space: cancelling, removing and sweeping.

    Units: bytes.
    """

    free: int
    reserve: int

    def lacks(self, size: int = 0) -> str | None:
        """Say why the database refuses so many bytes more; None if they fit and the reserve is whole."""
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
