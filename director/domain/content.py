"""The identity of a run of bytes."""

import re
from dataclasses import dataclass
from typing import Self

from director.errors import InvalidArgument

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Content:
    """The length of a run of bytes, and its SHA-256 in hexadecimal.

    Raises:
        InvalidArgument: the length is negative, or the digest does not have 32 bytes.
    """

    size_bytes: int
    digest: str

    def __post_init__(self) -> None:
        if self.size_bytes < 0 or not DIGEST.fullmatch(self.digest):
            raise InvalidArgument("bytes are announced by their length and their SHA-256 (32 bytes)")

    @classmethod
    def of_sha256(cls, size_bytes: int, sha256: bytes) -> Self:
        """Name bytes by their length and their SHA-256 as 32 bytes."""
        return cls(size_bytes, sha256.hex())

    @property
    def sha256(self) -> bytes:
        """The digest as 32 bytes."""
        return bytes.fromhex(self.digest)
