"""Lists in pages: sizes, and tokens that say where the next page begins."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from director.errors import InvalidArgument

MAX_PAGE = 1000
DEFAULT_PAGE = 100

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, the key of each, whether there are more behind the last one, and which list it is."""

    items: Sequence[Item]
    keys: Sequence[str]
    more: bool
    of: str

    def cut(self, number: int) -> "Page[Item]":
        """Return the first items only; the others come with the next page."""
        return Page(self.items[:number], self.keys[:number], self.more or number < len(self.items), self.of)

    @property
    def next_token(self) -> str:
        """The token of the next page; empty if this is the last one."""
        return write_token(self.keys[-1], of=self.of) if self.more and self.keys else ""


def size_of(page_size: int) -> int:
    """Return how many items a page holds, at most.

    Raises:
        InvalidArgument: it is negative.
    """
    if page_size < 0:
        raise InvalidArgument("page_size is negative; 0 asks for the default")
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)


def page_of(items: Sequence[Item], keys: Sequence[str], size: int, *, of: str) -> Page[Item]:
    """Return a page of a list, of items that were read with a limit of one more than its size."""
    return Page(items[:size], keys[:size], len(items) > size, of)


def write_token(key: str, *, of: str) -> str:
    """Return the token of a list's page that begins behind a key; the list's name holds no colon."""
    return base64.urlsafe_b64encode(f"{of}:{key}".encode()).decode()


def read_token(token: str, *, of: str) -> str:
    """Return the key that a list's page begins behind; empty for the first page.

    Raises:
        InvalidArgument: no director gave the token out for this list.
    """
    if not token:
        return ""
    try:
        given, _, key = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        given, key = "", ""
    if given != of or not key:
        raise InvalidArgument("the page token is not one that a director gave out for this list")
    return key
