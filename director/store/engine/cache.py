"""A cache that is bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Cache:
    """Values that never change. Those that were not asked for lately make room for new ones.

    The caller says how many bytes a value takes, since Python cannot tell for one that is made of many objects.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start empty."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.size_bytes = 0
        """Bytes of all values that are kept; never more than the maximum."""

    def get(self, key: Hashable) -> Any:
        """Return a value, or None if it is not kept."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keep a value, unless it alone is larger than the maximum."""
        _, freed = self._entries.pop(key, (None, 0))
        self.size_bytes -= freed
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = value, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size_bytes -= freed
