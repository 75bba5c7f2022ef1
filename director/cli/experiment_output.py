"""How commands print experiments and their collaborators."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from director.cli.output import show_fields, show_json, show_table, text

if TYPE_CHECKING:
    from director.client import Collaborator, Experiment


def show_experiment(info: "Experiment") -> None:
    """Print what is known of an experiment, a line each."""
    best = None if info.best_model is None else f"model {info.best_model}, score {text(info.best_score)}"
    show_fields(
        [
            ("Experiment", info.name),
            ("UID", info.uid),
            ("Owner", info.owner),
            ("State", info.state),
            ("Reason", info.reason),
            ("Waiting for", "; ".join(info.waiting_for)),
            ("Round", round_of(info)),
            ("Best", best),
            ("Last", f"model {info.last_model}"),
            ("Collaborators", counts_of(info)),
            ("Priority", info.priority),
            ("Submitted (UTC)", info.submitted_at),
            ("Started (UTC)", info.started_at),
            ("Finished (UTC)", info.finished_at),
        ]
    )


def round_of(info: "Experiment") -> str:
    """Write how far an experiment has come; behind its last round comes the final validation."""
    if info.round > info.rounds_total and not info.state.terminal:
        return "final validation"
    return f"{min(info.round, info.rounds_total)} of {info.rounds_total}"


def counts_of(info: "Experiment") -> str:
    """Write how many collaborators an experiment has, and how many are in each state."""
    each = ", ".join(f"{number} {state}" for state, number in info.collaborators.items() if number)
    return f"{info.collaborators_count}: {each}" if each else "0"


def show_collaborators(found: "Iterable[Collaborator]") -> None:
    """Print collaborators as a table."""
    show_table(
        ("Collaborator", "State", "Attempt", "Error"),
        ((each.envoy, each.state, each.attempt, each.failure and str(each.failure)) for each in found),
        empty="no collaborators",
    )


def show_outcome(info: "Experiment", *, as_json: bool) -> None:
    """Say what became of an experiment."""
    if as_json:
        show_json(info)
    else:
        click.echo(f"experiment {text(info.name)} is {info.state}")
