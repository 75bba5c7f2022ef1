"""`director experiment submit`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from director.cli.experiment_output import show_outcome
from director.cli.options import connected, json_option
from director.errors import DirectorError

if TYPE_CHECKING:
    from director.client import Federation, ModelReference

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


def kept_model(written: str) -> tuple[str, int]:
    """Read EXPERIMENT:NUMBER; a name may hold colons.

    Raises:
        click.BadParameter: it is something else.
    """
    experiment, colon, number = written.rpartition(":")
    if not colon or not experiment or not (number.isascii() and number.isdecimal()):
        raise click.BadParameter(f"{written!r} is not EXPERIMENT:NUMBER, such as digits:7")
    return experiment, int(number)


@click.command()
@click.argument("name")
@click.option("--workspace", type=DIRECTORY, metavar="DIR", help="Directory with plan/plan.yaml and the code.")
@click.option("--archive", type=FILE, metavar="FILE", help="A zip file of such a directory, instead.")
@click.option("--model", type=FILE, metavar="FILE.safetensors", help="The initial model.")
@click.option(
    "--model-from",
    type=kept_model,
    metavar="EXPERIMENT:NUMBER",
    help="The initial model, instead: one that the director holds, of an experiment's name or uid.",
)
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
    model: Path | None,
    model_from: tuple[str, int] | None,
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
        model=initial_model(federation, model, model_from),
        collaborators=collaborators,
        users=users,
        priority=priority,
        submission_id=submission_id,
    )
    info = handle.wait() if wait else handle.info
    show_outcome(info, as_json=as_json)
    if wait and info.state != "finished":
        raise DirectorError(f"experiment {name!r} is {info.state}: {info.reason or 'no reason was given'}")


def initial_model(federation: "Federation", file: Path | None, kept: tuple[str, int] | None) -> "Path | ModelReference":
    """Return the model to begin with: a file, or a model that the director holds.

    Raises:
        click.UsageError: both are given, or neither.
    """
    from director.client import ModelReference

    match file, kept:
        case Path(), None:
            return file
        case None, (experiment, number):
            return ModelReference(federation.experiment(experiment).uid, number)
        case _:
            raise click.UsageError("Give either --model or --model-from.")
