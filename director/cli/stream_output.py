"""How commands print streams: a table, lines as they come, or JSON with the cursor of each row."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from director.cli.output import plain, show_json, show_table, text

if TYPE_CHECKING:
    from director.client import Event, Metric

Row = TypeVar("Row", "Event", "Metric")


def show_metrics(found: "Iterable[Metric]", *, follow: bool, as_json: bool) -> None:
    """Print metrics; with `follow`, each as it comes."""
    if follow or as_json:
        show_each(found, line_of_metric, follow=follow, as_json=as_json)
        return
    rows = ((each.cursor.seq, each.round, each.origin, each.task, each.name, each.value) for each in found)
    show_table(("Seq", "Round", "Origin", "Task", "Metric", "Value"), rows, empty="no metrics yet")


def show_events(found: "Iterable[Event]", *, follow: bool, as_json: bool) -> None:
    """Print events; with `follow`, each as it comes."""
    if follow or as_json:
        show_each(found, line_of_event, follow=follow, as_json=as_json)
        return
    rows = ((each.cursor.seq, each.happened_at, each.actor, each.kind, each.reason, details_of(each)) for each in found)
    show_table(("Seq", "Happened (UTC)", "Actor", "Event", "Reason", "Details"), rows, empty="no events yet")


def show_each(found: Iterable[Row], line_of: Callable[[Row], str], *, follow: bool, as_json: bool) -> None:
    """Print rows as lines, or as one list in JSON; with `follow`, as a JSON object per line."""
    if not follow:
        show_json([numbered(each) for each in found])
        return
    for each in found:
        if as_json:
            show_json(numbered(each), compact=True)
        else:
            click.echo(line_of(each))


def numbered(row: "Event | Metric") -> dict[str, Any]:
    """Return a row for JSON, with its number in the stream beside its cursor."""
    return {"seq": row.cursor.seq, **plain(row)}


def line_of_metric(metric: "Metric") -> str:
    """Write a metric on a line of its own."""
    where = f"round {metric.round}  {text(metric.origin)}  {text(metric.task)}"
    return f"{metric.cursor.seq}  {where}  {text(metric.name)} {text(metric.value)}"


def line_of_event(event: "Event") -> str:
    """Write an event on a line of its own."""
    known: Sequence[Any] = (event.happened_at, event.actor, event.kind, event.reason, details_of(event))
    return "  ".join([str(event.cursor.seq), *(text(each) for each in known if each)])


def details_of(event: "Event") -> str:
    """Write an event's details, if it has any."""
    return json.dumps(plain(event.details), ensure_ascii=False) if event.details else ""
