"""The documentation as the tests read it: pages, their sections, their tables and the code in them."""

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Code in a page: its language, and the paragraph before it, on one line."""

    language: str
    code: str
    before: str


def page(name: str) -> str:
    """Return a page's text."""
    return (DOCS / name).read_text(encoding="utf-8")


def sections(text: str, *, level: int = 2) -> dict[str, str]:
    """Return what stands below each heading of a level, by heading."""
    parts = re.split(rf"^{'#' * level} (.+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of a text's tables, without the rows that head them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [line for line, below in pairwise([*lines, ""]) if not is_rule(line) and not is_rule(below)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found]


def is_rule(line: str) -> bool:
    """Whether a line parts the head of a table from its rows."""
    return bool(line) and set(line) <= set("|-")


def quoted(cell: str) -> str:
    """Return the one thing in backticks that a cell begins with."""
    found = re.match(r"`([^`]+)`", cell)
    assert found, f"{cell!r} begins with nothing in backticks"
    return found[1]


def blocks(text: str) -> list[Block]:
    """Return the code in a text, in order."""
    found = []
    for each in FENCE.finditer(text):
        before = text[: each.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(each[1], each[2], " ".join(before.split())))
    return found
