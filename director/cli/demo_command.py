"""`director demo`: a whole federation on one machine, on real data, with everything that a user would do."""

import asyncio
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from director.cli.output import show_table
from director.client import ExperimentHandle, Federation
from director.demo import digits
from director.demo.show import Progress
from director.demo.stage import Stage
from director.domain.types import ExperimentState
from director.errors import AlreadyExists, DirectorError, InvalidArgument, Unavailable
from director.services import maintenance
from director.store.engine import schema
from director.store.engine.opening import sqlite_path

ONLINE_SECONDS = 60.0
QUERY = (
    "SELECT round, kind, counted, samples, score, round_seconds\n"
    "FROM report_rounds WHERE experiment = '{name}' ORDER BY round"
)


@click.command()
@click.option("--envoys", type=click.IntRange(1, 12), default=3, show_default=True, help="Number of envoys.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Number of rounds.")
@click.option("--crash", is_flag=True, help="Kill the director in the middle of a round and start it again.")
@click.option("--database", metavar="URL", help="Use this database.  [default: an SQLite file in the demo's folder]")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put database, model and logs there.  [default: a new folder for temporary files]",
)
def demo(envoys: int, rounds: int, crash: bool, database: str | None, keep: Path | None) -> None:
    """Train a small network on handwritten digits that are spread over several hospitals.

    Starts a director and the envoys as processes on this machine, submits an experiment, shows how it goes, and
    leaves the database for you to query.
    """
    began = time.monotonic()
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: sys.exit(128 + number))  # takes the stage down on the way
    folder = prepare(keep)
    url = database or f"sqlite:///{folder / 'director.db'}"
    if sqlite_path(url) is None:
        asyncio.run(schema.upgrade_schema(url))
    click.echo(f"database  {url}")
    with Stage(folder, database=url) as stage:
        stage.start_director()
        click.echo(f"director  {stage.address}")
        names = [f"hospital-{number + 1}" for number in range(envoys)]
        for number, name in enumerate(names):
            parameters = json.dumps({"part": number, "parts": envoys})
            stage.start_envoy(name, ["--shard", "director.demo.digits:DigitsShard", "--shard-params", parameters])
        with Federation(stage.address, client_id="demo") as federation:
            wait_for(federation, stage, names)
            click.echo(f"envoys    {', '.join(names)}: online, each with its own part of the UCI digits")
            experiment = submit(federation, names, rounds)
            click.echo(f"training  experiment {experiment.name!r}, {rounds} rounds")
            follow(experiment, stage, rounds=rounds, crash=crash)
            info = experiment.wait(timeout=60)
            if info.state is not ExperimentState.FINISHED:
                raise DirectorError(f"the experiment ended as {info.state}: {info.reason}")
            score = digits.accuracy(experiment.model("best"))
            experiment.download_model("best", folder / "best.safetensors")
            digest = last_digest(experiment)
    report(url, experiment.name, folder)
    click.echo(f"\nbest model: number {info.best_model}, accuracy {score:.4f} on held-out digits that no hospital has")
    click.echo(f"last model: sha256 {digest}")
    click.echo(f"{time.monotonic() - began:.1f} s in all")
    if score < 0.9 and rounds >= 10:
        raise DirectorError(f"the best model reads only {score:.0%} of the held-out digits")


def prepare(keep: Path | None) -> Path:
    """Return the folder of this run.

    Raises:
        InvalidArgument: it is not empty.
    """
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="director-demo-"))
    if keep.exists() and any(keep.iterdir()):
        raise InvalidArgument(f"{keep} is not empty; name a new folder with --keep")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def wait_for(federation: Federation, stage: Stage, names: list[str]) -> None:
    """Wait until the envoys are online.

    Raises:
        Unavailable: one of them did not come.
    """
    end = time.monotonic() + ONLINE_SECONDS
    while True:
        online = {envoy.name for envoy in federation.envoys(names, online=True)}
        if online.issuperset(names):
            return
        stage.check()
        if time.monotonic() > end:
            missing = next(name for name in names if name not in online)
            raise Unavailable(f"envoy {missing} did not come online; {stage.log(missing)}")
        time.sleep(0.05)


def submit(federation: Federation, names: list[str], rounds: int) -> ExperimentHandle:
    """Submit the experiment, under the first name that is free."""
    with workspace(rounds) as folder:
        number = 1
        while True:
            try:
                return federation.submit(
                    "digits" if number == 1 else f"digits-{number}",
                    workspace=folder,
                    model=digits.initial_model(),
                    collaborators=names,
                )
            except AlreadyExists:
                number += 1


@contextmanager
def workspace(rounds: int) -> Iterator[Path]:
    """Make a copy of the workspace with another number of rounds in its plan."""
    with tempfile.TemporaryDirectory(prefix="director-demo-workspace-") as parent:
        folder = Path(parent) / "workspace"
        shutil.copytree(digits.WORKSPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        path = folder / "plan" / "plan.yaml"
        plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(plan | {"rounds": rounds}, sort_keys=False), encoding="utf-8")
        yield folder


def follow(experiment: ExperimentHandle, stage: Stage, *, rounds: int, crash: bool) -> None:
    """Show how it goes; kill the director on the way if that is asked for."""
    deadly = (rounds + 1) // 2

    def first_result(number: int) -> None:
        if crash and number == deadly:
            click.echo(f"  the director is killed in the middle of round {number} …")
            stage.kill_director()
            stage.start_director()
            click.echo("  … and runs again; the envoys go on by themselves")

    Progress(rounds, click.echo, first_result).follow(experiment.metrics(follow=True))


def last_digest(experiment: ExperimentHandle) -> str:
    """Return the SHA-256 of the last model, as the events tell it."""
    closed = [event for event in experiment.events() if event.kind == "round_closed" and event.details["model"]]
    return str(closed[-1].details["model"])


def report(url: str, name: str, folder: Path) -> None:
    """Show the rounds as SQL has them, and how to ask again."""
    query = QUERY.format(name=name)
    found = asyncio.run(maintenance.query(url, query))
    click.echo(f"\n{query};\n")
    show_table(found.columns, found.rows, empty="no rounds")
    click.echo(f"\nthe same and more: {sys.argv[0]} report rounds --experiment {name} --database {shlex.quote(url)}")
    click.echo(f"logs, database and best.safetensors: {folder}")
