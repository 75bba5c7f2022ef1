"""Pages and batches as messages: each ends early, before it is larger than a message may be."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from director.services.paging import Page

PAGE_BYTES = 1 << 20
"""A page or a batch ends at this size."""

Item = TypeVar("Item")
Written = TypeVar("Written", bound=Message)


def write_page(page: Page[Item], write: Callable[[Item], Written]) -> tuple[list[Written], str]:
    """Return the messages of a page that fit, and the token of the next page."""
    written: list[Written] = []
    size = 0
    for item in page.items:
        message = write(item)
        size += message.ByteSize()
        if written and size > PAGE_BYTES:
            return written, page.cut(len(written)).next_token
        written.append(message)
    return written, page.next_token


def batches(items: Sequence[Item], write: Callable[[Item], Written]) -> Iterator[list[Written]]:
    """Cut items into batches that fit into a message."""
    batch: list[Written] = []
    size = 0
    for item in items:
        message = write(item)
        size += message.ByteSize()
        if batch and size > PAGE_BYTES:
            yield batch
            batch, size = [], message.ByteSize()
        batch.append(message)
    if batch:
        yield batch
