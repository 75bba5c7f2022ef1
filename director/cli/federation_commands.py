"""`director envoys` and `director why`: questions about the federation."""

from typing import TYPE_CHECKING

import click

from director.cli.options import connected, json_option
from director.cli.output import show_json, show_table, text

if TYPE_CHECKING:
    from director.client import Federation


@click.command()
@json_option
@connected
def envoys(federation: "Federation", as_json: bool) -> None:
    """List the envoys and whether they are online."""
    found = federation.envoys()
    if as_json:
        show_json(found)
        return
    show_table(
        ("Envoy", "Online", "Experiment", "Samples", "Sample", "Target", "Last seen (UTC)"),
        (
            (
                each.name,
                each.is_online,
                each.experiment or ("another's" if each.is_experiment_running else ""),
                each.samples,
                each.sample_shape,
                each.target_shape,
                each.last_seen_at,
            )
            for each in found
        ),
        empty="no envoy has registered yet",
    )


@click.command()
@click.argument("experiment")
@json_option
@connected
def why(federation: "Federation", experiment: str, as_json: bool) -> None:
    """Say what EXPERIMENT waits for, most important first."""
    info = federation.experiment(experiment).info
    if as_json:
        show_json({"name": info.name, "state": info.state, "reason": info.reason, "waiting_for": info.waiting_for})
        return
    for sentence in info.waiting_for:
        click.echo(text(sentence))
    if info.reason:
        click.echo(f"the reason given: {text(info.reason)}")
