"""`director experiment …`: what a researcher does with experiments."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from director.cli.options import connected, json_option
from director.cli.output import show_fields, show_json, show_table, text
from director.errors import DirectorError

if TYPE_CHECKING:
    from director.client import ExperimentInfo, Federation, Metric

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def experiment() -> None:
    """Submit experiments, follow them, fetch their models."""


@experiment.command()
@click.argument("name")
@click.option("--workspace", type=DIRECTORY, metavar="DIR", help="Directory with plan/plan.yaml and the code.")
@click.option("--archive", type=FILE, metavar="FILE", help="A zip file of such a directory, instead.")
@click.option("--model", type=FILE, required=True, metavar="FILE.safetensors", help="The initial model.")
@click.option("--collaborator", "each", multiple=True, metavar="ENVOY", help="An envoy to take part; repeatable.")
@click.option("--collaborators", "listed", metavar="ENVOY,ENVOY…", help="Envoys to take part, in one list.")
@click.option("--user", "users", multiple=True, metavar="NAME", help="Somebody else who may see it; repeatable.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, help="A point is worth an hour of waiting.")
@click.option("--submission-id", metavar="ID", help="Chosen by you, so that a repeat is the same submission.")
@click.option("--wait", is_flag=True, help="Wait for its end; the exit status is 1 unless it finished.")
@json_option
@connected
def submit(
    federation: "Federation",
    name: str,
    workspace: Path | None,
    archive: Path | None,
    model: Path,
    each: tuple[str, ...],
    listed: str | None,
    users: tuple[str, ...],
    priority: int,
    submission_id: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Submit an experiment under NAME.

    From a workspace, hidden files and Python's caches are left out, and links are not followed.
    """
    if (workspace is None) == (archive is None):
        raise click.UsageError("Give either --workspace or --archive.")
    collaborators = [*each, *(envoy.strip() for envoy in (listed or "").split(",") if envoy.strip())]
    if not collaborators:
        raise click.UsageError("Give at least one --collaborator.")
    handle = federation.submit(
        name,
        workspace=workspace,
        archive=archive,
        model=model,
        collaborators=collaborators,
        users=users,
        priority=priority,
        submission_id=submission_id,
    )
    info = handle.wait() if wait else handle.info
    show_outcome(info, as_json=as_json)
    if wait and info.state != "finished":
        raise DirectorError(f"experiment {name!r} is {info.state}: {info.reason or 'no reason was given'}")


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
    """Show all that is known of experiment NAME."""
    info = federation.experiment(name).info
    if as_json:
        show_json(info)
        return
    best = None if info.best_model is None else f"model {info.best_model}, score {text(info.best_score)}"
    show_fields(
        [
            ("Experiment", info.name),
            ("Owner", info.owner),
            ("State", info.state),
            ("Reason", info.reason),
            ("Waiting for", "; ".join(info.waiting_for)),
            ("Round", round_of(info)),
            ("Best", best),
            ("Last", f"model {info.last_model}"),
            ("Priority", info.priority),
            ("Submitted (UTC)", info.submitted_at),
            ("Started (UTC)", info.started_at),
            ("Finished (UTC)", info.finished_at),
        ]
    )
    click.echo()
    show_table(
        ("Collaborator", "State", "Attempt", "Error"),
        ((each.envoy, each.state, each.attempt, each.error) for each in info.collaborators),
        empty="no collaborators",
    )


@experiment.command()
@click.argument("name")
@click.option("--follow", is_flag=True, help="Go on until the experiment has ended, whatever becomes of the director.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Begin behind this metric.")
@json_option
@connected
def metrics(federation: "Federation", name: str, follow: bool, after: int, as_json: bool) -> None:
    """Print the metrics of experiment NAME.

    With --json it is one list; with --follow too, an object per line as they come.
    """
    found = federation.experiment(name).metrics(follow=follow, after=after)
    if follow:
        for each in found:
            show_json(each, compact=True) if as_json else click.echo(line_of(each))
    elif as_json:
        show_json(list(found))
    else:
        rows = ((each.seq, each.round, each.origin, each.task, each.name, each.value) for each in found)
        show_table(("Seq", "Round", "Origin", "Task", "Metric", "Value"), rows, empty="no metrics yet")


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
    written = federation.experiment(name).download_model(which, output)
    if as_json:
        show_json({"name": name, "number": written, "file": str(output), "size_bytes": output.stat().st_size})
    else:
        click.echo(f"model {written} of {text(name)} written to {output}")


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
    federation.experiment(name).remove()
    click.echo(f"experiment {text(name)} is removed")


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


def round_of(info: "ExperimentInfo") -> str:
    """Write how far an experiment has come; behind its last round comes the final validation."""
    if info.round > info.rounds_total and not info.state.terminal:
        return "final validation"
    return f"{min(info.round, info.rounds_total)} of {info.rounds_total}"


def line_of(metric: "Metric") -> str:
    """Write a metric on a line of its own."""
    where = f"round {metric.round}  {text(metric.origin)}  {text(metric.task)}"
    return f"{metric.seq}  {where}  {text(metric.name)} {text(metric.value)}"


def show_outcome(info: "ExperimentInfo", *, as_json: bool) -> None:
    """Say what became of an experiment."""
    if as_json:
        show_json(info)
    else:
        click.echo(f"experiment {text(info.name)} is {info.state}")
