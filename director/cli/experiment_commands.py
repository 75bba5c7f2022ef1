"""`director experiment …`: what a researcher does with experiments."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from director.cli.experiment_output import round_of, show_collaborators, show_experiment, show_outcome
from director.cli.options import after_option, connected, follow_option, json_option
from director.cli.output import show_json, show_table, text
from director.cli.stream_output import show_events, show_metrics
from director.cli.submit_command import submit

if TYPE_CHECKING:
    from director.client import Cursor, Federation

SHOWN_COLLABORATORS = 100


@click.group()
def experiment() -> None:
    """Submit experiments, follow them, fetch their models.

    Of an experiment that exists, NAME is its name or its uid.
    """


experiment.add_command(submit)


@experiment.command("list")
@json_option
@connected
def list_experiments(federation: "Federation", as_json: bool) -> None:
    """List your experiments and those shared with you, newest first."""
    found = list(federation.experiments())
    if as_json:
        show_json(found)
        return
    show_table(
        ("Experiment", "State", "Round", "Best score", "Owner", "Submitted (UTC)"),
        ((info.name, info.state, round_of(info), info.best_score, info.owner, info.submitted_at) for info in found),
        empty="you have no experiments",
    )


@experiment.command()
@click.argument("name")
@json_option
@connected
def show(federation: "Federation", name: str, as_json: bool) -> None:
    """Show all that is known of experiment NAME, and its first 100 collaborators.

    With --json it is the experiment alone, with the number of collaborators in each state.
    """
    handle = federation.experiment(name)
    info = handle.info
    if as_json:
        show_json(info)
        return
    show_experiment(info)
    click.echo()
    show_collaborators(islice(handle.collaborators(), SHOWN_COLLABORATORS))
    if (others := info.collaborators_count - SHOWN_COLLABORATORS) > 0:
        click.echo(f"and {others} more: director experiment collaborators {info.uid}")


@experiment.command()
@click.argument("name")
@json_option
@connected
def collaborators(federation: "Federation", name: str, as_json: bool) -> None:
    """List the collaborators of experiment NAME, with the failures of those that failed."""
    found = federation.experiment(name).collaborators()
    if as_json:
        show_json(list(found))
    else:
        show_collaborators(found)


@experiment.command()
@click.argument("name")
@follow_option
@after_option
@json_option
@connected
def metrics(federation: "Federation", name: str, follow: bool, after: "Cursor | None", as_json: bool) -> None:
    """Print the metrics of experiment NAME.

    With --json it is one list; with --follow too, an object per line as they come.
    """
    found = federation.experiment(name).metrics(follow=follow, after=after)
    show_metrics(found, follow=follow, as_json=as_json)


@experiment.command()
@click.argument("name")
@follow_option
@after_option
@json_option
@connected
def events(federation: "Federation", name: str, follow: bool, after: "Cursor | None", as_json: bool) -> None:
    """Print what has happened to experiment NAME.

    With --json it is one list; with --follow too, an object per line as they come.
    """
    found = federation.experiment(name).events(follow=follow, after=after)
    show_events(found, follow=follow, as_json=as_json)


@experiment.command()
@click.argument("name")
@click.option("--type", "kind", type=click.Choice(["best", "last", "initial"]), help="Which model.  [default: best]")
@click.option("--number", type=click.IntRange(min=0), metavar="N", help="The result of round N, instead.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.safetensors",
    help="Where to write it; replaced if it exists.",
)
@json_option
@connected
def model(
    federation: "Federation", name: str, kind: str | None, number: int | None, output: Path, as_json: bool
) -> None:
    """Write a model of experiment NAME to a `.safetensors` file."""
    if kind is not None and number is not None:
        raise click.UsageError("Give either --type or --number.")
    which = number if number is not None else kind or "best"
    handle = federation.experiment(name)
    written = handle.download_model(which, output)
    if as_json:
        show_json({"name": handle.name, "number": written, "file": str(output), "size_bytes": output.stat().st_size})
    else:
        click.echo(f"model {written} of {text(handle.name)} written to {output}")


@experiment.command()
@click.argument("name")
@click.option("--reason", default="", help="For those who ask later.")
@json_option
@connected
def cancel(federation: "Federation", name: str, reason: str, as_json: bool) -> None:
    """Cancel experiment NAME, waiting or running."""
    show_outcome(federation.experiment(name).cancel(reason), as_json=as_json)


@experiment.command()
@click.argument("name")
@connected
def remove(federation: "Federation", name: str) -> None:
    """Remove experiment NAME: its archive, models and updates go, its history stays.

    One that is still running is cancelled first.
    """
    handle = federation.experiment(name)
    handle.remove()
    click.echo(f"experiment {text(handle.name)} is removed")


@experiment.command()
@click.argument("name")
@click.option("--reason", default="", help="For those who ask later.")
@json_option
@connected
def approve(federation: "Federation", name: str, reason: str, as_json: bool) -> None:
    """Let experiment NAME start, which waits for a manual review."""
    show_outcome(federation.experiment(name).approve(reason), as_json=as_json)


@experiment.command()
@click.argument("name")
@click.option("--reason", default="", help="For its owner.")
@json_option
@connected
def reject(federation: "Federation", name: str, reason: str, as_json: bool) -> None:
    """End experiment NAME, which waits for a manual review."""
    show_outcome(federation.experiment(name).reject(reason), as_json=as_json)
