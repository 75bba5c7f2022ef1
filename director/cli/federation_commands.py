"""`director envoys …` and `director why`: questions about the federation, and what operators do with its envoys."""

from typing import TYPE_CHECKING, Any

import click

from director.cli.options import after_option, connected, json_option
from director.cli.output import plain, show_json, show_table, text
from director.cli.stream_output import show_events

if TYPE_CHECKING:
    from director.client import Cursor, Envoy, Federation


class ListedByDefault(click.Group):
    """A group that runs its command `list` when it is called without a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the command in front of its options."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ListedByDefault)
def envoys() -> None:
    """List the envoys, retire and restore them.

    Without a command it is `list`: `director envoys --online`.
    """


@envoys.command("list")
@click.option("--online/--offline", default=None, help="Only envoys that are online, or only those that are not.")
@click.option("--retired", is_flag=True, help="Include retired envoys.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only this envoy; repeatable.")
@json_option
@connected
def list_envoys(
    federation: "Federation", online: bool | None, retired: bool, names: tuple[str, ...], as_json: bool
) -> None:
    """List the envoys and whether they are online."""
    found = federation.envoys(names, online=online, show_retired=retired)
    if as_json:
        show_json([named(each) for each in found])
        return
    headers = ("Envoy", "Online", "Experiment", "Samples", "Sample", "Target", "Last seen (UTC)")
    rows = (row_of(each) + ((each.retired_at,) if retired else ()) for each in found)
    chosen = names or online is not None
    show_table(
        headers + (("Retired (UTC)",) if retired else ()),
        rows,
        empty="no such envoy has registered" if chosen else "no envoy has registered yet",
    )


@envoys.command()
@click.argument("name")
@json_option
@connected
def retire(federation: "Federation", name: str, as_json: bool) -> None:
    """Retire envoy NAME; for operators.

    It is refused, no experiment waits for it, and it cannot register again until it is restored.
    """
    envoy = federation.retire_envoy(name)
    if as_json:
        show_json(named(envoy))
    else:
        click.echo(f"envoy {text(envoy.name)} is retired")


@envoys.command()
@click.argument("name")
@json_option
@connected
def restore(federation: "Federation", name: str, as_json: bool) -> None:
    """Restore envoy NAME, which was retired, so that it may register again; for operators."""
    envoy = federation.restore_envoy(name)
    if as_json:
        show_json(named(envoy))
    else:
        click.echo(f"envoy {text(envoy.name)} is restored")


@envoys.command()
@click.option("--follow", is_flag=True, help="Go on without an end, also while directors stop and start.")
@after_option
@json_option
@connected
def events(federation: "Federation", follow: bool, after: "Cursor | None", as_json: bool) -> None:
    """Print the federation's own events: envoys, directors, restores of the database; for operators.

    With --json it is one list; with --follow too, an object per line as they come.
    """
    show_events(federation.events(after=after, follow=follow), follow=follow, as_json=as_json)


@click.command()
@click.argument("experiment")
@json_option
@connected
def why(federation: "Federation", experiment: str, as_json: bool) -> None:
    """Say what EXPERIMENT (a name or a uid) waits for, most important first."""
    info = federation.experiment(experiment).info
    if as_json:
        show_json({"name": info.name, "state": info.state, "reason": info.reason, "waiting_for": info.waiting_for})
        return
    for sentence in info.waiting_for:
        click.echo(text(sentence))
    if info.reason:
        click.echo(f"the reason given: {text(info.reason)}")


def named(envoy: "Envoy") -> dict[str, Any]:
    """Return an envoy for JSON, with its name in front."""
    return {"name": envoy.name, **plain(envoy)}


def row_of(envoy: "Envoy") -> tuple[Any, ...]:
    """Return an envoy's row in the table of envoys."""
    return (
        envoy.name,
        envoy.online,
        envoy.experiment_name or ("another's" if envoy.experiment_running else ""),
        envoy.shard.samples,
        envoy.shard.sample_shape,
        envoy.shard.target_shape,
        envoy.last_seen_at,
    )
