"""What commands print: tables for people, one JSON document for programs."""

import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click

NOTHING = "-"


def show_json(value: Any, *, compact: bool = False) -> None:
    """Print a value as JSON; compact, it takes one line."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=None if compact else 2))


def plain(value: Any) -> Any:
    """Turn a value into what JSON knows.

    Instants become ISO 8601, lengths of time seconds, NaN and infinity null, and cursors the text that --after reads.
    """
    from director.domain.history import Cursor

    if isinstance(value, Cursor):
        return str(value)
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def show_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows under their headers, or a sentence when there are no rows."""
    listed = [list(row) for row in rows]
    if not listed:
        click.echo(empty)
        return
    numbers = [all(is_number(row[at]) for row in listed) for at in range(len(headers))]
    cells = [[text(cell) for cell in row] for row in listed]
    if sys.stdout.isatty():
        _show_rich(headers, cells, numbers)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for row in [list(headers), *cells]:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


def show_fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print what is known of one thing, a line each; what is absent or empty is left out."""
    known = [(label, value) for label, value in pairs if value not in (None, "", ())]
    width = max((len(label) for label, _ in known), default=0)
    for label, value in known:
        click.echo(f"{label.ljust(width)}  {text(value)}")


def text(value: Any) -> str:
    """Write a value for people, on one line, with nothing in it that a terminal would obey; instants are in UTC."""
    match value:
        case None | "" | ():
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case tuple():
            return " × ".join(map(str, value))
        case _:
            words = " ".join(str(value).split())
            return "".join("�" if unicodedata.category(each) in ("Cc", "Cf", "Cs") else each for each in words)


def is_number(value: Any) -> bool:
    """Whether a value is aligned with the numbers of its column; an absent one is."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _show_rich(headers: Sequence[str], cells: Sequence[Sequence[str]], numbers: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header, right in zip(headers, numbers, strict=True):
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # as text: what stands in a name is not markup
    Console().print(table)
